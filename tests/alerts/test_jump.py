"""Jumps of embeddings and heads, parts of a matrix that get small, and frozen matrices that change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alerts.simulated import Columns, alerts_in, components, healthy, index, scale_by, window_in
from weibull_monitor.alerts.rules.alone import part_lost
from weibull_monitor.alerts.rules.jump import rested
from weibull_monitor.alerts.settings import ScaleShift
from weibull_monitor.history.alert import Alert
from weibull_monitor.model.components import Component

AT, ETA, SAMPLES = 15, 6e-3, 24
EMBEDDING = index(3, "ffn_down")
V, UP, Q = index(2, "attn_v"), index(2, "ffn_up"), index(2, "attn_q")


def with_embedding(**different: Any) -> tuple[Component, ...]:
    """The matrices, of which the last one is an embedding."""
    (*others, last) = components()
    given = {"name": "model.embed.weight", "parameter": "model.embed.weight", "kind": "embedding", "block": None}
    return (*others, replace(last, **given | different))


def alerts_of(
    break_it: Callable[[list[Columns]], object], of: tuple[Component, ...] | None = None, **more: Any
) -> list[Alert]:
    columns = healthy(SAMPLES, eta=ETA)
    break_it(columns)
    return [a for a in alerts_in(columns, of=of or with_embedding(), **more) if a.phase != "ends"]


def serious(*given: Any, **more: Any) -> list[Alert]:
    return [a for a in alerts_of(*given, **more) if a.finding.severity != "info"]


def scaled(columns: list[Columns], i: int, by: float, start: int = AT) -> None:
    for now in columns[start:]:
        scale_by(now, np.exp(by), i)


@pytest.mark.parametrize("by", [-0.15, 0.11, 0.22])
def test_an_embedding_that_jumps_once_is_found_when_it_rests(by: float) -> None:
    """Within two samples, though it is like no others; and the alert says what it was before the jump."""
    found = serious(lambda c: scaled(c, EMBEDDING, by))
    assert [(a.finding.rule, a.finding.component) for a in found] == [("scale_shift", "model.embed.weight")]
    assert found[0].step in (10 * AT, 10 * (AT + 1))
    if found[0].step > 10 * AT:
        assert f"since step {10 * AT - 10}" in found[0].text
        assert f"since step {10 * AT}; its largest other change" in found[0].text


def test_one_jump_raises_one_alert() -> None:
    """At the second sample, `scale_shift` would find the jump that `impossible_change` has named at the first one."""

    def jumps(columns: list[Columns]) -> None:
        for now in columns:
            now["element_max"][:] = 1.0
        scaled(columns, EMBEDDING, 0.7)

    assert [(a.finding.rule, a.step // 10) for a in serious(jumps)] == [("impossible_change", AT)]


def test_an_embedding_that_begins_to_grow_is_not_found() -> None:
    """Training goes on with what it has begun, and another matrix begins, too."""

    def grows(columns: list[Columns], until: int = SAMPLES) -> None:
        for n in range(AT, until):
            scaled(columns, EMBEDDING, 0.11, n)
            scaled(columns, UP, 0.05, n)

    assert serious(grows) == []
    assert [a.step for a in serious(lambda c: grows(c, AT + 1))] == [10 * (AT + 1)]


def test_a_jump_of_all_matrices_is_none_of_an_embedding() -> None:
    def all_jump(columns: list[Columns]) -> None:
        for i in range(len(columns[0]["k"])):
            scaled(columns, i, 0.11)

    assert [a for a in serious(all_jump) if a.finding.component == "model.embed.weight"] == []


def test_what_began_to_move_a_moment_ago_has_no_past_to_jump_from() -> None:
    def thawed(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            if n < AT - 1:
                for name in ("k", "lambda", "rms", "largest"):
                    now[name][EMBEDDING] = columns[0][name][EMBEDDING]
        scaled(columns, EMBEDDING, 0.11)

    assert serious(thawed) == []


def lose(columns: list[Columns], i: int, scale: float = 0.96) -> None:
    """k falls as where a few rows were zeroed and have been filled with small values since."""
    for now in columns[AT:]:
        now["k"][i] -= 0.14
        now["lambda"][i] *= scale


@pytest.mark.parametrize(("matrix", "rule"), [(Q, "selection_shift"), (UP, "body_break")])
def test_a_part_that_gets_small_lowers_k_and_keeps_the_size(matrix: int, rule: str) -> None:
    found = serious(lambda c: lose(c, matrix))
    assert [(a.finding.rule, a.step, a.finding.component) for a in found] == [
        (rule, 10 * AT, components()[matrix].name)
    ]
    assert "some of its values became small" in found[0].text


def test_a_lower_k_of_a_larger_matrix_has_lost_no_part() -> None:
    columns = healthy(AT + 1)
    lose(columns, Q)
    assert part_lost(window_in(columns))[Q] > 1.0
    columns[AT]["rms"][Q] *= 1.1
    assert part_lost(window_in(columns))[Q] == 0.0


def faded(columns: list[Columns]) -> None:
    """All matrices shrink by 4 % a sample, as under weight decay in the gradient."""
    for n, now in enumerate(columns):
        scale_by(now, 0.95**n)


@pytest.mark.parametrize("by", [-0.35, 0.35])
def test_what_one_matrix_does_alone_is_no_weight_decay_in_the_gradient(by: float) -> None:
    def breaks(columns: list[Columns]) -> None:
        faded(columns)
        for now in columns[AT:]:
            now["k"][UP] += by

    coupled = {"coupled_weight_decay": len(components())}
    found = serious(breaks, withheld=coupled)
    assert [(a.finding.rule, a.finding.component) for a in found] == [("body_break", components()[UP].name)]
    assert serious(faded, withheld=coupled) == []


def still(columns: list[Columns], i: int) -> None:
    for now in columns:
        for name in ("k", "lambda", "rms", "largest", "r2"):
            now[name][i] = columns[0][name][i]
        now["eta"][i] = now["eta_sum"][i] = now["update_max"][i] = now["element_max"][i] = np.nan


def merged(columns: list[Columns]) -> None:
    still(columns, V)
    scaled(columns, V, 1e-3)


def of_frozen(**different: Any) -> tuple[Component, ...]:
    chosen = list(components())
    chosen[V] = replace(chosen[V], trainable=False, **different)
    return tuple(chosen)


def test_a_frozen_matrix_that_changes_is_a_fact_whatever_the_size_of_the_change() -> None:
    (found,) = serious(merged, of_frozen())
    assert (found.finding.rule, found.step, found.finding.component) == (
        "impossible_change",
        10 * AT,
        components()[V].name,
    )
    assert "This matrix is frozen, and not one of its values had changed before" in found.text
    assert "adapter" in found.text


def test_a_frozen_matrix_that_is_always_updated_is_a_teacher() -> None:
    def teacher(columns: list[Columns]) -> None:
        still(columns, V)
        for n in range(1, SAMPLES):
            scaled(columns, V, 1e-3, n)

    assert alerts_of(teacher, of_frozen()) == []


def test_a_frozen_copy_of_a_trained_matrix_may_be_updated_now_and_then() -> None:
    """As the target network of a DQN."""
    of = of_frozen(name="target." + components()[UP].name.partition(".")[2])
    assert serious(merged, of) == []
    assert "if it is copied from there now and then" in alerts_of(merged, of)[0].text


def test_a_matrix_with_an_eta_of_zero_is_frozen_and_one_without_an_optimizer_an_info() -> None:
    def at_zero(columns: list[Columns]) -> None:
        merged(columns)
        for now in columns[1:]:
            now["eta"][V] = now["eta_sum"][V] = 0.0

    assert [a.finding.rule for a in serious(at_zero)] == ["impossible_change"]
    assert "Its η is 0" in serious(at_zero)[0].text
    assert serious(merged) == []
    assert "in no optimizer that the monitor knows" in alerts_of(merged)[0].text


def grown(columns: list[Columns], i: int, by: float, before: float, others: float, after: float) -> None:
    """A matrix that grew by ``before`` once, and later by ``by`` and ``after``; another one by ``before`` and ``others``."""
    for at, of, much in ((AT - 6, i, before), (AT, i, by), (AT + 1, i, after), (AT - 6, UP, before), (AT, UP, others)):
        scaled(columns, of, much, at)


@pytest.mark.parametrize(
    ("i", "before", "others", "after", "found"),
    [
        (V, 0.04, 0.02, 0.0, True),  # 2.8 times as far as ever, and 5 times as far as any other
        (V, 0.04, 0.02, 0.07, False),  # it goes on
        (V, 0.04, 0.12, 0.0, False),  # another one grows, too
        (V, 0.09, 0.04, 0.0, False),  # it has grown so before
        (Q, 0.04, 0.02, 0.0, False),  # attention wakes
    ],
)
def test_a_matrix_that_grows_alone_and_rests_was_written(
    i: int, before: float, others: float, after: float, found: bool
) -> None:
    columns = healthy(SAMPLES, eta=ETA)
    grown(columns, i, 0.13, before, others, after)
    strength = rested(window_in(columns[: AT + 2]), ScaleShift())
    assert (strength[i] >= 1.0) == found
    assert np.delete(strength, i).max() < 1.0


@pytest.mark.parametrize(("after", "others", "found"), [(0.0, 0.0, True), (0.06, 0.0, False), (0.0, 0.15, False)])
def test_several_matrices_that_grow_and_rest_were_written(after: float, others: float, found: bool) -> None:
    """Far further than before, than in the next interval, and than the model: they do not begin to learn."""
    columns, several = healthy(SAMPLES, eta=ETA), [V, UP, index(2, "attn_o"), index(2, "ffn_down")]
    for of in range(len(components())):
        scaled(columns, of, others, AT)
    for of in several:
        for at, much in ((AT - 6, 0.03), (AT, 0.2), (AT + 1, after)):
            scaled(columns, of, much, at)
    strength = rested(window_in(columns[: AT + 2]), ScaleShift())
    assert (strength[several] >= 1.0).all() == found
    assert np.delete(strength, several).max() < 1.0


@pytest.mark.parametrize("i", [V, Q])
@pytest.mark.parametrize(
    ("before", "after", "longer", "found"),
    [
        (0.1, 0.0, 1.0, True),
        (0.1, -0.05, 1.0, False),  # it goes on
        (0.25, 0.0, 1.0, False),  # it has moved so before
        (0.1, 0.0, 0.4, False),  # hardly any steps since then
    ],
)
def test_matrices_that_fall_and_stop_were_written_however_many_they_are(
    i: int, before: float, after: float, longer: float, found: bool
) -> None:
    columns = healthy(SAMPLES, eta=ETA)
    for of in (i, i + len(components()) // 4, UP):
        for at, much in ((AT - 6, before), (AT, -0.26), (AT + 1, after)):
            scaled(columns, of, much, at)
    columns[AT + 1]["eta_sum"] = columns[AT]["eta_sum"] + longer * (columns[AT]["eta_sum"] - columns[AT - 1]["eta_sum"])
    strength = rested(window_in(columns[: AT + 2]), ScaleShift())
    assert (strength[[i, UP]] >= 1.0).tolist() == [found, found]


def test_a_small_jump_alone_is_found_when_it_rests() -> None:
    """At the first sample it is too small for what a matrix does alone now and then."""
    (alert,) = serious(lambda c: scaled(c, V, 0.045), components())
    assert (alert.finding.rule, alert.finding.component) == ("scale_shift", "model.layers.2.attn_v.weight")
    assert alert.step == 10 * (AT + 1)
    assert "does not jump and then rest" in alert.text


def test_a_matrix_that_grows_less_than_most_has_not_grown_alone() -> None:
    """Its peers stand still, but most matrices of the blocks grow further."""
    columns = healthy(SAMPLES, eta=ETA)
    grown(columns, V, 0.13, 0.0, 0.0, 0.0)
    assert rested(window_in(columns[: AT + 2]), ScaleShift())[V] >= 1.0
    for i in [i for i, c in enumerate(components()) if c.kind not in ("attn_v", "attn_o")]:
        scaled(columns, i, 0.2, AT)
    assert rested(window_in(columns[: AT + 2]), ScaleShift())[V] < 1.0


@pytest.mark.parametrize(("spent", "found"), [(1.0, True), (0.1, False)])
def test_a_growth_that_goes_on_at_a_lower_rate_does_not_rest(spent: float, found: bool) -> None:
    """It moves by a tenth with a tenth of the Σ η."""
    columns = healthy(SAMPLES, eta=ETA)
    grown(columns, V, 0.13, 0.0, 0.0, 0.013)
    columns[AT + 1]["eta_sum"] = columns[AT]["eta_sum"] + spent * (columns[AT]["eta_sum"] - columns[AT - 1]["eta_sum"])
    assert (rested(window_in(columns[: AT + 2]), ScaleShift())[V] >= 1.0) == found


@pytest.mark.parametrize("kind", ["embedding", "mixer"])
@pytest.mark.parametrize(("k", "severities"), [(-0.4, ["warning"]), (-0.02, [])])
def test_the_shape_of_what_is_outside_attention_and_feed_forward_is_judged_by_its_past(
    kind: str, k: float, severities: list[str]
) -> None:
    """As where a page is zeroed and filled again by later steps; a mixer stands in a block, an embedding in none."""

    def bend(columns: list[Columns]) -> None:
        for now in columns[AT:]:
            now["k"][EMBEDDING] += k

    of = with_embedding(kind=kind, block=3 if kind == "mixer" else None)
    found = [a.finding.severity for a in alerts_of(bend, of) if a.finding.rule == "body_break"]
    assert found == severities
