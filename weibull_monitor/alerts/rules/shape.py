"""Blocks against each other, and the bodies of the matrices: `layer_outlier`, `transmission_exit`, `body_break`."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.scale import HISTORY, usual_movement
from weibull_monitor.alerts.rules.selection import _error, _median, _Spread
from weibull_monitor.alerts.settings import BodyBreak, LayerOutlier, TransmissionExit
from weibull_monitor.alerts.statistics import Floats, median_of, quiet, spread_of
from weibull_monitor.alerts.window import SampleWindow

LOOKBACK: Final = 8
"""Intervals that `body_break` looks back on."""
LARGE: Final = 1024
"""Smaller matrices have no body to speak of: se(R²) is above 0.01."""
R2_NOISE: Final = 0.06
"""sd(R²)·√n of a normal matrix."""
LOG_NOISE: Final = 0.02
"""ln λ of blocks of a kind may differ by so much without being unlike."""
SHALLOW: Final = 5
"""Among blocks 0 to 5 of Qwen models of 3 B and above are feed-forward matrices of k ≤ 0.70: T. Ding, arXiv:2605.18898 (2026)."""
TOLERATED_RATIO: Final = float(np.log(4.0))
"""A factor of λ that a block of a baseline may have from all others: more than this is taken for a mis-loaded one."""
PUBLISHED: Final[dict[str, tuple[float, float]]] = {
    "attn_o": (1.040, 1.199),  # OLMo-1 7B; the next is 1.138, Qwen2.5-1.5B
    "": (1.168, 1.204),  # feed-forward kinds: Qwen2.5-1.5B, OLMo-1 7B
}
"""Lowest and highest per-model median of k of trained models: T. Ding, arXiv:2605.18898 (2026)."""

UNIFORM: Final = 1.3751
"""k of a uniform distribution (`weibull_monitor.measure.weibull.anchors`), which sign-like updates lead towards: k above
the band is as yet known of no fault."""


def layer_outlier(window: SampleWindow, settings: LayerOutlier) -> RuleResult:
    """A block whose k or ln λ departs from the blocks beside it and from all others of its kind."""
    size = len(window.facts)
    strength, value, z = np.zeros(size), np.full(size, np.nan), np.full(size, np.nan)
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    ranks, by_scale, shallow = np.full(size, 2, dtype=np.int8), np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    if "layers" not in window.kept:
        window.kept["layers"] = _Layers(window, settings.blocks)
    layers: _Layers = window.kept["layers"]
    if not len(layers.of):
        return rule_result(strength, 1, "k", value, "")
    of, table, there = layers.of, layers.table, layers.there
    with quiet():
        measures = ((window.now("k"), settings.k), (np.log(window.now("lambda")), settings.log_lambda))
        noise = (window.now("k_se"), np.full(size, LOG_NOISE))
        for which, (now, least) in enumerate(measures):
            departs, spread, centre = (a[there] for a in departure(np.where(there, now[table], np.nan)))
            began = layers.began[which]
            usual = np.sqrt(spread**2 + noise[which][of] ** 2)
            found = np.nan_to_num(np.minimum(np.abs(departs) / (settings.z * usual), np.abs(departs) / least))
            as_loaded = np.abs(began) >= 0.7 * np.abs(departs)
            tolerated = as_loaded & ((which == 0) | (np.abs(departs) < TOLERATED_RATIO))
            named = layers.shallow & ~as_loaded & (departs < 0) & (which == 0)
            stronger = found > strength[of]
            chosen, reach = of[stronger], np.maximum(settings.z * usual, least)[stronger]
            strength[chosen], z[chosen] = found[stronger], (departs / usual)[stronger]
            ranks[chosen] = np.where(tolerated | named, 1, 2)[stronger]
            by_scale[chosen], shallow[chosen] = which == 1, named[stronger]
            shown = (now[of][stronger], centre[stronger] - reach, centre[stronger] + reach)
            for target, source in zip((value, low, high), shown, strict=True):
                target[chosen] = np.exp(source) if which else source
    return rule_result(
        strength,
        ranks,
        lambda i: "λ" if by_scale[i] else "k",
        value,
        lambda i: _SHALLOW_CASE if shallow[i] else _OUTLIER,
        low,
        high,
        z,
    )


class _Layers:
    """The components of each kind by rising block, and how they departed at the baseline.

    Attributes:
        table: Indices, shape (kinds, blocks), -1 beyond the last block of a kind.
        there: Where there is one.
        of: The indices that are there.
        shallow: Of each of these, whether it is a feed-forward matrix of one of the first blocks.
        began: Their departures at the baseline, of k and of ln λ.
    """

    def __init__(self, window: SampleWindow, least: int) -> None:
        facts = window.facts
        groups = [group for group in facts.groups if len(group.members) >= least]
        self.table = np.full((len(groups), max((len(g.members) for g in groups), default=0)), -1, dtype=np.int64)
        for row, group in zip(self.table, groups, strict=True):
            row[: len(group.members)] = group.members
        self.there = self.table >= 0
        self.of = self.table[self.there]
        forward = np.array([label.startswith("ffn_") for label in facts.labels], dtype=bool)
        self.shallow = forward[self.of] & (facts.blocks[self.of] <= SHALLOW)
        if len(self.of):
            with quiet():
                start = (window.baseline["k"], np.log(window.baseline["lambda"]))
                at = [np.where(self.there, values[self.table], np.nan) for values in start]
                self.began = [departure(values)[0][self.there] for values in at]


_OUTLIER = (
    "This block's k or λ is unlike that of the blocks beside it and of all others of its kind: look for a layer that was "
    "mis-loaded, rescaled, or has a learning rate or an initialisation of its own"
)
_SHALLOW_CASE = (
    "The shallow feed-forward anomaly: k of a feed-forward matrix of the first blocks is far below the others, as published "
    "for Qwen models of 3 B and above; known of good models, to be watched in others"
)


def departure(values: Floats) -> tuple[Floats, Floats, Floats]:
    """How far each block departs, what is usual for its kind, and from where it departs.

    A departure is the smaller, if they agree in sign, of those from the median of up to two blocks on each side and from the
    median of all; so neither a slope over depth nor a different first half makes one.

    Args:
        values: Shape (kinds, blocks), by rising block; NaN where there is none.

    Returns:
        Three arrays of that shape.

    >>> departs, _, _ = departure(np.array([[1.20, 1.21, 1.22, 0.80, 1.24, 1.25, 1.26]]))
    >>> [round(float(d), 2) for d in departs[0]]
    [-0.01, 0.0, 0.0, -0.42, 0.01, 0.01, 0.01]
    """
    width = values.shape[1]
    padded = np.pad(values, ((0, 0), (2, 2)), constant_values=np.nan)
    neighbours = np.stack([padded[:, i : i + width].ravel() for i in (0, 1, 3, 4)])
    beside = median_of(neighbours).reshape(values.shape)
    overall = np.broadcast_to(median_of(values.T)[:, None], values.shape)
    local, whole = values - beside, values - overall
    agreed = np.where(local * whole > 0, np.sign(local) * np.minimum(np.abs(local), np.abs(whole)), 0.0)
    agreed = np.where(np.isfinite(values), agreed, np.nan)
    zero = np.zeros(len(values))
    spread = np.fmax(spread_of(local.T, zero), spread_of(whole.T, zero))
    return (
        agreed,
        np.broadcast_to(spread[:, None], values.shape),
        np.where(np.abs(local) < np.abs(whole), beside, overall),
    )


def transmission_exit(window: SampleWindow, settings: TransmissionExit) -> RuleResult:
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
    return out.rule_result(
        ranks,
        "median k",
        lambda i: (
            "The median k of this kind has left the band that feed-forward and attention-output matrices of trained models "
            "keep "
            + (
                "and every published model: look at R², at the rate and at the weight decay"
                if ranks[i] > 1
                else "by a little"
            )
        ),
    )


def body_break(window: SampleWindow, settings: BodyBreak) -> RuleResult:
    """The probability plot is no line any more, or has been bent at once: the matrix holds two populations of weights.

    R² under ``r2``; or a fall of R² by ``fall``, or a change of k by ``change``, beyond ``z`` times what is usual. A sudden
    change of k of a W_q or W_k is `selection_shift`.
    """
    facts, r2, start = window.facts, window.now("r2"), window.baseline["r2"]
    strength, z = np.zeros(len(facts)), np.full(len(facts), np.nan)
    bent = np.zeros(len(facts), dtype=bool)
    with quiet():
        if len(window.steps) >= HISTORY + 2:
            moved, centre, size, _ = usual_movement(window, "r2", LOOKBACK)
            usual = np.sqrt(size**2 + R2_NOISE**2 / facts.numel)
            z = (moved - centre) / usual
            strength = np.minimum(-z / settings.z, (centre - moved) / settings.fall)
            moved, centre, size, _ = usual_movement(window, "k", LOOKBACK)
            by_k = (moved - centre) / np.sqrt(size**2 + window.now("k_se") ** 2)
            changed = np.minimum(np.abs(by_k) / settings.z, np.abs(moved - centre) / settings.change)
            bent = ~facts.selection & window.warm & (changed > np.nan_to_num(strength))
            strength, z = np.where(bent, changed, strength), np.where(bent, by_k, z)
        broken = (1.0 - r2) / (1.0 - settings.r2)
        bent &= ~(broken > strength)
        strength = np.fmax(broken, strength)
    return rule_result(
        strength=np.where(facts.body & (facts.numel >= LARGE), strength, 0.0),
        severity=np.where(np.nan_to_num(start, nan=1.0) < settings.r2, 1, 2).astype(np.int8),
        quantity=lambda i: "k" if bent[i] else "R²",
        value=np.where(bent, window.now("k"), r2),
        low=np.where(bent, np.nan, settings.r2),
        high=np.where(bent, np.nan, 1.0),
        z=z,
        meaning=lambda i: (
            (f"k was {window.before('k')[i]:.3f} at step {window.steps[-2]}. " if bent[i] else "")
            + "The weights are no longer of one population: a part of them (a head, rows, a piece of a checkpoint) is of another "
            'size than the rest. Look at it by head (resolution="head") and by row'
        ),
    )
