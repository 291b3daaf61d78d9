"""How a monitor looks at a prompt and in a notebook."""

from __future__ import annotations

from pathlib import Path

from weibull_monitor.errors import counted, visible
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure.shown import table
from weibull_monitor.model.components import Discovery


class Shown:
    """What `WeibullMonitor` inherits: a short `repr`, and its last sample as a table."""

    last: Snapshot | None
    output_dir: Path
    _step: int
    _closed: bool

    @property
    def discovery(self) -> Discovery:
        """The components that are measured."""
        raise NotImplementedError

    def __repr__(self) -> str:
        state = f"{'closed at ' if self._closed else ''}step {self._step:,}"
        matrices = counted(len(self.discovery.components), "matrix", "matrices")
        return f"{type(self).__name__}({state}, {matrices}: {visible(str(self.output_dir))})"

    def _repr_html_(self) -> str:
        return self.last._repr_html_() if self.last is not None else table(repr(self), [], [])
