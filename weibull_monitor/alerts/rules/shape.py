"""Blocks against each other, and the bodies of the matrices: `layer_outlier`, `transmission_exit`, `body_break`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.robust import Floats, median_of, quiet, spread_of
from weibull_monitor.alerts.rules.reading import Reading, reading
from weibull_monitor.alerts.rules.scale import HISTORY, usual_movement
from weibull_monitor.alerts.rules.selection import _error, _median, _Spread
from weibull_monitor.alerts.settings import BodyBreak, LayerOutlier, TransmissionExit
from weibull_monitor.alerts.window import Window

LARGE: Final = 1024
"""Smaller matrices have no body to speak of: se(R²) is above 0.01."""
R2_NOISE: Final = 0.06
"""sd(R²)·√n of a normal matrix."""
SHALLOW: Final = 5
"""Blocks 0 to 5 of Qwen models of 3 B and above hold feed-forward matrices of k ≤ 0.70: T. Ding, arXiv:2605.18898 (2026)."""
SHALLOW_K: Final = 0.9
"""Between 0.70, the highest of those models, and 1.0, the lowest of the smaller ones without the anomaly."""
LOADED_SO: Final = float(np.log(4.0))
"""A factor of λ that a block of a baseline may have from all others: more than this is taken for a mis-loaded one."""
PUBLISHED: Final[dict[str, tuple[float, float]]] = {
    "attn_o": (1.040, 1.199),  # OLMo-1 7B; the next is 1.138, Qwen2.5-1.5B
    "": (1.168, 1.204),  # feed-forward kinds: Qwen2.5-1.5B, OLMo-1 7B
}
"""Lowest and highest per-model median of k of trained models: T. Ding, arXiv:2605.18898 (2026)."""

UNIFORM: Final = 1.3751
"""k of a uniform distribution (`weibull_monitor.weibull.anchors`), which sign-like updates lead towards: k above the band is as yet
known of no fault."""


def layer_outlier(window: Window, settings: LayerOutlier) -> Reading:
    """A block whose k or ln λ departs from the blocks beside it and from all others of its kind."""
    facts = window.facts
    strength, value = np.zeros(len(facts)), np.full(len(facts), np.nan)
    low, high, z = (np.full(len(facts), np.nan) for _ in range(3))
    ranks, shallow = np.full(len(facts), 2, dtype=np.int8), np.zeros(len(facts), dtype=bool)
    with quiet():
        measures = (
            (window.now("k"), window.baseline["k"], settings.k, window.now("k_se")),
            (
                np.log(window.now("lambda")),
                np.log(window.baseline["lambda"]),
                settings.log_lambda,
                0.02 * facts.numel**0,
            ),
        )
        for group in facts.groups:
            of = group.members
            if len(of) < settings.blocks:
                continue
            for which, (now, start, least, noise) in enumerate(measures):
                departs, spread, centre = departure(now[of])
                usual = np.sqrt(spread**2 + noise[of] ** 2)
                found = np.minimum(np.abs(departs) / (settings.z * usual), np.abs(departs) / least)
                stronger = found > strength[of]
                began, _, _ = departure(start[of])
                as_loaded = np.abs(began) >= 0.7 * np.abs(departs)
                tolerated = as_loaded & ((which == 0) | (np.abs(departs) < LOADED_SO))
                named = (which == 0) & (group.blocks <= SHALLOW) & (now[of] < SHALLOW_K)
                named &= group.label.startswith("ffn_") & ~as_loaded
                strength[of] = np.where(stronger, found, strength[of])
                ranks[of] = np.where(stronger, np.where(tolerated | named, 1, 2), ranks[of])
                shallow[of] = np.where(stronger, named, shallow[of])
                z[of] = np.where(stronger, departs / usual, z[of])
                reach = np.maximum(settings.z * usual, least)
                shown = (now[of], centre - reach, centre + reach)
                for target, source in zip((value, low, high), shown, strict=True):
                    target[of] = np.where(stronger, np.exp(source) if which else source, target[of])
    return reading(strength, ranks, value, lambda i: _SHALLOW_CASE if shallow[i] else _OUTLIER, low, high, z)


_OUTLIER = (
    "This block's k or λ is unlike that of the blocks beside it and of all others of its kind: look for a layer that was mis-loaded, "
    "rescaled, or has a learning rate or an initialisation of its own"
)
_SHALLOW_CASE = (
    "The shallow feed-forward anomaly: k of a feed-forward matrix of the first blocks is far below the others, as published for Qwen "
    "models of 3 B and above; known of good models, to be watched in others"
)


def departure(values: Floats) -> tuple[Floats, Floats, Floats]:
    """How far each block of a kind departs, what is usual, and from where; shape (blocks,) each, by rising block.

    A departure is the smaller, if they agree in sign, of those from the median of up to two blocks on each side and from the
    median of all; so neither a slope over depth nor a different first half makes one.

    >>> departs, _, _ = departure(np.array([1.2, 1.2, 1.21, 0.8, 1.19, 1.2, 1.2]))
    >>> departs.round(2).tolist()
    [0.0, 0.0, 0.0, -0.4, 0.0, 0.0, 0.0]
    """
    padded = np.pad(values, 2, constant_values=np.nan)
    beside = median_of(np.stack([padded[i : i + len(values)] for i in (0, 1, 3, 4)]))
    overall = median_of(values[:, None])[0]
    local, whole = values - beside, values - overall
    agreed = np.where(local * whole > 0, np.sign(local) * np.minimum(np.abs(local), np.abs(whole)), 0.0)
    spread = np.fmax(spread_of(local[:, None], np.zeros(1)), spread_of(whole[:, None], np.zeros(1)))
    return agreed, np.broadcast_to(spread, values.shape), np.where(np.abs(local) < np.abs(whole), beside, overall)


def transmission_exit(window: Window, settings: TransmissionExit) -> Reading:
    """The median k of a kind of the Transmission class leaves the band that healthy models keep it in."""
    out = _Spread(len(window.facts))
    ranks = np.ones(len(window.facts), dtype=np.int8)
    for group in window.facts.groups:
        if group.component_class != "transmission" or not window.warm[group.members].all():
            continue
        now, error = _median(window.now("k"), group), _error(window.now("k_se"), group)
        start = _median(window.baseline["k"], group)
        published = PUBLISHED.get(group.label.removeprefix("cross_"), PUBLISHED[""])
        # Where it began is no exit: PyTorch's default initialisation is at 1.375, a fine-tuned model where it was left.
        low, high = np.nanmin([settings.low, start]), np.nanmax([settings.high, start])
        beyond = max(low - now, now - high)
        if beyond > settings.z * error:
            out.set(group, beyond / (settings.z * error), now, settings.low, settings.high)
            far = max(min(low, published[0]) - settings.margin - now, now - max(high, UNIFORM) - settings.margin)
            if far > settings.z * error:
                ranks[group.members] = 2
    return out.reading(
        ranks,
        lambda i: (
            "The median k of this kind has left the band that feed-forward and attention-output matrices of trained models keep "
            + (
                "and every published model: look at R², at the rate and at the weight decay"
                if ranks[i] > 1
                else "by a little"
            )
        ),
    )


def body_break(window: Window, settings: BodyBreak) -> Reading:
    """The probability plot is no line any more, or has been bent at once: the matrix holds two populations of weights.

    R² under ``r2``; or a fall of R² by ``fall``, or a change of k by ``change``, beyond ``z`` times what is usual. A sudden change of k
    of a W_q or W_k is `selection_shift`.
    """
    facts, r2, start = window.facts, window.now("r2"), window.baseline["r2"]
    strength, z = np.zeros(len(facts)), np.full(len(facts), np.nan)
    bent = np.zeros(len(facts), dtype=bool)
    with quiet():
        if len(window.steps) >= HISTORY + 2:
            moved, centre, size, _ = usual_movement(window, window["r2"][-10:], 8)
            usual = np.sqrt(size**2 + R2_NOISE**2 / facts.numel)
            z = (moved - centre) / usual
            strength = np.minimum(-z / settings.z, (centre - moved) / settings.fall)
            moved, centre, size, _ = usual_movement(window, window["k"][-10:], 8)
            by_k = (moved - centre) / np.sqrt(size**2 + window.now("k_se") ** 2)
            changed = np.minimum(np.abs(by_k) / settings.z, np.abs(moved - centre) / settings.change)
            bent = ~facts.selection & window.warm & (changed > np.nan_to_num(strength))
            strength, z = np.where(bent, changed, strength), np.where(bent, by_k, z)
        broken = (1.0 - r2) / (1.0 - settings.r2)
        bent &= ~(broken > strength)
        strength = np.fmax(broken, strength)
    return reading(
        strength=np.where(facts.body & (facts.numel >= LARGE), strength, 0.0),
        severity=np.where(np.nan_to_num(start, nan=1.0) < settings.r2, 1, 2).astype(np.int8),
        value=np.where(bent, window.now("k"), r2),
        low=np.where(bent, np.nan, settings.r2),
        high=np.where(bent, np.nan, 1.0),
        z=z,
        meaning=lambda i: (
            (f"Its k was {window.before('k')[i]:.3f} at step {window.steps[-2]}. " if bent[i] else "This is R². ")
            + "The weights are no longer of one population: a part of them (a head, rows, a piece of a checkpoint) is of another size "
            'than the rest. Look at it by head (resolution="head") and by row'
        ),
    )
