"""Writes a history: one JSON object a line, appended and never rewritten."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.record import COLUMNS, FILE, FORCES, RunRecord
from weibull_monitor.history.snapshot import NO_SCALING, Snapshot
from weibull_monitor.measure import LEVELS
from weibull_monitor.model.components import Component

PLOTTED: Final = 2000
"""With more components than this, single experts have no probability plot in the history."""


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


def _component_to_json(component: Component) -> dict[str, Any]:
    dtype = str(component.dtype).removeprefix("torch.")
    return asdict(component) | {"component_class": component.component_class, "dtype": dtype}


def _rounded(value: float | None) -> float | None:
    """Nine significant digits, far below the sampling noise of the largest matrix; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.9g}")


def _last_byte(fd: int, size: int) -> bytes:
    os.lseek(fd, size - 1, os.SEEK_SET)
    return os.read(fd, 1)
