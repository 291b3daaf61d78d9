"""The alignment force of a trajectory of checkpoints, as a table by kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.report.kinds import by_kind
from weibull_monitor.report.text.table import Line, aligned
from weibull_monitor.scaling.recovery import LEAST, recovered_alignment

SHOWN = 8


def recovery_lines(snapshots: Sequence[RecordedSnapshot], eta: Sequence[float], weight_decay: float) -> list[Line]:
    """Alignment and injection of each kind, in percent of ‖w‖² per 1,000 steps: medians over its matrices.

    Args:
        snapshots: The checkpoints, by rising step.
        eta: η at each.
        weight_decay: λ_wd.
    """
    if len(snapshots) < LEAST:
        text = f"alignment: {len(snapshots)} checkpoints are too few for a curve through ‖w‖²; {LEAST} are needed"
        return [[(text, "dim")]]
    steps, columns = [s.step for s in snapshots], [s.values("rms") for s in snapshots]
    places = sorted({round(n) for n in np.linspace(0, len(steps) - 1, min(SHOWN, len(steps)))})
    rows = [["step", *(f"{steps[place]:,}" for place in places)]]
    for kind, members in by_kind(snapshots[-1].components).items():
        names = [c.name for c in members if all(column.get(c.name, 0.0) > 0 for column in columns)]
        if names:
            rms = np.array([[column[name] for name in names] for column in columns])  # (checkpoints, matrices)
            found = np.median(recovered_alignment(steps, rms, eta, weight_decay), axis=1)
            rows.append([kind, *(f"{1e5 * found[place]:+.1f}" for place in places)])
    legend = (
        "alignment and injection, in % of ‖w‖² per 1,000 steps: slope of a spline through ln‖w‖², and decay added back"
    )
    return [*aligned(rows, right=range(1, len(places) + 1)), [(legend, "dim")]]
