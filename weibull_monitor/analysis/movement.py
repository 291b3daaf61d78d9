"""How far matrices have moved from where they began, each tested against its own start with its own standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from weibull_monitor.analysis.sample import ComparedSample
from weibull_monitor.measure.weibull import anchors

ERRORS: Final = 4.0
"""Standard errors that k or ln λ must differ by from an initialisation."""
SHARED: Final = 2.0
"""The same from a baseline of the run, whose values have much of the error in common."""
LEAST: Final = 0.003
"""Relative difference below which nothing counts as a movement: fits are exact to 1e-4, configurations to less."""
CHANCE: Final = 0.05
"""Share of the matrices of a kind that may seem to have moved by chance."""


@dataclass(frozen=True)
class Movement:
    """How many matrices of a kind have moved, and how far.

    Attributes:
        moved: Matrices whose k or λ is more than `ERRORS` or `SHARED` standard errors from its start.
        of: Matrices that were tested.
        lambda_known: Whether λ at the start is known.
        lambda_ratio: Median of λ over λ at the start; None if that is not known.
    """

    moved: int
    of: int
    lambda_known: bool
    lambda_ratio: float | None

    @property
    def any(self) -> bool:
        """Whether more matrices have moved than by chance."""
        return self.moved > CHANCE * self.of

    def __str__(self) -> str:
        return f"{self.moved} of {self.of}"


def movement_of(names: Sequence[str], sample: ComparedSample) -> Movement:
    """Tests matrices against their start.

    The standard error of a fit holds for independent values. Those of a trained matrix are not independent, but those of a
    matrix as it was initialised are: so the test is exact for what it asks, whether a matrix is still as it began.

    Args:
        names: Names of matrices with a fit.
        sample: The sample. Without a start, k is compared with the nearest anchor of an initialisation, and λ with nothing.
    """
    ratios = {name: sample.lambda_[name] / sample.start[name].lambda_ for name in names if name in sample.start}
    moved = sum(_moved(name, sample) for name in names)
    return Movement(moved, len(names), len(ratios) == len(names), median(ratios.values()) if ratios else None)


def _moved(name: str, sample: ComparedSample) -> bool:
    if name in sample.from_zero:
        return True
    k = sample.k[name]
    error = (SHARED if sample.baseline else ERRORS) * sample.k_se.get(name, 0.0) / k
    starts = [sample.start[name].k] if name in sample.start else [anchors()[kind].k for kind in _USUAL]
    drift = min(abs(math.log(k / start)) for start in starts)
    if drift > max(LEAST, error):
        return True
    if name not in sample.start:
        return False
    growth = abs(math.log(sample.lambda_[name] / sample.start[name].lambda_))
    return growth > max(LEAST, error * _RATIO)


_USUAL: Final = ("normal", "truncated_normal_2", "truncated_normal_3", "uniform")
_RATIO: Final = (
    anchors()["normal"].lambda_noise / anchors()["normal"].k_noise
)  # 0.76: errors of ln λ over those of ln k
