"""The scale of attention logits against what the same training does elsewhere: `attention_scale`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import between
from weibull_monitor.alerts.settings import AttentionScale
from weibull_monitor.alerts.statistics import Floats, median_of, quiet
from weibull_monitor.alerts.window import SampleWindow

LAGS: Final = (1, 2, 4, 8)
"""The intervals, in samples, that growth is looked at over, beside that since the baseline."""
MIN_BODY: Final = 2
"""Other matrices that a block needs, for q and k to be compared with them; else those of the whole model are taken."""
CLEAR: Final = 0.8
"""Strength below which an alert may clear, so that nothing has to be computed."""
EARLY: Final = 64
"""Up to this step, displacements since the baseline are those of the optimizer's first steps, which have one size: W_q and W_k
of healthy runs move up to four times as far as the others, so less growth is enough."""
EARLY_ADDED: Final = 0.25
"""Share of ``added`` that is enough then."""
EARLY_GROWTH: Final = 0.4
"""Share of ln ``growth`` that is enough then."""
NOISE: Final = 4e-4
"""Change of the square of an RMS, as a share, that its resolution can make."""


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The pairs of a model as arrays.

    Attributes:
        query: Indices of what makes queries, shape (pairs,).
        key: Indices of what makes keys, shape (pairs,).
        factor: What RMS_q·RMS_k is multiplied by, shape (pairs,).
        others: Indices of the other matrices of the block, shape (most, pairs); -1 where there are fewer.
    """

    query: Ints
    key: Ints
    factor: Floats
    others: Ints

    @staticmethod
    def of(window: SampleWindow) -> _Pairs:
        components = window.components
        place = {name: i for i, name in enumerate(components.names)}
        query = np.array([place[pair.query] for pair in window.pairs], dtype=np.int64)
        key = np.array([place[pair.key] for pair in window.pairs], dtype=np.int64)
        # Everything in a block that is neither W_q nor W_k is stepped with them, and does not make logits.
        free = np.flatnonzero(components.body & ~components.selection & components.trainable)
        by_block: dict[tuple[str, int], list[int]] = {}
        for i in free.tolist():
            by_block.setdefault((components.towers[i], int(components.blocks[i])), []).append(i)
        chosen = []
        for i in query.tolist():
            mine = by_block.get((components.towers[i], int(components.blocks[i])), [])
            chosen.append(mine if len(mine) >= MIN_BODY else free.tolist())
        others = np.full((max(map(len, chosen), default=0), len(chosen)), -1, dtype=np.int64)
        for column, members in enumerate(chosen):
            others[: len(members), column] = members
        return _Pairs(query, key, np.array([pair.factor for pair in window.pairs]), others)


def attention_scale(window: SampleWindow, settings: AttentionScale) -> RuleResult | None:
    """The scale of attention grows while the other matrices of the block move far less than its W_q and W_k.

    The scale A = RMS_q·RMS_k·d_in is the size of a logit for inputs of unit size (`AttentionPair.scale`). When q and k move too
    fast, A grows, the softmax saturates, and the entropy of attention falls to zero. Steps of a normalising optimizer have the
    same size for all matrices with the same η, whatever the gradients, so the displacement of q and k is compared with that of
    the other matrices of the same block over the same steps. Displacement is √(RMS² - RMS₀²·exp(-2S)), as in the budget ratio.

    A pair is found if, since the baseline or over the last 1, 2, 4 or 8 samples, A grew by ``added`` and by the factor
    ``growth``, and the geometric mean of the displacements of q and k is ``ratio`` times the median of the others.
    """
    if len(window.steps) < 2 or not window.pairs:
        return None
    if "attention" not in window.kept:
        window.kept["attention"] = _Pairs.of(window)
    pairs: _Pairs = window.kept["attention"]
    if not len(pairs.others):
        return None
    rms, decay = window["rms"], window["decay"]  # (samples, components) each
    lags = [lag for lag in LAGS if lag < len(window.steps)]
    starts = [(np.broadcast_to(window.baseline["rms"], rms[-1].shape), np.zeros(len(window.components)), 0)]
    starts += [(rms[-1 - lag], decay[-1 - lag], window.steps[-1 - lag]) for lag in lags]
    now = pairs.factor * rms[-1][..., pairs.query] * rms[-1][..., pairs.key]  # (pairs,), as all that follows
    best, usual, limit, ratio, since = (np.full(now.shape, np.nan) for _ in range(5))
    with quiet():
        earlier = np.stack([before for before, _, _ in starts])  # (starts, components)
        scales = pairs.factor * earlier[..., pairs.query] * earlier[..., pairs.key]  # (starts, pairs)
        early = np.atleast_1d(window.steps[-1] <= EARLY)  # (1,)
        first = np.stack([early, *[np.zeros_like(early)] * len(lags)])  # (starts, 1)
        added = np.where(first, EARLY_ADDED, 1.0) * settings.added
        growth = np.where(first, EARLY_GROWTH, 1.0) * np.log(settings.growth)
        growths = np.minimum((now - scales) / added, np.log(now / scales) / growth)
        limits = np.maximum(scales + added, scales * np.exp(growth))
        for (_, spent, step), before, start, most, grown in zip(starts, earlier, scales, limits, growths, strict=True):
            if not grown.size or not np.fmax.reduce(grown, axis=None) >= CLEAR:
                continue  # nearly always
            left = before**2 * np.exp(-2.0 * (decay[-1] - spent))  # what decay has left of the start, (components,)
            moved = np.maximum(rms[-1] ** 2 - left, 0.0) + NOISE * rms[-1] ** 2
            of_pair = np.sqrt(moved[..., pairs.query] * moved[..., pairs.key])
            others = np.where(pairs.others >= 0, moved[..., pairs.others], np.nan)  # (most, pairs)
            of_others = median_of(np.moveaxis(others, -2, 0))
            apart = np.sqrt(of_pair / of_others)
            strength = np.minimum(grown, apart / settings.ratio)
            better = np.isfinite(strength) & ~(best >= strength)
            limit = np.where(better, most, limit)
            best, usual = np.where(better, strength, best), np.where(better, start, usual)
            ratio, since = np.where(better, apart, ratio), np.where(better, step, since)
    if not (best > 0.0).any():
        return rule_result(
            np.zeros(len(window.components)), 2, "attention scale", np.full(len(window.components), np.nan), ""
        )
    size = len(window.components)
    if best.ndim > 1:  # many samples at once, of which only the strength is asked for
        every = np.zeros((len(best), size))
        for n, members in enumerate(zip(pairs.query.tolist(), pairs.key.tolist(), strict=True)):
            every[:, members] = np.fmax(every[:, members], best[:, n, None])
        return rule_result(every, 2, "attention scale", every, "")
    owner = np.full(size, -1, dtype=np.int64)
    strength, value, high = np.zeros(size), np.full(size, np.nan), np.full(size, np.nan)
    for n in np.argsort(
        np.nan_to_num(best)
    ).tolist():  # a key that several heads share: the worst of them, which comes last
        for i in (int(pairs.key[n]), int(pairs.query[n])):
            owner[i], strength[i], value[i], high[i] = n, best[n], now[n], limit[n]
    judged = window.components.trainable & (owner >= 0)

    def meaning(i: int) -> str:
        n = owner[i]
        return (
            f"The scale of attention logits, RMS_q·RMS_k·d_in, {between(usual[n], now[n], int(since[n]))}, and W_q and W_k moved "
            f"{ratio[n]:.2g} times as far as the other matrices of the block: attention is about to collapse onto single keys. "
            "Check first the learning rate of W_q and W_k against that of the others, and lower it. If they are equal, go back "
            "to a checkpoint from before and add QK-norm."
        )

    return rule_result(
        strength=np.where(judged, strength, 0.0),
        severity=2,
        quantity="attention scale",
        value=value,
        meaning=meaning,
        high=high,
        together=(pairs.query, pairs.key),
    )
