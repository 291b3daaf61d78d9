"""Fused matrices whose low k is that of parts with different scales, and not of any part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from weibull_monitor.analysis.sample import ComparedSample
from weibull_monitor.measure.weibull import Array, anchor
from weibull_monitor.model.components import Component

_PARTS: Final = ("q", "k", "v", "gate", "up")
LOWER: Final = 0.01
"""How far k of the whole must lie below that of each of its parts."""
EXPLAINED: Final = 0.5
"""Share of that distance that a mixture of the parts must explain."""


@dataclass(frozen=True)
class MixtureOfScales:
    """A kind of fused matrices whose k is lower than that of its parts because their λ differ.

    Attributes:
        kind: The kind of the whole, such as ``attn_qkv``.
        k: Median k of the whole over those matrices.
        parts: Median k of each part's kind.
        scales: Median ratio of the largest λ of a part to the smallest.
        names: The matrices.
        of: Number of matrices of the kind.
    """

    kind: str
    k: float
    parts: dict[str, float]
    scales: float
    names: tuple[str, ...]
    of: int

    def __str__(self) -> str:
        parts = ", ".join(f"{kind} {k:.3f}" for kind, k in self.parts.items())
        some = "" if len(self.names) == self.of else f" of {len(self.names)} of {self.of} matrices"
        return (
            f"k of {self.kind}{some}, {self.k:.3f}, is below that of each part ({parts}) since their scales differ "
            f"(λ by a factor of {self.scales:.2f}): a mixture of scales, not specialisation"
        )


def mixtures_of_scales(sample: ComparedSample) -> tuple[MixtureOfScales, ...]:
    """The kinds of fused matrices in which a mixture of the parts explains k of the whole."""
    parts: dict[str, list[Component]] = {}
    for c in sample.components:
        if c.part is not None and c.part.label in _PARTS and c.expert is None and c.name in sample.k:
            parts.setdefault(c.parameter, []).append(c)
    found: dict[str, list[tuple[Component, Sequence[Component]]]] = {}
    total: dict[str, int] = {}
    for whole in sample.components:
        own = parts.get(whole.parameter, ())
        if whole.part is None and whole.name in sample.k and len({c.label for c in own}) > 1:
            total[whole.label] = total.get(whole.label, 0) + 1
            if _explained(whole, own, sample):
                found.setdefault(whole.label, []).append((whole, own))
    return tuple(_summed(kind, cases, total[kind], sample) for kind, cases in found.items())


def _explained(whole: Component, parts: Sequence[Component], sample: ComparedSample) -> bool:
    shapes = np.array([sample.k[c.name] for c in parts])
    below = float(shapes.min()) - sample.k[whole.name]
    if below < LOWER:
        return False
    scales = np.array([sample.lambda_[c.name] for c in parts])
    weights = np.array([c.numel for c in parts], dtype=np.float64)
    mixed = mixed_shape(shapes, scales, weights / weights.sum())
    return float(shapes.min()) - mixed > EXPLAINED * below


def mixed_shape(shapes: Array, scales: Array, weights: Array) -> float:
    """k of a fit to a mixture of Weibull distributions.

    Args:
        shapes: k of the parts, shape (parts,).
        scales: λ of the parts, shape (parts,).
        weights: Their shares, shape (parts,), which add up to 1.

    >>> round(mixed_shape(np.array([1.2, 1.2]), np.array([0.02, 0.02]), np.array([0.5, 0.5])), 3)
    1.2
    >>> round(mixed_shape(np.array([1.2, 1.2]), np.array([0.02, 0.06]), np.array([0.5, 0.5])), 3) < 1.05
    True
    """
    x = np.geomspace(scales.min() * 1e-3, scales.max() * 10.0, 4000)  # (points,)
    below = weights @ -np.expm1(-((x / scales[:, None]) ** shapes[:, None]))  # (points,): F
    return anchor(lambda f: np.exp(np.interp(f, below, np.log(x)))).k


def _summed(
    kind: str, cases: Sequence[tuple[Component, Sequence[Component]]], total: int, sample: ComparedSample
) -> MixtureOfScales:
    shapes: dict[str, list[float]] = {}
    ratios = []
    for _, parts in cases:
        for c in parts:
            shapes.setdefault(c.label, []).append(sample.k[c.name])
        scales = [sample.lambda_[c.name] for c in parts]
        ratios.append(max(scales) / min(scales))
    names = tuple(whole.name for whole, _ in cases)
    k = median(sample.k[name] for name in names)
    return MixtureOfScales(kind, k, {n: median(v) for n, v in shapes.items()}, median(ratios), names, total)
