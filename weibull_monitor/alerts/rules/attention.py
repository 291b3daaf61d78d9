"""The scale of attention logits against what the same training does elsewhere: `attention_scale`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import Ints, at_table, table_of
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.words import between
from weibull_monitor.alerts.settings import AttentionScale
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, or_zero, quiet
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
BEYOND: Final = 3.0
"""Strength from which growth with equal rates is a warning: 2.6 times what healthy runs reach."""
SAME_RATE: Final = 1.1
"""Up to this ratio, two η are said to be the same."""


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The pairs of a model as arrays.

    Attributes:
        query: Indices of what makes queries, shape (pairs,).
        key: Indices of what makes keys, shape (pairs,).
        factor: What RMS_q·RMS_k is multiplied by, shape (pairs,).
        others: Indices of the other matrices of the block, shape (pairs, most); -1 where there are fewer.
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
        return _Pairs(query, key, np.array([pair.factor for pair in window.pairs]), table_of(chosen))

    def scale(self, rms: Floats) -> Floats:
        """The scale of attention of each pair, (…, pairs), from the RMS of the matrices (…, components)."""
        return self.factor * rms[..., self.query] * rms[..., self.key]


def attention_scale(window: SampleWindow, settings: AttentionScale) -> RuleResult | None:
    """The scale of attention grows while the other matrices of the block move far less than its W_q and W_k.

    The scale A = RMS_q·RMS_k·d_in is the size of a logit for inputs of unit size (`AttentionPair.scale`). When q and k move too
    fast, A grows, the softmax saturates, and the entropy of attention falls to zero. Steps of a normalising optimizer have the
    same size for all matrices with the same η, whatever the gradients, so the displacement of q and k is compared with that of
    the other matrices of the same block over the same steps. Displacement is √(RMS² - RMS₀²·exp(-2S)), as in the budget ratio.

    A pair is found if, since the baseline or over the last 1, 2, 4 or 8 samples, A grew by ``added`` and by the factor
    ``growth``, and the geometric mean of the displacements of q and k is ``ratio`` times the median of the others, while Σ η of
    q or k over the same steps is ``faster`` times the median of the others. Attention of healthy runs that begins to work moves
    up to eight times as far with one η for all. So where η is not higher, or not known, the displacement has to be ``equal``
    times the others'; and then it is an info up to `BEYOND`, and always where steps have no bound, unless η since then is
    ``faster`` times that after the warm-up.
    """
    if len(window.steps) < 2 or not window.pairs:
        return None
    pairs = _pairs(window)
    if not len(pairs.others):
        return None
    rms, decay, path = window["rms"], window["decay"], window["eta_sum"]  # (samples, components) each
    lags = [lag for lag in LAGS if lag < len(window.steps)]
    none = np.zeros(len(window.components))
    starts = [(np.broadcast_to(window.baseline["rms"], rms[-1].shape), none, none, 0, 0)]
    starts += [(rms[-1 - lag], decay[-1 - lag], or_zero(path[-1 - lag]), window.steps[-1 - lag], lag) for lag in lags]
    now = pairs.scale(rms[-1])  # (pairs,), as all that follows
    best, usual, limit, ratio, since = (np.full(now.shape, np.nan) for _ in range(5))
    # Steps of the size of the gradient are larger for what wakes, so that only rates tell.
    bounded = np.isfinite(_of_pairs(window.now("update_max"), pairs)).all(axis=0)
    rates, certain = np.full((2, 2, *now.shape), np.nan), np.zeros(now.shape, dtype=bool)
    with quiet():
        earlier = np.stack([before for before, *_ in starts])  # (starts, components)
        scales = pairs.scale(earlier)  # (starts, pairs)
        early = np.atleast_1d(window.steps[-1] <= EARLY)  # (1,)
        first = np.stack([early, *[np.zeros_like(early)] * len(lags)])  # (starts, 1)
        added = np.where(first, EARLY_ADDED, 1.0) * settings.added
        growth = np.where(first, EARLY_GROWTH, 1.0) * np.log(settings.growth)
        growths = np.minimum((now - scales) / added, np.log(now / scales) / growth)
        limits = np.maximum(scales + added, scales * np.exp(growth))
        for (_, decayed, walked, step, lag), before, start, most, grown in zip(
            starts, earlier, scales, limits, growths, strict=True
        ):
            if not grown.size or not np.fmax.reduce(grown, axis=None) >= CLEAR:
                continue  # nearly always
            left = before**2 * np.exp(-2.0 * (decay[-1] - decayed))  # what decay has left of the start, (components,)
            moved = np.maximum(rms[-1] ** 2 - left, 0.0) + NOISE * rms[-1] ** 2
            of_pair = np.sqrt(moved[..., pairs.query] * moved[..., pairs.key])
            spent = path[-1] - walked  # Σ η
            apart = np.sqrt(of_pair / _of_others(np.where(spent == 0, np.nan, moved), pairs))  # η = 0 moves nothing
            rose = np.fmax.reduce(window["eta"][-lag:], axis=0) / window.plateau
            apace = np.stack([_rates(spent, window.now("update_max"), pairs), _of_pairs(rose, pairs)])  # (2, 2, pairs)
            faster: Bools = np.any(apace >= settings.faster, axis=1)  # than the others, than before, (2, pairs)
            strength = np.minimum(grown, apart / np.where(faster[0], settings.ratio, settings.equal))
            sure = faster[0] | faster[1] | (strength >= BEYOND) & bounded
            strength = np.where(sure, strength, np.minimum(strength, 1.0))
            better = np.isfinite(strength) & ~(best >= strength)
            limit = np.where(better, most, limit)
            best, usual = np.where(better, strength, best), np.where(better, start, usual)
            ratio, since = np.where(better, apart, ratio), np.where(better, step, since)
            rates, certain = np.where(better, apace, rates), np.where(better, sure, certain)
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
            f"{ratio[n]:.2g} times as far as the other matrices of the block{_cause(rates[..., n], settings.faster)}"
        )

    return rule_result(
        strength=np.where(judged, strength, 0.0),
        severity=np.where(certain[owner], 2, 1).astype(np.int8),
        quantity="attention scale",
        value=value,
        meaning=meaning,
        high=high,
        together=(pairs.query, pairs.key),
    )


def may_have_grown(window: SampleWindow, settings: AttentionScale) -> Bools:
    """Whether a scale grew by so much that `attention_scale` may find its pair, shape (…, pairs)."""
    pairs, rms = _pairs(window), window["rms"]  # (samples, components)
    if not len(pairs.others):
        return np.zeros(1, dtype=bool)
    now = pairs.scale(rms[-1])  # (pairs,)
    found = np.zeros(now.shape, dtype=bool)
    least = np.where(np.atleast_1d(window.steps[-1] <= EARLY), EARLY_ADDED, 1.0) * settings.added
    for before in (window.baseline["rms"], *(rms[-1 - lag] for lag in LAGS if lag < len(window.steps))):
        found |= now - pairs.scale(before) >= least
    return found


def _pairs(window: SampleWindow) -> _Pairs:
    return window.always("attention", lambda: _Pairs.of(window))


def _of_others(values: Floats, pairs: _Pairs) -> Floats:
    """The median of the other matrices of each pair, shape (pairs,), of values of shape (components,)."""
    return median_along(at_table(values, pairs.others))[..., 0]


def _of_pairs(values: Floats, pairs: _Pairs) -> Floats:
    """The values of W_q and of W_k, shape (2, pairs), of values of shape (components,)."""
    return np.stack([values[..., pairs.query], values[..., pairs.key]])


def _rates(spent: Floats, bound: Floats, pairs: _Pairs) -> Floats:
    """How many times Σ η of the other matrices that of W_q and of W_k is, shape (2, pairs); NaN where they cannot be compared.

    Σ η is in units of AdamW's steps if the optimizer is known, which the bound of its updates tells.

    Args:
        spent: Σ η of each matrix, shape (components,); NaN if unknown.
        bound: The bound, shape (components,); NaN if there is none.
        pairs: The pairs.
    """
    ratio = _of_pairs(spent, pairs) / _of_others(np.where(spent > 0, spent, np.nan), pairs)
    known = np.isfinite(bound).astype(float)
    return np.where(_of_pairs(known, pairs) == _of_others(known, pairs), ratio, np.nan)


def _cause(rates: Floats, faster: float) -> str:
    """The end of a sentence: why W_q and W_k moved so far, and what to do.

    Args:
        rates: η of W_q and of W_k, shape (2, 2); in units of that of the others, and of that after the warm-up. NaN if unknown.
        faster: From which of them on it is the cause.
    """
    most, rose = np.fmax(rates[:, 0], rates[:, 1]).tolist()
    of_others, before = rates >= faster
    if of_others.any() or before.any():
        what, high, by = (
            ("that of the others", of_others, most) if of_others.any() else ("that after the warm-up", before, rose)
        )
        names = " and ".join(name for name, is_high in zip(("W_q", "W_k"), high, strict=True) if is_high)
        return (
            f", as the η of {names} was {by:.3g} times {what}: attention is about to collapse onto single keys. Lower it, and go "
            "back to a checkpoint from before."
        )
    if not np.isfinite(most):
        known = "Their η cannot be compared with that of the others; check it first, and lower it if it is too high. If not,"
    elif most > SAME_RATE:
        known = f"Their η was {most:.3g} times that of the others; lower it first. If that does not help,"
    else:
        known = "Their η was not higher than that of the others, so it is not the cause:"
    return f". Attention may be about to collapse onto single keys. {known} go back to a checkpoint from before and add QK-norm."
