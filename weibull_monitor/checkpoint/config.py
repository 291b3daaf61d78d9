"""The model that a checkpoint's configuration describes, built without weights, if the configuration is a sane one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from torch import nn

from weibull_monitor.checkpoint.formats.files import opened, parse_json, read_at
from weibull_monitor.checkpoint.formats.locate import Source
from weibull_monitor.errors import CheckpointError, ConfigurationError, MissingDependencyError

MAX_CONFIG: Final = 1 << 20
"""Bytes of a configuration that are read."""
MAX_REPEATED: Final = 2_000
"""How many layers, blocks, stages or experts a configuration may ask for."""
_REPEATED: Final = re.compile(r"(?i)(?:layers?|blocks?|depths?|stages?|experts?)$")


class Models:
    """Models on the meta device by their configuration, so that the checkpoints of a run share one.

    Args:
        config: What the user named; by default what lies beside each checkpoint.
    """

    def __init__(self, config: str | Path | None) -> None:
        self._config = config
        self._built: dict[bytes, tuple[nn.Module | None, tuple[str, ...]]] = {}

    def of(self, source: Source) -> tuple[nn.Module | None, tuple[str, ...]]:
        """The model of a checkpoint, or None and why there is none."""
        if self._config is not None:
            key = str(self._config).encode()
            if key not in self._built:
                from weibull_monitor.model.meta_device import build

                self._built[key] = (build(str(self._config)), ())
            return self._built[key]
        if source.config is None:
            return None, ()
        try:
            key = _checked(source.config / "config.json")
        except CheckpointError as error:
            return None, (f"its config.json is not used: {error}",)
        if key not in self._built:
            self._built[key] = _built(source.config)
        return self._built[key]


def _built(folder: Path) -> tuple[nn.Module | None, tuple[str, ...]]:
    from weibull_monitor.model.meta_device import build

    try:
        return build(str(folder)), ()
    except (ConfigurationError, MissingDependencyError) as error:
        return None, (f"its config.json is not used: {str(error).splitlines()[0][:200]}",)


def _checked(path: Path) -> bytes:
    """The bytes of a configuration that asks for a model of a size that there may be.

    Raises:
        CheckpointError: If it does not.
    """
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size > MAX_CONFIG:
            raise CheckpointError(f"it has {size:,} bytes")
        data = read_at(fd, 0, size, path)
    stack: list[tuple[str, Any]] = [("", parse_json(data, path))]
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
    return data
