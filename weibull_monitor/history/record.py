"""What a history holds, as values: the record of a run, its samples, its probability plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history.alert import Alert
from weibull_monitor.model.components import Component

SCHEMA: Final = 1
"""Version of the line format."""
FIRST_COLUMNS: Final = ("k", "lambda", "r2", "k_se", "rms", "zeros", "nonfinite", "eta", "weight_decay")
"""The columns that lines of every version have."""
_LAW_COLUMNS: Final = ("effective", "t_over_tau", "lambda_forecast", "lambda_forecast_low", "lambda_forecast_high")
FORCES: Final = ("force_alignment", "force_injection", "force_decay", "force_net", "force_closure")
"""Columns that a line has where forces were asked for."""
COLUMNS: Final = (*FIRST_COLUMNS, *_LAW_COLUMNS, "lambda_equilibrium", "eta_sum", "update_max", *FORCES)
"""The columns of a ``snapshot`` line; lines of earlier versions have the first nine, and forces are there when asked for."""
FILE: Final = Path("weibull") / "history.jsonl"
"""Where the history lies within a run's directory."""


@cache
def installed_version() -> str:
    """The version of weibull-monitor that is installed."""
    return metadata.version("weibull-monitor")


@dataclass(frozen=True)
class RunRecord:
    """The beginning of a run, or of its resumption.

    Attributes:
        started: Unix time, in seconds.
        resumed_from: Optimizer steps taken before a resumption; None where a new run begins.
        model: What the model is: its class, and whatever else identifies it.
        world_size: Number of processes.
        protocol: How the fits are made.
        components: What is measured.
        skipped: Names of what is not, with reasons.
        version: Version of weibull-monitor.
        schema: Version of the line format.
        attention: Every kind of attention of the model, as `weibull_monitor.model.components.AttentionType` has it.
        optimizers: The class of each optimizer, and the hyper-parameters of its groups.
        total_steps: Optimizer steps that the whole run is to have, if known.
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


@dataclass(frozen=True)
class RecordedSnapshot:
    """One sample as the history holds it.

    Attributes:
        step: Optimizer steps taken.
        time: Unix time, in seconds.
        components: What the columns are aligned with.
        columns: One value a component for each of `COLUMNS`; None where there is none.
        withheld: Why components have no forecast of λ, and how many for each reason.
        seconds: Wall time that measuring took, in seconds; None in lines of earlier versions.
    """

    step: int
    time: float
    components: tuple[Component, ...]
    columns: Mapping[str, tuple[float | None, ...]]
    withheld: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None

    def values(self, column: str) -> dict[str, float]:
        """The values of a column that exist, by component name."""
        return {
            component.name: value
            for component, value in zip(self.components, self.columns[column], strict=True)
            if value is not None
        }


@dataclass(frozen=True)
class RecordedPlot:
    """What the probability plots of one sample are drawn from.

    Attributes:
        step: Optimizer steps taken.
        components: What ``quantiles`` is aligned with.
        levels: Shares F of the fitted values, rising.
        quantiles: ln|w| at these shares, for each component; None where there are none.
    """

    step: int
    components: tuple[Component, ...]
    levels: tuple[float, ...]
    quantiles: tuple[tuple[float, ...] | None, ...]

    def of(self, component: str) -> tuple[float, ...] | None:
        """The quantiles of one component, by name; None if it has none."""
        return next((q for c, q in zip(self.components, self.quantiles, strict=True) if c.name == component), None)


@dataclass(frozen=True)
class History:
    """The last run of a history file: resumptions belong to it, runs that began anew in the same place replace it.

    Attributes:
        path: The file.
        runs: Its beginning and every resumption.
        snapshots: Its samples, one a step, by rising step. A resumption replaces what had been sampled after its checkpoint.
        alerts: What was told of them, in order; a resumption replaces these too.
        plots: What the probability plots of some of the samples are drawn from, by rising step.
    """

    path: Path
    runs: tuple[RunRecord, ...]
    snapshots: tuple[RecordedSnapshot, ...]
    alerts: tuple[Alert, ...] = ()
    plots: tuple[RecordedPlot, ...] = ()

    @property
    def components(self) -> tuple[Component, ...]:
        """What was measured last."""
        return self.runs[-1].components if self.runs else ()

    @property
    def baseline(self) -> RecordedSnapshot | None:
        """The sample before the first step, if there is one."""
        return self.snapshots[0] if self.snapshots and self.snapshots[0].step == 0 else None

    def series(self, component: str, column: str = "k") -> list[tuple[int, float]]:
        """(step, value) of one component and column, where there is a value."""
        pairs = [(snapshot.step, snapshot.values(column).get(component)) for snapshot in self.snapshots]
        return [(step, value) for step, value in pairs if value is not None]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` in long form: a row a sample and component, with its name, kind, class and block.

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
