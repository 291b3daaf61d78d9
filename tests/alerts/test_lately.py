"""Movements that are far beyond those of the last intervals, whatever a matrix did in its first ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import Columns, alerts_in, components, healthy, index, scale_by, window_in
from weibull_monitor.alerts.rules.lately import fell_lately, k_lately, r2_lately
from weibull_monitor.alerts.rules.steps import from_nothing, leaps, straightens
from weibull_monitor.history.alert import Alert

AT, SAMPLES, ETA = 26, 30, 6e-3
EMBEDDING = index(3, "ffn_down")
V, Q = index(2, "attn_v"), index(2, "attn_q")
UNIFORM, NORMAL = 1.3743, 1.2054
WITH_EMBEDDING = (
    *components()[:-1],
    replace(components()[-1], name="embed.weight", parameter="embed.weight", kind="embedding", block=None),
)


def run(samples: int = SAMPLES) -> list[Columns]:
    return healthy(samples, eta=ETA)


def serious(columns: list[Columns], rule: str = "", **more: object) -> list[Alert]:
    found = alerts_in(columns, rule, of=WITH_EMBEDDING, **more)  # type: ignore[arg-type]
    return [a for a in found if a.phase == "begins" and a.finding.severity != "info"]


def moved_early(columns: list[Columns], name: str, by: float, i: int) -> None:
    """One column of a matrix moves by so much from the second to the fourth sample, a part in each interval."""
    for n, now in enumerate(columns):
        now[name][i] += by * np.clip((n - 1) / 3.0, 0.0, 1.0)


@pytest.mark.parametrize("early", [0.0, 0.6])
def test_k_of_an_embedding_that_moved_far_when_it_began_to_learn_is_judged_by_what_it_does_now(early: float) -> None:
    columns = run()
    moved_early(columns, "k", early, EMBEDDING)
    for now in columns[AT:]:
        now["k"][EMBEDDING] -= 0.16
    assert [(a.finding.rule, a.step) for a in serious(columns)] == [("body_break", 10 * AT)]


def test_k_that_still_moves_as_far_has_not_jumped() -> None:
    columns = run()
    for n, now in enumerate(columns):
        now["k"][EMBEDDING] += 0.05 * (n % 2) - 0.1 * (n >= AT)
    assert serious(columns, "body_break") == []
    assert k_lately(window_in(columns[: AT + 1]))[EMBEDDING] < 1.0


@pytest.mark.parametrize(
    ("kind", "by", "found"), [("attn_v", 0.06, True), ("attn_q", 0.06, False), ("attn_q", 0.1, True)]
)
def test_w_q_and_w_k_may_move_further(kind: str, by: float, found: bool) -> None:
    columns, i = run(), index(2, kind)
    for n, now in enumerate(columns):
        now["k"][i] += 0.01 * (n % 2) - by * (n >= AT)
    assert (k_lately(window_in(columns[: AT + 1]))[i] >= 1.0) == found


@pytest.mark.parametrize("fall", [0.1, 0.2])
def test_a_fall_that_takes_back_what_an_early_interval_added_is_not(fall: float) -> None:
    columns = run()
    for n, now in enumerate(columns):
        scale_by(now, np.exp(0.75 * np.clip((n - 1) / 3.0, 0.0, 1.0) - fall * (n >= AT)), EMBEDDING)
    assert fell_lately(window_in(columns[: AT + 1], of=WITH_EMBEDDING))[EMBEDDING] == 0.0


def test_what_most_matrices_do_is_no_fall_of_one() -> None:
    columns = run()
    for now in columns[AT:]:
        scale_by(now, 0.8)
    assert not fell_lately(window_in(columns[: AT + 1])).any()


@pytest.mark.parametrize(("noise", "found"), [(0.0, True), (0.02, False)])
def test_a_fall_of_r2_is_compared_with_its_movements_of_late(noise: float, found: bool) -> None:
    columns = run()
    for n, now in enumerate(columns):
        now["r2"][V] = 0.99 - 1e-5 * n - noise * (n % 2) - 0.03 * (n >= AT)
    assert (r2_lately(window_in(columns[: AT + 1]))[V] >= 1.0) == found


def test_what_was_frozen_has_no_past_to_move_from() -> None:
    columns = run()
    for n, now in enumerate(columns):
        for name in ("k", "lambda", "rms", "r2", "largest"):
            if n < AT - 1:
                now[name][V] = columns[0][name][V]
        if n >= AT:
            now["k"][V] -= 0.2
            now["r2"][V] -= 0.1
            scale_by(now, 0.6, V)
    window = window_in(columns[: AT + 1])
    assert not any(rule(window)[V] for rule in (fell_lately, k_lately, r2_lately, leaps))


def test_one_matrix_alone_has_no_others_to_be_unlike() -> None:
    columns = run()
    for now in columns[AT:]:
        scale_by(now, 0.5, EMBEDDING)
    others = [replace(c, kind="other", block=None) for c in components()[:-1]]
    assert fell_lately(window_in(columns[: AT + 1], of=(*others, WITH_EMBEDDING[-1])))[EMBEDDING] >= 1.0


def test_k_that_passes_that_of_a_normal_distribution_does_not_come_nearer_to_it() -> None:
    columns = run()
    for n, now in enumerate(columns):
        now["k"][Q] = (UNIFORM if n < AT else 1.08) + 5e-4 * n
        now["r2"][Q] = 0.984 + 0.008 * (n >= AT)
    assert not straightens(window_in(columns[: AT + 1]))[Q]


def grown_from_nothing(columns: list[Columns], i: int, jump: float) -> None:
    """A matrix of zeros whose RMS grows by 1e-3 in each interval, and by ``jump`` in one; its line bends with it."""
    for n, now in enumerate(columns):
        rms = 1e-3 * n + jump * (n >= AT)
        now["lambda"][i], now["rms"][i], now["largest"][i] = 0.887 * rms, rms, 4.0 * rms
        now["r2"][i] -= 0.4 * (n >= AT)
        if n == 0:
            for name in ("k", "lambda", "r2", "k_se"):
                now[name][i] = np.nan


@pytest.mark.parametrize(("jump", "severity"), [(0.0, "info"), (5e-3, "warning")])
def test_what_began_at_nothing_is_a_sum_of_steps_only_while_it_grows_like_one(jump: float, severity: str) -> None:
    """So a line that bends is an info as long as the RMS grows by about as much as ever."""
    columns = healthy(SAMPLES, eta=0.08)  # a step is larger than the matrix, so that it still consists of its steps
    grown_from_nothing(columns, V, jump)
    window = window_in(columns[: AT + 1])
    assert leaps(window)[V] == (jump > 0.0)
    assert from_nothing(window)[V] == (jump == 0.0)
    found = [a for a in alerts_in(columns, "body_break") if a.phase == "begins" and a.step == 10 * AT]
    assert [a.finding.severity for a in found] == [severity]


@pytest.mark.parametrize(("left", "found"), [(0.9, False), (0.3, True)])
def test_what_consists_of_steps_does_not_lose_most_of_them_at_once(left: float, found: bool) -> None:
    columns = healthy(SAMPLES, eta=0.08)
    grown_from_nothing(columns, EMBEDDING, 0.0)
    for n, now in enumerate(columns):
        now["r2"][EMBEDDING] = 0.997 if n else np.nan
        if n >= AT:
            scale_by(now, left, EMBEDDING)
    alerts = serious(columns, "scale_shift")
    assert [(a.finding.component, a.step) for a in alerts] == [("embed.weight", 10 * AT)] * found
    assert all("its largest other change of late, in an interval of this length, was" in a.text for a in alerts)


GROWN = 1.0 - 1.16**-4


@pytest.mark.parametrize(("factor", "share", "severity"), [(1.16, GROWN, "info"), (1.0, 1.0, "warning")])
def test_uniform_values_become_normal_as_they_grow(factor: float, share: float, severity: str) -> None:
    """The excess kurtosis of a uniform distribution plus a normal one falls as RMS⁻⁴. What is drawn anew is normal at once."""
    chance = np.random.default_rng(0)
    before = chance.uniform(-1.0, 1.0, 1_000_000) * np.sqrt(3.0)
    after = before + np.sqrt(1.16**2 - 1.0) * chance.standard_normal(before.size)
    excess = [np.mean(v**4) / np.mean(v**2) ** 2 - 3.0 for v in (after, before)]
    assert 1.0 - excess[0] / excess[1] == pytest.approx(GROWN, rel=0.01)
    columns = run()
    for n, now in enumerate(columns):
        now["k"][Q] += (UNIFORM - NORMAL) * (1.0 - share * (n >= AT)) + 5e-4 * n
        now["r2"][Q] = 0.984 + 0.008 * (n >= AT)
        scale_by(now, factor if n >= AT else 1.0, Q)
        now["update_max"][Q] = now["element_max"][Q] = np.nan
    assert straightens(window_in(columns[: AT + 1]))[Q] == (severity == "info")
    found = [a for a in alerts_in(columns, "selection_shift") if a.phase == "begins"]
    assert [a.finding.severity for a in found] == [severity]
    assert ("came nearer to that of a normal distribution" in found[0].text) == (severity == "info")
