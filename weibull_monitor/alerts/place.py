"""Where a window of samples stands: what it remembers beside the samples themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from weibull_monitor.alerts.statistics import Bools, Floats


class Withheld(NamedTuple):
    """What the optimizers say of how they step, at the latest sample, as the reasons of the scaling law have it.

    Attributes:
        coupled: Number of components whose weight decay is in a gradient that is normalised.
        scaled: Number of components whose steps are scaled by the norm of the weights.
        not_eta: Number of components whose steps do not have the size η.
        own_rate: 1 if optimizers choose η of most components by themselves; else 0.
    """

    coupled: Any = 0
    scaled: Any = 0
    not_eta: Any = 0
    own_rate: Any = 0

    @staticmethod
    def of(reasons: Mapping[Any, int], components: int) -> Withheld:
        """What the reasons why components have no forecast say, with the number of components for each, and of all."""
        return Withheld(
            coupled=reasons.get("coupled_weight_decay", 0),
            scaled=reasons.get("step_scaled_by_weight", 0),
            not_eta=reasons.get("step_not_eta", 0),
            own_rate=int(2 * reasons.get("own_learning_rate", 0) > components),
        )


class Place(NamedTuple):
    """What a `SampleWindow` has been through up to a sample: attributes of the same names, and the end of the last ones."""

    end: int
    steps: list[int]
    samples: int
    reset: tuple[int, int]
    peak: Floats
    settled: Bools
    plateau: Floats
    speed: float
    fastest: float
    moving_intervals: int
    withheld: Withheld
