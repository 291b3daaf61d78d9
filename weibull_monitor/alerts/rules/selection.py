"""k of W_q and W_k: `selection_range`, `selection_shift`, `selection_drift`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from weibull_monitor.alerts.component_arrays import JudgedGroup
from weibull_monitor.alerts.rules.alone import alone, moved_together, part_lost
from weibull_monitor.alerts.rules.excuse import STRAIGHTENS, comparable, excused, group_excused, reason
from weibull_monitor.alerts.rules.groups import (
    GroupResults,
    around,
    group_error,
    median_drift,
    median_k,
    median_start,
    medians_at_start,
    of_group,
    of_parts,
    warm,
)
from weibull_monitor.alerts.rules.lately import k_lately
from weibull_monitor.alerts.rules.movement import (
    AS_OTHERS,
    MIN_INTERVALS,
    as_ever,
    caution,
    median_if_many,
    shift_result,
    unlike_both,
    unlike_others,
    usual_movement,
)
from weibull_monitor.alerts.rules.result import RuleResult
from weibull_monitor.alerts.rules.steps import one_way, straightens
from weibull_monitor.alerts.rules.trained import goes_on
from weibull_monitor.alerts.rules.words import LOST_CASE, ONE_WAY_CASE, between, fit_got_worse, mixed_case
from weibull_monitor.alerts.settings import SelectionDrift, SelectionRange, SelectionShift
from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.analysis.published import AttentionKind, published_medians
from weibull_monitor.measure.weibull import anchors

LOWEST_PUBLISHED: Final[dict[AttentionKind, float]] = {
    "mha": min(published_medians(("attn_q", "attn_k"), {"mha"})),  # 0.7601: OLMo-1 7B alone
    "mha_qk_norm": min(published_medians(("attn_q", "attn_k"), {"mha_qk_norm"})),  # 0.9716: OLMo-2 7B alone
    "gqa": min(published_medians(("attn_q", "attn_k"), {"gqa"})),  # 1.0947: 13 models of Llama-3, Mistral and Qwen
    "fused": min(published_medians(("attn_qkv",), {"fused"})),  # 1.0488: 5 models of Pythia, the whole fused matrix
}
"""Lowest per-model median over blocks of k of W_q or W_k, by type of attention."""
MIN_START: Final = 1.15
"""A baseline k above this is near an initialisation."""
RANGE_ERRORS: Final = 4.0
"""Standard errors that a median has to be outside its range."""


def lowest_of(group: JudgedGroup) -> float:
    """The lowest published median of its type of attention; of all, if no published model has it."""
    return LOWEST_PUBLISHED[group.attention] if group.attention else min(LOWEST_PUBLISHED.values())


def selection_range(window: SampleWindow, settings: SelectionRange) -> RuleResult | None:
    """The median k of a kind is outside the range between trained models, the anchor and its own start.

    The range goes from the lowest published median to the normal anchor, or to the run's own baseline if that is further out,
    and is wider by ``margin`` at both ends. For attention without published models (MLA, unknown) the lowest median of all
    types is taken. The published models are decoders of 70 M and above: for others it is a warning only below all types of
    attention. Above it is an info: steps like signs lead to the uniform distribution, and a matrix that takes one direction, as
    before attention begins to learn, beyond it.
    """
    lowest = min(LOWEST_PUBLISHED.values())
    results, starts = GroupResults(window.now("k").shape), np.full(len(window.components), np.nan)
    ranges = ranges_of_k(window, settings)
    for group in _selection(window):
        now, error = median_k(window, group), group_error(window.now("k_se"), group)
        starts[group.members] = median_start(window, group)
        low, high = (of_group(ends, window, group) for ends in ranges)
        with quiet():
            beyond = np.maximum(low - now, now - high) - RANGE_ERRORS * error
            if not (beyond > 0.0).any():
                continue  # nearly always
            lowest_of_all = np.minimum(lowest - settings.margin, low)
            far = lowest_of_all - now > RANGE_ERRORS * error
            far &= of_parts(window, group, partial(_below, window, lowest_of_all))
            strength = np.where(warm(window, group) & (beyond > 0), 1.0 + beyond, 0.0)
        far &= ~group_excused(window, group) & comparable(window)
        results.set(group, far, strength, now, low, high)
    return results.rule_result(
        "median k",
        lambda i: (
            f"The median k of this kind {between(starts[i], results.value[i], 0)}, and is outside the range of trained models "
            "with this attention. "
            + (
                reason(window, i)
                or "Check first the largest attention logit. If it grows, lower the rate of W_q and W_k or add QK-norm; if the "
                "model is meant to be so, raise margin or switch the rule off."
            )
        ),
    )


def selection_shift(window: SampleWindow, settings: SelectionShift) -> RuleResult | None:
    """k of a W_q or W_k, or of one of their heads, changed suddenly: beyond its own recent movement and standard error."""
    if len(window.steps) < MIN_INTERVALS + 2:
        return None
    move = usual_movement(window, "k", settings.lookback)
    before, now = window.before("k"), window.now("k")
    with quiet():
        # W_q and W_k wake together, and k of the rest hardly moves then.
        alike = window.components.selection & window.components.body & window.components.trainable
        move = replace(move, others=np.fmax(move.others, median_if_many(np.abs(move.last[..., alike]))))
        usual = np.sqrt(move.size**2 + window.now("k_se") ** 2 + (AS_OTHERS * move.others) ** 2)
        usual = as_ever(usual, move.own, settings.z * type(settings).sure)
        error = window.now("k_se")
        # Attention that begins to learn takes one direction, which makes k rise; nothing healthy makes it fall as quickly.
        rises = move.last > 0.0
        limits = np.where(rises, settings.both_rise, settings.both), settings.change
        recent = np.where(rises, settings.both_rise, 1.5 * settings.both)
        both = unlike_both(window, move.last, move, error, limits, type(settings).sure, recent)
        fell = np.minimum(
            alone(window, -move.last, move.own, error, (settings.alone, settings.own)), -move.last / settings.change
        )
        fell = np.fmax(np.fmax(fell, k_lately(window)), np.fmax(moved_together(window), part_lost(window)))
        both = np.where(window.jumped, 0.0, np.fmax(both, np.where(fell >= 1.0, type(settings).sure * fell, 0.0)))
        besides = np.fmax(unlike_others(window, move, error, settings), both)
        moves = np.abs(move.last) >= settings.change
        better = moves & straightens(window) if moves.any() else moves
    return shift_result(
        window,
        "k",
        (move.last, move.centre, usual),
        (settings.z, settings.change),
        window.components.selection & window.components.trainable & ~window.components.whole,
        "k",
        lambda i: (
            f"k of this matrix, which makes queries or keys, {between(before[i], now[i], window.steps[-2])}; it usually moves by "
            f"{np.fmin(usual, move.own)[i]:.2g} from sample to sample. "
            + (
                ONE_WAY_CASE
                if one_way(window)[i]
                else because
                if (because := reason(window, i))
                else STRAIGHTENS
                if better[i]
                else LOST_CASE
                if part_lost(window)[i] >= 1.0
                else mixed_case(window, i)
                if moved_together(window)[i] >= 1.0
                else "Its fit got worse, too, so a part of it was overwritten, such as a head or some rows. Check first the "
                "matrix by row (`weight.std(1)`); if you did not write to it, go back to the last checkpoint."
                if fit_got_worse(window, i)
                else "Its attention is changing suddenly, or it was overwritten as a whole. Check first the learning rate of its "
                "parameter group, then the gradient norm and the attention logits. If they do not explain it, go back to the "
                "last checkpoint."
            )
        ),
        besides,
        caution(window),
        lambda: one_way(window) | better | excused(window),
    )


def selection_drift(window: SampleWindow, settings: SelectionDrift) -> RuleResult | None:
    """Drift of the median k of W_q or W_k from the run's own baseline: mild is an info, strong a warning.

    Strong drift stays an info where healthy models have it: up, as with Lion, whose steps have one size; or down in multi-head
    attention with separate matrices and no QK-norm. Both only if the run started near an initialisation.
    """
    normal = anchors()["normal"].k
    results = GroupResults(window.now("k").shape)
    starts, ends = np.full(len(window.components), np.nan), np.full(window.now("k").shape, np.nan)
    for group in _selection(window):
        with quiet():
            drift = median_drift(window, group)
            error, start_error = (
                group_error(values, group) for values in (window.now("k_se"), window.baseline["k_se"])
            )
            noise = np.hypot(error, start_error) / normal
            size = np.abs(drift)
            found = np.isfinite(drift) & ~(size < settings.z * noise) & warm(window, group)
        starts[group.members] = start = median_start(window, group)
        ends[..., group.members] = median_k(window, group)
        strength = np.where(found, size / settings.mild, 0.0)
        if not (strength >= 1.0).any():
            results.set(group, strength >= 1.0, strength, 100.0 * drift, np.nan, np.nan)
            continue  # nearly always
        # Steps of one size make k rise.
        begun = (start > MIN_START) | (not goes_on(window))
        expected = begun & ((group.attention == "mha") | (drift > 0.0)) | group_excused(window, group)
        strong = (size >= settings.strong) & ~expected
        strong &= of_parts(window, group, lambda part: np.abs(median_drift(window, part)) >= settings.strong)
        limit = 100.0 * np.where(strong, settings.strong, settings.mild)
        results.set(group, strong, strength, 100.0 * drift, -limit, limit)
    return results.rule_result(
        "drift of the median k in %",
        lambda i: (
            f"The median k of this kind {between(starts[i], ends[i], 0)}. "
            + (
                because
                if (because := reason(window, i))
                else "This is a strong drift. If the model was not trained from scratch, check first its outputs against those "
                "of the model it started from; if they are worse, lower the learning rate."
                if abs(results.value[i]) >= 100.0 * settings.strong
                else (
                    "It falls when attention specialises; nothing has to be done."
                    if results.value[i] < 0.0
                    else "It rises before attention begins to learn, and where all steps have one size, as with Lion; nothing "
                    "has to be done."
                )
            )
        ),
    )


def _below(window: SampleWindow, least: Floats, group: JudgedGroup) -> Bools:
    found: Bools = median_k(window, group) < least
    return found


def _selection(window: SampleWindow) -> Iterable[JudgedGroup]:
    """Groups of W_q and W_k. With fused storage the whole fused matrix, because the published values are of that."""
    return (group for group in window.components.groups if selects(group))


def selects(group: JudgedGroup) -> bool:
    """Whether it is a group of W_q or W_k; with fused storage, of the whole fused matrix."""
    return group.component_class == ("mixed" if group.attention == "fused" else "selection")


def ranges_of_k(window: SampleWindow, settings: SelectionRange) -> tuple[Floats, Floats]:
    """The range of `selection_range` of each group, two arrays of shape (groups,): infinite for those that it does not judge."""
    groups, normal = window.components.groups, anchors()["normal"].k
    ends = [(lowest_of(group), normal) if selects(group) else (-np.inf, np.inf) for group in groups]
    low, high = np.reshape(ends, (-1, 2)).T
    low, high = around(low, medians_at_start(window), high)
    return low - settings.margin, high + settings.margin
