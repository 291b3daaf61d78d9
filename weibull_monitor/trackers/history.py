"""The history: the embedded record of a run, one JSON object a line, appended and never rewritten.

Line types: ``run`` (a run or its resumption begins: what is measured and how), ``snapshot`` (one sample, in columns aligned
with the components of the last ``run`` line), ``plot`` (what the probability plots are drawn from, at a few of the samples) and
``alert`` (something begins, gets worse or ends). Each line goes out in one
write, so a killed process leaves at most one torn line at the end, which readers skip and the next writer closes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from weibull_monitor.components import Component, Part
from weibull_monitor.errors import ConfigurationError, MissingDependencyError
from weibull_monitor.measure import LEVELS
from weibull_monitor.snapshot import NO_SCALING, Snapshot

if TYPE_CHECKING:
    from weibull_monitor.alerts import Alert

SCHEMA: Final = 1
"""Version of the line format."""
_FIRST: Final = ("k", "lambda", "r2", "k_se", "rms", "zeros", "nonfinite", "eta", "weight_decay")
_LAW: Final = ("effective", "t_over_tau", "lambda_forecast", "lambda_forecast_low", "lambda_forecast_high")
FORCES: Final = ("force_alignment", "force_injection", "force_decay", "force_net", "force_closure")
"""Columns that a line has where forces were asked for."""
COLUMNS: Final = (*_FIRST, *_LAW, "lambda_equilibrium", "eta_sum", "update_max", *FORCES)
"""The columns of a ``snapshot`` line; lines of earlier versions have the first nine, and forces are there when asked for."""
PLOTTED: Final = 2000
"""With more components than this, single experts have no probability plot in the history."""
_NUMBERS: Final = frozenset({int, float, type(None)})
"""What a column may hold."""
_MALFORMED: Final = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a line raises that is JSON and not a line of a history."""
FILE: Final = Path("weibull") / "history.jsonl"
"""Where the history lies within a run's directory."""


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
        attention: Every kind of attention of the model, as `weibull_monitor.components.AttentionType` has it.
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
    version: str
    schema: int = SCHEMA
    attention: Sequence[Mapping[str, Any]] = ()
    optimizers: Sequence[Mapping[str, Any]] = ()
    total_steps: int | None = None


class HistoryWriter:
    """Appends to the history of a run's directory.

    Args:
        output_dir: The run's directory; created if need be.

    Raises:
        ConfigurationError: If the file cannot be opened for appending.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644
            )
            size = os.fstat(self._fd).st_size
            if size and _last_byte(self._fd, size) != b"\n":
                os.write(self._fd, b"\n")  # closes the line that a killed process left torn
        except OSError as error:
            raise ConfigurationError(
                f"the history cannot be written to {self.path}: {error.strerror}; pass another output_dir"
            ) from error

    def write_run(self, record: RunRecord) -> None:
        """Writes a ``run`` line."""
        line = asdict(replace(record, components=())) | {
            "components": [_component_to_json(c) for c in record.components]
        }
        self._write({"type": "run"} | line)

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Writes a ``snapshot`` line; values that do not exist are null."""
        written = COLUMNS if snapshot.forces else COLUMNS[: -len(FORCES)]
        columns: dict[str, list[float | None]] = {column: [] for column in written}
        for component in snapshot.components:
            fit = snapshot.fits.get(component.name)
            scaling = snapshot.scaling.get(component.name, NO_SCALING)
            row: dict[str, float | None] = {"eta": scaling.eta, "weight_decay": scaling.weight_decay}
            row |= {"effective": scaling.effective, "t_over_tau": scaling.t_over_tau}
            if foretold := scaling.forecast:
                row |= {"lambda_forecast": foretold.value, "lambda_forecast_low": foretold.low}
                row["lambda_forecast_high"] = foretold.high
            row["lambda_equilibrium"] = scaling.equilibrium.value if scaling.equilibrium else None
            row |= {"eta_sum": scaling.eta_sum, "update_max": scaling.update_max}
            if fit is not None:
                row |= {"zeros": fit.zeros, "nonfinite": fit.nonfinite, "rms": fit.rms}
                row |= {"k": fit.k, "lambda": fit.lambda_, "r2": fit.r2, "k_se": fit.k_se}
            if forces := snapshot.forces.get(component.name):
                row |= {f"force_{name}": value for name, value in asdict(forces).items()}
            for column in written:
                columns[column].append(_rounded(row.get(column)))
        line = {
            "type": "snapshot",
            "step": snapshot.step,
            "time": round(snapshot.time, 3),
            "seconds": _rounded(snapshot.seconds),
            "withheld": snapshot.withheld,
        }
        self._write(line | columns)

    def write_plot(self, snapshot: Snapshot) -> None:
        """Writes a ``plot`` line: the quantiles of each component, to five significant digits."""
        all_of_them = len(snapshot.components) <= PLOTTED
        rows: list[list[float] | None] = []
        for component in snapshot.components:
            fit = snapshot.fits.get(component.name)
            shown = fit is not None and fit.quantiles and (all_of_them or component.expert is None)
            rows.append([float(f"{value:.5g}") for value in fit.quantiles] if fit is not None and shown else None)
        self._write({"type": "plot", "step": snapshot.step, "levels": LEVELS, "quantiles": rows})

    def write_alert(self, alert: Alert) -> None:
        """Writes an ``alert`` line."""
        self._write({"type": "alert"} | alert.to_json())

    def close(self) -> None:
        """Closes the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._fd is None:
            raise ConfigurationError(f"the history {self.path} is closed")
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        while data:  # a write to a regular file is whole but for a full disk, which raises on the second attempt
            data = data[os.write(self._fd, data) :]


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


def read_history(path: str | Path) -> History:
    """Reads the history of a run.

    Args:
        path: The run's directory, or the ``history.jsonl`` itself.

    Returns:
        The last run in the file, with its resumptions. Lines that are torn, of a type unknown here, or samples that do not fit
        their run are passed over.

    Raises:
        FileNotFoundError: If there is no history there.
        ConfigurationError: If it was written by a newer version, or is something else than a history.
    """
    given = Path(path)
    file = next((f for f in (given, given / FILE, given / FILE.name) if f.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"no history at {given}: neither a file, nor {given / FILE}")
    runs: list[RunRecord] = []
    snapshots: dict[int, RecordedSnapshot] = {}
    plots: dict[int, RecordedPlot] = {}
    alerts: list[Alert] = []
    for line in _lines(file):
        if line.get("type") == "run":
            run = run_from_json(line, file)
            if run.resumed_from is None:
                runs, snapshots, plots, alerts = [], {}, {}, []
            else:  # what was sampled after the checkpoint that is resumed from belongs to a branch that was given up
                snapshots = {step: s for step, s in snapshots.items() if step <= run.resumed_from}
                plots = {step: p for step, p in plots.items() if step <= run.resumed_from}
                alerts = [alert for alert in alerts if alert.step <= run.resumed_from]
            runs.append(run)
        elif line.get("type") == "snapshot" and runs:
            if (snapshot := snapshot_from_json(line, runs[-1].components)) is not None:
                snapshots[snapshot.step] = snapshot
        elif line.get("type") == "plot" and runs:
            if (plot := _plot_from_json(line, runs[-1].components)) is not None:
                plots[plot.step] = plot
        elif line.get("type") == "alert" and runs:
            alerts += alerts_from_json(line)
    sampled, plotted = (tuple(by_step[step] for step in sorted(by_step)) for by_step in (snapshots, plots))
    return History(file, tuple(runs), sampled, tuple(alerts), plotted)  # type: ignore[arg-type]


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:  # torn by a kill; UnicodeDecodeError is one too
                continue
            if isinstance(value, dict):
                yield value


def snapshot_from_json(line: Mapping[str, Any], components: tuple[Component, ...]) -> RecordedSnapshot | None:
    """The sample of a ``snapshot`` line, given the components of the ``run`` line before it; None if they do not fit."""
    absent = [None] * len(components)  # of a line that was written before a column was added
    try:
        columns = {name: tuple(line[name] if name in _FIRST else line.get(name, absent)) for name in COLUMNS}
        step, time = index(line["step"]), float(line["time"])
    except _MALFORMED:
        return None
    if any(len(values) != len(components) or not _NUMBERS.issuperset(map(type, values)) for values in columns.values()):
        return None
    withheld, seconds = line.get("withheld", {}), line.get("seconds")
    return RecordedSnapshot(step, time, components, columns, withheld, seconds)


def _plot_from_json(line: Mapping[str, Any], components: tuple[Component, ...]) -> RecordedPlot | None:
    """What a ``plot`` line draws from, given the components of the ``run`` line before it; None if they do not fit."""
    try:
        quantiles = tuple(None if row is None else tuple(row) for row in line["quantiles"])
        plot = RecordedPlot(index(line["step"]), components, tuple(line["levels"]), quantiles)
    except _MALFORMED:
        return None
    return plot if len(quantiles) == len(components) else None


def run_from_json(line: Mapping[str, Any], file: Path) -> RunRecord:
    """The record of a ``run`` line.

    Args:
        line: The line.
        file: The history, for what is said of it.

    Raises:
        ConfigurationError: If it was written by a newer version, or is not the line of a history.
    """
    try:
        if line["schema"] > SCHEMA:
            raise ConfigurationError(
                f"{file} has schema {line['schema']}, this version reads up to {SCHEMA}; upgrade weibull-monitor"
            )
        known = {name: line[name] for name in RunRecord.__dataclass_fields__ if name in line}
        resumed = None if line["resumed_from"] is None else index(line["resumed_from"])
        components = tuple(_component_from_json(component) for component in line["components"])
        return RunRecord(**known | {"resumed_from": resumed, "components": components})
    except ConfigurationError:
        raise
    except _MALFORMED as error:
        raise ConfigurationError(
            f"{file} is no history ({type(error).__name__}: {error}); name one that a monitored run wrote"
        ) from error


def alerts_from_json(line: Mapping[str, Any]) -> list[Alert]:
    """The alert of a line; none if it lacks what this version knows of an alert."""
    from weibull_monitor.alerts.finding import alert_from_json

    try:
        alert = alert_from_json(line)
        index(alert.step)  # whose place is among the samples
    except _MALFORMED:
        return []
    return [alert]


def _component_to_json(component: Component) -> dict[str, Any]:
    dtype = str(component.dtype).removeprefix("torch.")
    return asdict(component) | {"component_class": component.component_class, "dtype": dtype}


def _component_from_json(value: Mapping[str, Any]) -> Component:
    known = {name: value[name] for name in Component.__dataclass_fields__ if name in value}
    if part := known.get("part"):
        ranges = tuple((start, stop) for start, stop in part["ranges"])
        known["part"] = Part(part["label"], tuple(part["view"]), ranges, part["within"])
    return Component(**known | {"shape": tuple(value["shape"]), "dtype": getattr(torch, value["dtype"])})


def _rounded(value: float | None) -> float | None:
    """Nine significant digits, far below the sampling noise of the largest matrix; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.9g}")


def _last_byte(fd: int, size: int) -> bytes:
    os.lseek(fd, size - 1, os.SEEK_SET)
    return os.read(fd, 1)
