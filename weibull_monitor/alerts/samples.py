"""The values of a sample that rules read."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.statistics import Floats, rounded
from weibull_monitor.history.record import RecordedSnapshot, as_array
from weibull_monitor.history.snapshot import Snapshot

Sample = Snapshot | RecordedSnapshot
"""A sample: live, or of a history."""

READ: Final = (
    *("k", "lambda", "r2", "k_se", "rms", "zeros", "nonfinite"),
    *("eta", "weight_decay", "eta_sum", "update_max", "update_ratio"),
    *("element_max", "largest"),
    *("step_rms", "written", "written_rms", "state_written", "written_after", "expected_after"),
)
"""The recorded columns that rules read."""


def values_of(sample: Sample) -> Floats:
    """The columns `READ` of a sample, (columns, components), NaN where there is no value.

    They are rounded as the history rounds them, so that live and replayed values are the same.
    """
    values = (
        np.stack([sample.array(name) for name in READ])
        if isinstance(sample, Snapshot)
        else as_array(sample.columns, READ)
    )
    values = np.where(np.isfinite(values), values, np.nan)
    first = values[:, :1]
    one = ((values == first) | np.isnan(values) & np.isnan(first)).all(axis=1) & (values.shape[1] > 0)  # (columns,)
    values[one], values[~one] = rounded(first[one]), rounded(values[~one])
    return values
