"""k of W_q and W_k: `selection_range`, `selection_shift`, `selection_drift`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import JudgedGroup, Sharing
from weibull_monitor.alerts.rules.result import Ranks, RuleResult, rule_result
from weibull_monitor.alerts.rules.scale import HISTORY, usual_movement
from weibull_monitor.alerts.settings import SelectionDrift, SelectionRange, SelectionShift
from weibull_monitor.alerts.statistics import Floats, quiet
from weibull_monitor.alerts.window import SampleWindow

PUBLISHED: Final[dict[Sharing, tuple[float, float]]] = {
    "separate": (0.760, 0.812),  # OLMo-1 7B
    "separate with QK-norm": (0.972, 0.990),  # OLMo-2 7B
    "grouped": (1.095, 1.164),  # Llama-3, Mistral, Qwen2 to Qwen3: 16 models
    "fused": (1.049, 1.176),  # Pythia 70 M to 6.9 B, the whole fused matrix
}
"""Lowest and highest per-model median of k of W_q or W_k of trained models: T. Ding, arXiv:2605.18898 (2026)."""
ANCHOR: Final = 1.2054
"""k of a normal distribution, where most models begin (`weibull_monitor.measure.weibull.anchors`)."""


def selection_range(window: SampleWindow, settings: SelectionRange) -> RuleResult | None:
    """The median of a kind lies outside everything between its start, the anchor and what trained models are known to have.

    For attention of which nothing is published (MLA, and what was not recognised) the lowest of all kinds is the lower end.
    """
    lowest = min(low for low, _ in PUBLISHED.values())
    out = _Spread(len(window.facts))
    for group in _selection(window):
        published = PUBLISHED.get(group.sharing, (lowest, ANCHOR))
        now, error = _median(window.now("k"), group), _error(window.now("k_se"), group)
        start = _median(window.baseline["k"], group)
        low = np.nanmin([published[0] - settings.margin, start - settings.margin])
        high = np.nanmax([ANCHOR + settings.margin, start + settings.margin])
        beyond = max(low - now, now - high) - 4.0 * error
        warm = bool(window.warm[group.members].all())
        out.set(group, 1.0 + beyond if warm and beyond > 0 else 0.0, now, low, high)
    return out.rule_result(
        2,
        "median k",
        "The median k of this kind of matrix is outside what is known of trained models with this attention: look at the "
        "attention logits and the gradient norm; if the model is meant to be so, widen margin or switch the rule off",
    )


def selection_shift(window: SampleWindow, settings: SelectionShift) -> RuleResult | None:
    """k of a W_q or W_k, or of one of their heads, changed suddenly: beyond its own recent movement and standard error."""
    if len(window.steps) < HISTORY + 2:
        return None
    with quiet():
        moved, centre, size, _ = usual_movement(window, "k", settings.lookback)
        usual = np.sqrt(size**2 + window.now("k_se") ** 2)
        z = (moved - centre) / usual
        strength = np.minimum(np.abs(z) / settings.z, np.abs(moved - centre) / settings.change)
        before, now = window.before("k"), window.now("k")
        low, high = (before + centre + sign * settings.z * usual for sign in (-1.0, 1.0))
    chosen = window.facts.selection & window.facts.trainable
    return rule_result(
        strength=np.where(chosen, strength, 0.0),
        severity=2,
        quantity="k",
        value=now,
        low=low,
        high=high,
        z=z,
        meaning=lambda i: (
            f"The shape of this W_q or W_k went from {before[i]:.3f} to {now[i]:.3f} since step {window.steps[-2]}, far beyond "
            "its own movement: attention is being remade. Look at the rate of this parameter group, the gradient norm and the "
            "attention logits"
        ),
    )


def selection_drift(window: SampleWindow, settings: SelectionDrift) -> RuleResult | None:
    """How far the median k of W_q or W_k has come from the run's own baseline: none, mild (info), strong.

    Strong is a warning where it is not known of healthy models; separate MHA without QK-norm, begun near an anchor, ends there.
    """
    out = _Spread(len(window.facts))
    ranks = np.ones(len(window.facts), dtype=np.int8)
    for group in _selection(window):
        with quiet():
            drift = _median(window.now("k") / window.baseline["k"], group) - 1.0
            noise = np.hypot(_error(window.now("k_se"), group), _error(window.baseline["k_se"], group)) / ANCHOR
        start = _median(window.baseline["k"], group)
        if not np.isfinite(drift) or abs(drift) < settings.z * noise or not window.warm[group.members].all():
            continue
        expected = group.sharing == "separate" and start > 1.15
        strong = abs(drift) >= settings.strong
        ranks[group.members] = 2 if strong and not expected else 1
        out.set(group, abs(drift) / settings.mild, 100.0 * drift, -100.0 * settings.strong, 100.0 * settings.strong)
    return out.rule_result(
        ranks,
        "drift of the median k, %",
        lambda i: (
            "The median k of this kind has drifted from the baseline: "
            + (
                "strong; if this is not a model trained from the start, compare its outputs with the one it came from"
                if abs(out.value[i]) >= 100.0 * settings.strong
                else "mild, as attention does when it specialises"
            )
        ),
    )


class _Spread:
    """Values of groups, handed to each of their members."""

    def __init__(self, size: int) -> None:
        self.strength, self.value = np.zeros(size), np.full(size, np.nan)
        self.low, self.high = np.full(size, np.nan), np.full(size, np.nan)

    def set(self, group: JudgedGroup, strength: float, value: float, low: float, high: float) -> None:
        of = group.members
        self.strength[of], self.value[of], self.low[of], self.high[of] = strength, value, low, high

    def rule_result(self, severity: int | Ranks, quantity: str, meaning: str | Callable[[int], str]) -> RuleResult:
        return rule_result(self.strength, severity, quantity, self.value, meaning, self.low, self.high)


def _selection(window: SampleWindow) -> Iterable[JudgedGroup]:
    """Groups of W_q and W_k; of attention that is stored fused, the fused matrix, whose k the published figures are of."""
    return (g for g in window.facts.groups if g.component_class == ("mixed" if g.sharing == "fused" else "selection"))


def _median(values: Floats, group: JudgedGroup) -> float:
    known = values[group.members]
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else np.nan


def _error(errors: Floats, group: JudgedGroup) -> float:
    """Standard error of a median of so many fits: 1.2533 times that of their mean."""
    known = errors[group.members]
    known = known[np.isfinite(known)]
    return float((1.2533 if len(known) > 2 else 1.0) * np.sqrt(np.sum(known**2)) / len(known)) if len(known) else np.nan
