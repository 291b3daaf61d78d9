"""Every rule: it finds its fault, names the component, and is silent of healthy runs and of values that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.simulated import (
    KINDS,
    Columns,
    alerts_in,
    alerts_of,
    components,
    healthy,
    index,
    scale_by,
    watched,
    window_in,
    written,
)
from weibull_monitor.alerts import AlertSettings
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


def too_fast(columns: list[Columns], *members: int, start: int = AT, by: float = 0.3) -> None:
    """These matrices take steps of ten times the size from a sample on."""
    for n, now in enumerate(columns[start:], 1):
        for i in members:
            scale_by(now, 1.0 + by * n, i)


def with_its_rate(columns: list[Columns], *members: int) -> None:
    """The same, and η is ten times as high."""
    too_fast(columns, *members)
    for n, now in enumerate(columns[AT:], 1):
        for i in members:
            now["eta"][i] *= 10.0
            now["eta_sum"][i] += 9e-2 * n


def written_to(columns: list[Columns]) -> None:
    watched(columns)
    written(columns, UP, at=AT)


FAULTS = {
    "attention_scale": (lambda c: with_its_rate(c, Q, K), Q, "warning"),
    "setting_jump": (lambda c: with_its_rate(c, UP), UP, "warning"),
    "nonfinite": (lambda c: set_from(c, "nonfinite", UP, 3.0), UP, "error"),
    "dead": (lambda c: set_from(c, "zeros", OUT, 16384.0), OUT, "warning"),
    "impossible_change": (lambda c: scaled(c, Q, 8.0), Q, "error"),
    "scale_shift": (lambda c: scaled(c, K, 0.8), K, "warning"),
    "all_jumped": (lambda c: shifted(c, "k", -0.02, Q), Q, "warning"),
    "misplaced": (exchanged, K, "warning"),
    "outside_write": (written_to, UP, "warning"),
    "scale_runaway": (lambda c: too_fast(c, UP, start=6, by=0.45), UP, "warning"),
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
    found = alerts_in(columns, "no_gradient")
    assert [(a.finding.severity, a.finding.component) for a in found] == [("info", components()[OUT].name)]


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
    window = window_in(full_of_gaps())
    found = RULES[rule](window, getattr(AlertSettings(), rule))
    if found is not None:
        assert np.isfinite(found.strength).all()
        assert found.strength[3] == 0.0


def only_infos(columns: list[Columns]) -> list[str]:
    return [a.text for a in alerts_in(columns) if a.finding.severity != "info"]


def test_a_matrix_that_was_not_there_before_has_no_usual_movement() -> None:
    columns = healthy()
    for now in columns[:AT]:
        for name in ("k", "lambda", "r2", "k_se", "rms"):
            now[name][UP] = np.nan  # as the B of LoRA, which begins as zeros
    assert only_infos(columns) == []


def test_the_zeros_that_lora_begins_with_are_not_dead() -> None:
    columns = healthy()
    for now in columns[:4]:
        now["zeros"][UP], now["rms"][UP] = 65536.0, 0.0
        for name in ("k", "lambda", "r2", "k_se"):
            now[name][UP] = np.nan
    assert alerts_in(columns, "dead") == []
    for now in columns[AT:]:
        now["zeros"][UP], now["rms"][UP] = 65536.0, 0.0
    (found, *_) = alerts_in(columns, "dead")
    assert found.finding.severity == "error"
