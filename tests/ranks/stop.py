"""A training that an alert stops; run on each rank by `launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broken_trainer import hf


def stopped(directory: Path) -> dict[str, Any]:
    """Where this rank has stopped, and whether it is the one that writes."""
    run, callback = hf(directory / "run", stop_on="error")
    run.train()
    assert callback.monitor.is_main == run.is_world_process_zero()
    return {"is main": callback.monitor.is_main, "step": run.state.global_step}
