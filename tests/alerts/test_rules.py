"""Every rule: it finds its fault, names the component, and is silent of healthy runs and of values that are not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alerts.simulated import (
    ATTENTION,
    KINDS,
    Columns,
    alerts_of,
    component,
    components,
    healthy,
    index,
    samples_of,
    window_of,
)
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.rules import RULES

Q, K, OUT, UP, DOWN = (index(2, kind) for kind in ("attn_q", "attn_k", "attn_o", "ffn_up", "ffn_down"))
AT = 15
"""The sample from which a fault shows."""


def scaled(columns: list[Columns], i: int, factor: float) -> None:
    for now in columns[AT:]:
        now["lambda"][i] *= factor
        now["rms"][i] *= factor


def frozen(columns: list[Columns], i: int) -> None:
    for now in columns[AT:]:
        for name in ("k", "lambda", "r2", "rms", "zeros"):
            now[name][i] = columns[AT - 1][name][i]


def decayed(columns: list[Columns]) -> None:
    for n, now in enumerate(columns[AT:], 1):
        for name in ("lambda", "rms"):
            now[name] *= np.exp(-0.1 * n)
        now["weight_decay"][:] = 10.0


def set_from(columns: list[Columns], name: str, i: int, value: float) -> None:
    for now in columns[AT:]:
        now[name][i] = value


def drifting(columns: list[Columns], kinds: tuple[str, ...], to: float) -> None:
    """The k of all blocks of these kinds goes there in a line: no sample is a jump."""
    for block in range(4):
        for kind in kinds:
            i = index(block, kind)
            for n, now in enumerate(columns):
                now["k"][i] += (to - 1.2054) * n / len(columns)


def shifted(columns: list[Columns], name: str, by: float, most: int) -> None:
    """All matrices, one of them most."""
    for now in columns[AT:]:
        now[name] = now[name] + by
        now[name][most] += 0.3 * by


def exchanged(columns: list[Columns]) -> None:
    """W_k and W_v of all blocks, of different scale, k and largest value."""
    keys = [i for i in range(len(columns[0]["k"])) if i % len(KINDS) == KINDS.index("attn_k")]
    values = [i + 1 for i in keys]
    for n, now in enumerate(columns):
        for name, factor in (("lambda", 1.03), ("rms", 1.03), ("k", 0.98), ("largest", 1.2)):
            now[name][values] *= factor
            if n >= AT:
                now[name][[*keys, *values]] = now[name][[*values, *keys]]


def slowed(columns: list[Columns], i: int) -> None:
    for n, now in enumerate(columns[AT:], 1):
        for name in ("k", "lambda", "rms"):
            now[name][i] = columns[AT - 1][name][i] * (1 + 1e-8 * n)


def without_gradient(columns: list[Columns], i: int) -> None:
    """Decay alone: Σ ηλ_wd is 1e-3 a sample."""
    for n, now in enumerate(columns[AT:], 1):
        now["k"][i] = columns[AT - 1]["k"][i]
        for name in ("lambda", "rms"):
            now[name][i] = columns[AT - 1][name][i] * np.exp(-1e-3 * n)


def too_fast(columns: list[Columns], *members: int, start: int = AT) -> None:
    """These matrices take steps of ten times the size from a sample on."""
    for n, now in enumerate(columns[start:], 1):
        for i in members:
            for name in ("lambda", "rms", "largest"):
                now[name][i] *= 1.0 + 0.3 * n


def with_its_rate(columns: list[Columns], *members: int) -> None:
    """The same, and η is ten times as high."""
    too_fast(columns, *members)
    for n, now in enumerate(columns[AT:], 1):
        for i in members:
            now["eta"][i] *= 10.0
            now["eta_sum"][i] += 9e-2 * n


FAULTS = {
    "attention_scale": (lambda c: with_its_rate(c, Q, K), Q, "warning"),
    "setting_jump": (lambda c: with_its_rate(c, UP), UP, "warning"),
    "nonfinite": (lambda c: set_from(c, "nonfinite", UP, 3.0), UP, "error"),
    "dead": (lambda c: set_from(c, "zeros", OUT, 16384.0), OUT, "warning"),
    "impossible_change": (lambda c: scaled(c, Q, 8.0), Q, "error"),
    "scale_shift": (lambda c: scaled(c, K, 0.8), K, "warning"),
    "all_jumped": (lambda c: shifted(c, "k", -0.02, Q), Q, "warning"),
    "misplaced": (exchanged, K, "warning"),
    "scale_runaway": (lambda c: too_fast(c, UP, start=6), UP, "warning"),
    "scale_stall": (lambda c: slowed(c, UP), UP, "warning"),
    "selection_shift": (lambda c: set_from(c, "k", Q, 1.10), Q, "warning"),
    "selection_range": (lambda c: drifting(c, ("attn_q",), 0.55), index(0, "attn_q"), "warning"),
    "selection_drift": (lambda c: drifting(c, ("attn_k",), 0.80), index(0, "attn_k"), "warning"),
    "layer_outlier": (
        lambda c: [now["k"].__setitem__(K, now["k"][K] - 0.02 * n) for n, now in enumerate(c)],
        K,
        "warning",
    ),
    "transmission_exit": (lambda c: drifting(c, ("ffn_up",), 0.85), index(0, "ffn_up"), "warning"),
    "body_break": (lambda c: set_from(c, "r2", DOWN, 0.94), DOWN, "warning"),
    "unchanged": (lambda c: frozen(c, UP), UP, "warning"),
    "update_growth": (lambda c: set_from(c, "update_ratio", UP, 0.04), UP, "warning"),
    "update_excess": (lambda c: set_from(c, "update_ratio", UP, 0.08), UP, "warning"),
}


def test_there_is_a_fault_for_every_rule() -> None:
    assert set(FAULTS) | {"optimizer_reset", "no_gradient", "initialised_anew"} == set(RULES)


def test_a_matrix_that_only_decay_moves_is_named_in_an_info() -> None:
    columns = healthy()
    without_gradient(columns, OUT)
    found = [a for a in replay(samples_of(columns), None, [ATTENTION]) if a.finding.rule == "no_gradient"]
    assert [(a.finding.severity, a.finding.component) for a in found] == [("info", components()[OUT].name)]


def test_a_reset_of_the_optimizer_raises_one_alert_at_the_first_sample_after_it() -> None:
    """The count stays for the rest of the run, because the law's budget is no longer known."""
    samples = samples_of(healthy())
    lost = [
        replace(s, withheld={"optimizer_reset": 28} if n >= AT else {"too_early": 28}) for n, s in enumerate(samples)
    ]
    found = [a for a in replay(lost, None, [ATTENTION]) if a.finding.rule == "optimizer_reset"]
    assert [(a.phase, a.step) for a in found] == [("begins", 10 * AT), ("ends", 10 * (AT + 3))]
    assert found[0].finding.count == 28


@pytest.mark.parametrize(("share", "severity"), [(0.05, "info"), (0.45, "info"), (0.7, "warning"), (1.0, "warning")])
def test_a_reset_with_a_new_warm_up_is_meant(share: float, severity: str) -> None:
    columns = healthy(eta=2e-3)
    for now in columns[AT:]:
        now["eta"] = now["eta"] * share
    samples = [
        replace(s, withheld={"optimizer_reset": 28} if n >= AT else {}) for n, s in enumerate(samples_of(columns))
    ]
    found = [a.finding for a in replay(samples, None, [ATTENTION]) if a.finding.rule == "optimizer_reset"]
    assert [f.severity for f in found[:1]] == [severity]
    assert ("new phase" in found[0].meaning) is (severity == "info")


@pytest.mark.parametrize("rule", FAULTS)
def test_it_finds_its_fault_and_names_the_matrix(rule: str) -> None:
    break_it, victim, severity = FAULTS[rule]
    begun = [a for a in alerts_of(break_it, blocks=8 if rule == "layer_outlier" else 4) if a.phase != "ends"]  # type: ignore[arg-type]
    mine = [a for a in begun if a.finding.rule == rule]
    assert mine, [a.text for a in begun]
    name = components(8)[victim].name
    assert any(name in a.finding.components for a in mine)
    assert mine[-1].finding.severity == severity
    assert all(len(a.title) < 64 for a in mine)
    sudden = rule not in (
        "selection_range",
        "selection_drift",
        "layer_outlier",
        "transmission_exit",
        "update_growth",
        "scale_runaway",
    )
    if sudden:
        assert mine[0].step <= 10 * (AT + 2)
        assert mine[0].step >= 10 * AT


@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_raise_nothing(seed: int) -> None:
    assert alerts_of(seed=seed, samples=60) == []


EVERY = (
    "k",
    "lambda",
    "r2",
    "k_se",
    "rms",
    "zeros",
    "eta",
    "weight_decay",
    "eta_sum",
    "update_max",
    "update_ratio",
    "largest",
)
"""All columns."""


@pytest.mark.parametrize("column", EVERY)
def test_nothing_is_made_of_a_column_that_is_not_there(column: str) -> None:
    columns = healthy()
    for now in columns:
        now[column][:] = np.nan
    assert only_infos(columns) == []


def full_of_gaps() -> list[Columns]:
    """A sample and a component of NaN."""
    columns = healthy()
    for name in columns[8]:
        columns[8][name][:] = np.nan
    for now in columns:
        for name in now:
            now[name][3] = np.nan
    return columns


def test_nothing_is_made_of_gaps() -> None:
    assert only_infos(full_of_gaps()) == []


@pytest.mark.parametrize("rule", FAULTS)
def test_what_is_not_there_is_never_found(rule: str) -> None:
    """Thresholds are never NaN."""
    window = window_of(samples_of(full_of_gaps()))
    found = RULES[rule](window, getattr(AlertSettings(), rule))
    if found is not None:
        assert np.isfinite(found.strength).all()
        assert found.strength[3] == 0.0


def only_infos(columns: list[Columns]) -> list[str]:
    return [a.text for a in replay(samples_of(columns), None, [ATTENTION]) if a.finding.severity != "info"]


def test_a_matrix_that_was_not_there_before_has_no_usual_movement() -> None:
    columns = healthy()
    for now in columns[:AT]:
        for name in ("k", "lambda", "r2", "k_se", "rms"):
            now[name][UP] = np.nan  # as the B of LoRA, which begins as zeros
    assert only_infos(columns) == []


def test_the_bound_of_the_optimizer_is_that_of_the_steps_between_the_samples() -> None:
    """RMS 0.0203 + 10 steps of η 1e-3: up to 1.25 times 0.01 may be; ×1.5 is within, ×1.9 beyond, ×6 beyond Adam's own bound."""
    for factor, expected in ((1.5, None), (1.9, "warning"), (6.0, "error")):
        found = [
            a.finding for a in alerts_of(lambda c, f=factor: scaled(c, Q, f)) if a.finding.rule == "impossible_change"
        ]  # type: ignore[misc]
        assert [f.severity for f in found[:1]] == ([expected] if expected else [])


def test_optimizers_without_a_bound_have_no_impossible_change() -> None:
    def broken(columns: list[Columns]) -> None:
        for now in columns:
            now["update_max"][:] = now["element_max"][:] = np.nan
        scaled(columns, Q, 8.0)

    rules = {a.finding.rule for a in alerts_of(broken)}
    assert "impossible_change" not in rules
    assert "scale_shift" in rules


def test_weight_decay_by_mistake_is_found_though_each_matrix_moves_little() -> None:
    (known, *_) = [a for a in alerts_of(decayed) if a.finding.rule == "setting_jump"]
    assert (known.step, known.finding.count) == (10 * AT, len(components()))
    assert "λ_wd of its parameter group is 10; at step" in known.finding.meaning
    settings = AlertSettings.of({"setting_jump": False})
    found = [a for a in alerts_of(decayed, settings) if a.finding.rule == "scale_shift"]
    assert found[0].step <= 10 * (AT + 1)
    assert found[0].finding.count == len(components())
    assert "λ_wd 10" in found[0].finding.meaning


def test_a_fall_is_unusual_where_as_large_a_rise_is_not() -> None:
    """A matrix that learns grows by 2 to 7 % a sample; weight decay alone cannot take 15 % away."""

    def learning(columns: list[Columns]) -> None:
        chance, grown = np.random.default_rng(1), 0.0
        for now in columns[1:]:
            grown += chance.uniform(0.02, 0.07)
            for name in ("lambda", "rms"):
                now[name][K] *= np.exp(grown)

    def fallen(columns: list[Columns]) -> None:
        learning(columns)
        scaled(columns, K, 0.82)

    assert [a for a in alerts_of(learning) if a.finding.rule == "scale_shift"] == []
    assert [a.step for a in alerts_of(fallen) if a.finding.rule == "scale_shift"][:1] == [10 * AT]


def test_a_learning_rate_that_jumps_is_not_excused_by_itself() -> None:
    """η × 30 makes all steps 30 times as long: what moves as far as that would allow is still unusual."""

    def jumped(columns: list[Columns], factor: float) -> None:
        for n, now in enumerate(columns[AT:], 1):
            now["eta"] *= factor
            now["eta_sum"] += 0.01 * (factor - 1.0) * n
            for name in ("lambda", "rms"):
                now[name] *= np.exp(0.25 * n)

    assert "setting_jump" in {a.finding.rule for a in alerts_of(lambda c: jumped(c, 30.0))}
    assert "scale_shift" in {a.finding.rule for a in alerts_of(lambda c: jumped(c, 4.0))}


def test_a_warm_up_is_no_fault() -> None:
    """η rises in a line over the first 20 samples, and movement with it."""
    columns, path = healthy(samples=40), 0.0
    for n, now in enumerate(columns):
        share = min(1.0, n / 20)
        path += 1e-2 * share
        now["eta"][:], now["eta_sum"][:] = 1e-3 * share, path
        for name, start in (("lambda", columns[0]["lambda"]), ("rms", columns[0]["rms"])):
            now[name] = start * np.exp(4.0 * path)
        now["update_ratio"] = 0.25 * now["eta"] / now["rms"]
    assert only_infos(columns) == []


def test_a_frozen_matrix_and_a_finished_schedule_may_stand_still() -> None:
    columns = healthy()
    frozen(columns, UP)
    still = tuple(component(b, c.kind, trainable=i != UP) for i, c in enumerate(components()) for b in [c.block or 0])
    assert [a for a in replay(samples_of(columns, of=still), None, [ATTENTION]) if a.finding.rule == "unchanged"] == []
    columns = healthy()
    frozen(columns, UP)
    for now in columns[AT:]:
        now["eta"][:] = 1e-6  # the end of a cosine: bf16 loses all of it
    assert [a for a in replay(samples_of(columns), None, [ATTENTION]) if a.finding.rule == "unchanged"] == []


def test_ranges_follow_the_kind_of_attention() -> None:
    """A median of 0.80 is what separate heads come to, and beyond anything grouped ones do."""

    def fallen(columns: list[Columns]) -> None:
        drifting(columns, ("attn_q", "attn_k"), 0.80)

    def range_of(attention: dict[str, Any]) -> set[str]:
        columns = healthy()
        fallen(columns)
        found = replay(samples_of(columns), None, [attention])
        return {a.finding.severity for a in found if a.finding.rule == "selection_range"}

    separate = ATTENTION | {"sharing": "MHA"}
    assert range_of(separate) == set()
    assert range_of(ATTENTION) == {"info"}  # no published model with grouped heads has it, but others do
    assert range_of(separate | {"qk_norm": True}) == {"info"}
    assert "selection_drift" not in {a.finding.rule for a in alerts_of(fallen, attention=separate)}


def test_models_that_begin_elsewhere_have_not_left_anything() -> None:
    """PyTorch's default initialisation begins at k = 1.375, a fine-tuned model where it was left."""
    for start in (1.375, 0.80, 1.05):
        columns = healthy()
        for now in columns:
            now["k"] += start - 1.2054
        assert only_infos(columns) == []


def test_the_shallow_anomaly_has_its_own_words_and_is_no_warning() -> None:
    columns, i = healthy(blocks=8), index(1, "ffn_gate")
    for n, now in enumerate(columns):
        now["k"][i] -= 0.018 * n
    found = [a for a in replay(samples_of(columns, blocks=8), None, [ATTENTION]) if a.finding.rule == "layer_outlier"]
    assert [(a.phase, a.finding.severity) for a in found] == [("begins", "info")]
    assert "shallow feed-forward anomaly" in found[0].finding.meaning
    late = healthy(blocks=8)
    for now in late:
        now["k"][i] = 0.60  # as it was loaded
    loaded = [a for a in replay(samples_of(late, blocks=8), None, [ATTENTION]) if a.finding.rule == "layer_outlier"]
    assert [a.finding.severity for a in loaded if a.phase == "begins"] == ["info"]
    deep = healthy(blocks=8)
    for n, now in enumerate(deep):
        now["k"][index(7, "ffn_gate")] -= 0.018 * n
    (found, *_) = [
        a
        for a in replay(samples_of(deep, blocks=8), None, [ATTENTION])
        if a.finding.rule == "layer_outlier" and a.finding.severity == "warning"
    ]
    assert found.finding.severity == "warning"


def test_a_layer_that_was_loaded_at_another_scale_is_found_at_the_first_samples() -> None:
    columns, i = healthy(blocks=8), index(5, "attn_v")
    for now in columns:
        now["lambda"][i] *= 8.0
        now["rms"][i] *= 8.0
    found = [a for a in replay(samples_of(columns, blocks=8), None, [ATTENTION]) if a.finding.rule == "layer_outlier"]
    assert found[0].step == 10
    assert found[0].finding.component == components(8)[i].name
    assert found[0].finding.severity == "warning"


def test_a_slope_over_depth_is_no_outlier() -> None:
    columns = healthy(blocks=12)
    for now in columns:
        for block in range(12):
            for kind in ("attn_o", "ffn_down"):
                factor = 1.0 / np.sqrt(block + 1.0)  # a usual initialisation by depth
                now["lambda"][index(block, kind)] *= factor
                now["rms"][index(block, kind)] *= factor
    found = [a for a in replay(samples_of(columns, blocks=12), None, [ATTENTION]) if a.finding.rule == "layer_outlier"]
    assert [a for a in found if a.finding.severity != "info"] == []


def test_the_zeros_that_lora_begins_with_are_not_dead() -> None:
    columns = healthy()
    for now in columns[:4]:
        now["zeros"][UP], now["rms"][UP] = 65536.0, 0.0
        for name in ("k", "lambda", "r2", "k_se"):
            now[name][UP] = np.nan
    assert [a for a in replay(samples_of(columns), None, [ATTENTION]) if a.finding.rule == "dead"] == []
    for now in columns[AT:]:
        now["zeros"][UP], now["rms"][UP] = 65536.0, 0.0
    (found, *_) = [a for a in replay(samples_of(columns), None, [ATTENTION]) if a.finding.rule == "dead"]
    assert found.finding.severity == "error"
