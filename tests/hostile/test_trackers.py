"""Names that libraries refuse: they get others, and lose nothing else."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

import pytest
from stores import mlflow_curves, tensorboard_curves, trackio_curves, wandb_curves
from torch import nn

from hostile.mutations import NASTY_TEXT
from weibull_monitor import WeibullMonitor
from weibull_monitor.errors import visible
from weibull_monitor.trackers.names import CleanKeys

NAMES = [name for name in NASTY_TEXT if name and "." not in name and "\0" not in name] + [
    "x" * 300,
    "a//b",
    "/",
    "a b",
    "ü日",
]


def model() -> nn.Module:
    made = nn.ModuleDict()
    for name in NAMES:
        made._modules[name] = nn.ModuleDict({"q_proj": nn.Linear(12, 12)})
    return made


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow", "trackio"])
@pytest.mark.parametrize("name", [os.fsdecode(b"no-utf8-\xff"), "a\n\x1b[2J"])
def test_every_curve_is_there(
    tracker: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker)
    monkeypatch.setenv("WANDB_MODE", "offline")
    name = name + uuid.uuid4().hex[:6]
    with WeibullMonitor(model(), output_dir=tmp_path / name, detail="component", trackers=[tracker]) as monitor:
        monitor.step()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [line for line in said if "failed" in line]
    assert len([line for line in said if "does not take" in line or "not UTF-8" in line]) <= 1
    if tracker == "mlflow":
        curves = mlflow_curves(visible(name))
    elif tracker == "trackio":
        curves = trackio_curves(visible(name))
    else:
        where = tmp_path / visible(name) if "utf8" in name else tmp_path / name
        curves = tensorboard_curves(where) if tracker == "tensorboard" else wandb_curves(where)
    shapes = [key for key in curves if key.startswith("weibull_component/") and "/k" in key]
    assert len(shapes) >= len(NAMES)
    assert "weibull_k/attn_q" in curves


def test_names_stay_apart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = [f"a/{name}/k" for name in ("..", "__", "_.", "x" * 400 + "1", "x" * 400 + "2", "", ".")]
    clean = CleanKeys("X")
    found = [clean(dict.fromkeys(keys, 1.0)) for _ in range(2)]
    assert found[0] == found[1]
    assert len(found[0]) == len(keys)
    assert all(len(key) <= 250 and not {"", ".", ".."} & {*key.split("/")} for key in found[0])
    assert len(caplog.messages) == 1
