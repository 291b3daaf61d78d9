"""k and λ where a matrix began, from the distribution that it was drawn from."""

from __future__ import annotations

import math
from functools import lru_cache

from weibull_monitor.history.snapshot import Reference
from weibull_monitor.measure.weibull import Anchor, anchor, anchors, normal_quantile
from weibull_monitor.model.initial_scale import InitialScale


@lru_cache(maxsize=64)
def reference_of(drawn: InitialScale) -> Reference:
    """k and λ of a matrix drawn from a distribution.

    >>> reference = reference_of(InitialScale("normal", 0.02))
    >>> round(reference.k, 4), round(reference.lambda_, 5)
    (1.2054, 0.01775)
    """
    if drawn.kind == "uniform":
        found = anchors()["uniform"]
    elif drawn.kind == "normal" or drawn.cut > 6.0:
        found = anchors()["normal"]
    else:
        found = _truncated(drawn.cut)
    return Reference(found.k, found.lambda_ * drawn.scale)


def _truncated(cut: float) -> Anchor:
    half = math.erf(cut / math.sqrt(2.0)) / 2.0
    return anchor(lambda f: normal_quantile(0.5 + f * half))
