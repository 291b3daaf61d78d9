"""How far all matrices of a model move together between two samples."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import ComponentArrays
from weibull_monitor.alerts.statistics import Bools, Floats

OF_ALL: Final = 6
"""Numbers of a `common_movement`."""
MANY: Final = 6
"""Matrices whose median says how a model moves."""


def judged_together(components: ComponentArrays, stepped: Bools) -> Bools:
    """The matrices that say how the model moves, bool, shape (components,).

    Those of attention and feed-forward; all that are trained, without experts and parts, if these are few.

    Args:
        components: The components.
        stepped: Those that an optimizer has moved in the interval, at a known learning rate, shape (components,).
    """
    body = components.body & components.trainable & stepped
    return body if np.count_nonzero(body) >= MANY else components.trainable & ~components.expert & stepped


def common_movement(components: ComponentArrays, stepped: Bools, moved: Floats, work: Floats) -> Floats:
    """The median movements of the matrices of a model between two samples.

    Args:
        components: The components.
        stepped: As for `judged_together`.
        moved: |movement| of each, shape (columns, components), with four columns.
        work: How far the interval can have moved each, as in `SampleWindow`, shape (components,).

    Returns:
        Shape (6,): the medians of the columns and of ``work``, and the number of matrices; NaN where these are fewer than six.
    """
    part = judged_together(components, stepped)
    count = int(np.count_nonzero(part))
    if count < MANY:
        return np.full(OF_ALL, np.nan)
    ordered = np.sort(np.concatenate([moved[:, part], work[None, part]]), axis=1)  # (columns + 1, matrices)
    middle = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2.0
    return np.append(middle, count)
