"""The contents of a history as values: the record of a run, its samples, its probability plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.errors import MissingDependencyError, counted, visible
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.columns import COLUMNS, COUNTS, unknown
from weibull_monitor.history.shown import in_words, kinds_html
from weibull_monitor.measure.shown import table
from weibull_monitor.model.components import Component
from weibull_monitor.version import installed_version

SCHEMA: Final = 1
"""Version of the line format."""
FILE: Final = Path("weibull") / "history.jsonl"
"""The history file within a run's directory."""


@dataclass(frozen=True)
class RunRecord:
    """What is known when a run begins or is resumed.

    Attributes:
        started: Unix time, in seconds.
        resumed_from: Optimizer steps taken before a resumption; None where a new run begins.
        model: The class of the model, its number of parameters, and other facts about it.
        world_size: Number of processes.
        protocol: How the fits are made.
        components: The components that are measured.
        skipped: The reason for each parameter that is not measured, by name.
        version: Version of weibull-monitor.
        schema: Version of the line format.
        attention: Every kind of attention in the model, with the fields of `weibull_monitor.model.components.AttentionType`.
        optimizers: The class of each optimizer, and the hyper-parameters of its groups.
        total_steps: Planned optimizer steps of the whole run, if known.
        name: Name of the model among several in one run; None if there is only one.
        trial: Name of the trial, in the list of the trials of a search; None in a history that holds samples.
        history: Where the history of that trial is, relative to the directory of the search.
        continues: What became of the file that held the run so far, if it was lost while the run was going on.
    """

    started: float
    resumed_from: int | None
    model: Mapping[str, Any]
    world_size: int
    protocol: Mapping[str, Any]
    components: tuple[Component, ...]
    skipped: Mapping[str, str]
    version: str = field(default_factory=installed_version)
    schema: int = SCHEMA
    attention: Sequence[Mapping[str, Any]] = ()
    optimizers: Sequence[Mapping[str, Any]] = ()
    total_steps: int | None = None
    name: str | None = None
    trial: str | None = None
    history: str | None = None
    continues: str | None = None

    def __repr__(self) -> str:
        begun = f"resumed from step {self.resumed_from:,}" if self.resumed_from is not None else "from the beginning"
        what = self.model.get("class") or "model"
        return f"RunRecord({what}, {counted(len(self.components), 'matrix', 'matrices')}, {begun})"


class ColumnTable(Mapping[str, tuple["float | None", ...]]):
    """The columns of a sample by name, kept as one array.

    Args:
        numbers: float64, (columns, components), in the order of `weibull_monitor.history.columns.COLUMNS`; NaN for no value.
    """

    __slots__ = ("numbers",)

    def __init__(self, numbers: npt.NDArray[np.float64]) -> None:
        self.numbers = numbers

    def __getitem__(self, name: str) -> tuple[float | None, ...]:
        """One value per component; None where there is no value."""
        row: list[float] = self.numbers[_PLACES[name]].tolist()
        if name in COUNTS:
            return tuple(None if value != value else int(value) if value.is_integer() else value for value in row)
        return tuple(None if value != value else value for value in row)

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)

    def array(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Some of the columns, (columns, components), NaN where there is no value."""
        return self.numbers[[_PLACES[name] for name in names]]


_PLACES: Final = {name: place for place, name in enumerate(COLUMNS)}


@dataclass(frozen=True)
class RecordedSnapshot:
    """One sample, as read from a history.

    Attributes:
        step: Optimizer steps taken.
        time: Unix time, in seconds.
        components: The components, in the order of the columns.
        columns: For each of `weibull_monitor.history.columns.COLUMNS` one value per component; None where there is no value.
        withheld: The reasons why components have no forecast of λ, and the number of components for each.
        seconds: Wall time of the measurement, in seconds; None in lines of earlier versions.
        model: What the run's record says of the model.
    """

    step: int
    time: float
    components: tuple[Component, ...]
    columns: Mapping[str, tuple[float | None, ...]]
    withheld: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return in_words(self)

    def _repr_html_(self) -> str:
        return kinds_html(f"k and λ at step {self.step:,}", [self])

    def values(self, column: str) -> dict[str, float]:
        """The values of a column that exist, by component name.

        Raises:
            KeyError: If there is no such column.
        """
        if column not in self.columns:
            raise KeyError(unknown("column", column, self.columns))
        pairs = zip(self.components, self.columns[column], strict=True)
        return {component.name: value for component, value in pairs if value is not None}


def as_array(columns: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Some columns of a sample as one array, (columns, components), NaN where there is no value."""
    if isinstance(columns, ColumnTable):
        return columns.array(names)
    return np.array([columns[name] for name in names], dtype=np.float64)


@dataclass(frozen=True)
class RecordedPlot:
    """The quantiles of one sample, for probability plots.

    Attributes:
        step: Optimizer steps taken.
        components: The components, in the order of ``quantiles``.
        levels: Rising levels F of the empirical distribution of |w|.
        quantiles: For each component ln|w| at these levels; None where there are none.
    """

    step: int
    components: tuple[Component, ...]
    levels: tuple[float, ...]
    quantiles: tuple[tuple[float, ...] | None, ...]

    def __repr__(self) -> str:
        return in_words(self)

    def of(self, component: str) -> tuple[float, ...] | None:
        """The quantiles of one component, by name; None if it has none."""
        return next((q for c, q in zip(self.components, self.quantiles, strict=True) if c.name == component), None)


@dataclass(frozen=True)
class History:
    """The last run in a history file, with its resumptions. A new run in the same file replaces the one before.

    A resumption replaces what was recorded after its checkpoint.

    Attributes:
        path: The file.
        runs: The record of its beginning and of every resumption.
        snapshots: Its samples, one per step, by rising step.
        alerts: Its alerts, in the order in which they were sent.
        plots: The quantiles of some of the samples, by rising step.
        unreadable: Number of lines of the file that cannot be read. A last line without an end is still being written.
    """

    path: Path
    runs: tuple[RunRecord, ...]
    snapshots: tuple[RecordedSnapshot, ...]
    alerts: tuple[Alert, ...] = ()
    plots: tuple[RecordedPlot, ...] = ()
    unreadable: int = 0

    def __repr__(self) -> str:
        return f"History({self._in_words()}: {visible(str(self.path))})"

    def _repr_html_(self) -> str:
        if not self.snapshots:
            return table(self._in_words(), [], [])
        ends = self.snapshots[:: max(1, len(self.snapshots) - 1)]
        alerts = [[alert.step, alert.finding.severity, alert.text] for alert in self.alerts]
        shown = table("alerts", ["step", "severity", ""], alerts) if alerts else ""
        return kinds_html(self._in_words(), ends) + shown

    def _in_words(self) -> str:
        steps = f"steps {self.snapshots[0].step:,} to {self.snapshots[-1].step:,}, " if self.snapshots else ""
        many = [(len(self.snapshots), "sample", ""), (len(self.components), "matrix", "matrices")]
        return steps + ", ".join(counted(*one) for one in [*many, (len(self.alerts), "alert", "")])

    @property
    def components(self) -> tuple[Component, ...]:
        """The components that were measured last."""
        return self.runs[-1].components if self.runs else ()

    @property
    def baseline(self) -> RecordedSnapshot | None:
        """The sample before the first step; None if there is none."""
        return self.snapshots[0] if self.snapshots and self.snapshots[0].step == 0 else None

    def series(self, component: str, column: str = "k") -> list[tuple[int, float]]:
        """(step, value) of one component and column, where there is a value.

        Args:
            component: Name of a component, of any part of the run.
            column: One of `weibull_monitor.history.columns.COLUMNS`.

        Raises:
            KeyError: If the run has no such component or column; the message says which names are near.
        """
        if column not in COLUMNS:
            raise KeyError(unknown("column", column, COLUMNS))
        # Samples of one part of the run share one tuple of components: look at each once.
        every = [*(s.components for s in self.snapshots), *(r.components for r in self.runs)]
        parts = {id(components): components for components in every}
        known = dict.fromkeys(c.name for components in parts.values() for c in components)
        if component not in known:
            raise KeyError(unknown("component", component, known))
        pairs = [(snapshot.step, snapshot.values(column).get(component)) for snapshot in self.snapshots]
        return [(step, value) for step, value in pairs if value is not None]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` in long form: one row per sample and component, with its name, kind, class and block.

        Raises:
            MissingDependencyError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError("pandas", "report") from error
        frames = [
            pd.DataFrame(
                {
                    "step": snapshot.step,
                    "time": snapshot.time,
                    "name": [c.name for c in snapshot.components],
                    "kind": [c.label for c in snapshot.components],
                    "component_class": [c.component_class for c in snapshot.components],
                    "block": pd.array([c.block for c in snapshot.components], dtype="Int64"),
                    **{name: pd.array(values, dtype="Float64") for name, values in snapshot.columns.items()},
                }
            )
            for snapshot in self.snapshots
        ]
        columns = ["step", "time", "name", "kind", "component_class", "block", *COLUMNS]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
