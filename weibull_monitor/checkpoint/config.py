"""Builds the model that a checkpoint's ``config.json`` describes, without weights, after checking what it asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from torch import nn

from weibull_monitor.checkpoint.formats.files import read_json
from weibull_monitor.checkpoint.formats.locate import CheckpointSource
from weibull_monitor.errors import CheckpointError, ConfigurationError, MissingDependencyError

MAX_CONFIG: Final = 1 << 20
"""Most bytes that a configuration may have."""
MAX_REPEATED: Final = 2_000
"""Most layers, blocks, stages or experts that a configuration may ask for."""
_REPEATED: Final = re.compile(r"(?i)(?:layers?|blocks?|depths?|stages?|experts?)$")


class ModelCache:
    """Models on the meta device, one for each configuration, so that the checkpoints of a run share one.

    Args:
        config: The configuration that the user named; by default the one beside each checkpoint is used.
    """

    def __init__(self, config: str | Path | None) -> None:
        self._config = config
        self._built: dict[str, tuple[nn.Module | None, tuple[str, ...]]] = {}

    def get(self, source: CheckpointSource) -> tuple[nn.Module | None, tuple[str, ...]]:
        """The model of a checkpoint, or None, and notes that say why its configuration is not used."""
        from weibull_monitor.model.meta_device import build

        if self._config is not None:
            key = str(self._config)
            if key not in self._built:
                self._built[key] = build(key), ()
            return self._built[key]
        if source.config is None:
            return None, ()
        try:
            key = json.dumps(_read_config(source.config / "config.json"))
            if key not in self._built:
                self._built[key] = build(str(source.config)), ()
            return self._built[key]
        except (CheckpointError, ConfigurationError, MissingDependencyError) as error:
            return None, (f"its config.json is not used: {str(error).splitlines()[0][:200]}",)


def _read_config(path: Path) -> dict[str, Any]:
    """A configuration, unless it asks for a model larger than any there is.

    Raises:
        CheckpointError: If it does, or cannot be read.
    """
    config = read_json(path, MAX_CONFIG)
    stack: list[tuple[str, Any]] = [("", config)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            if len(value) > 4 * MAX_REPEATED and _REPEATED.search(name):
                raise CheckpointError(f"{name[:40]} has {len(value):,} entries")
            stack += [(name, entry) for entry in value]
        elif isinstance(value, (int, float)) and value > MAX_REPEATED and _REPEATED.search(name):
            raise CheckpointError(f"{name[:40]} is {json.dumps(value)[:40]}, more than any model has")
    return config
