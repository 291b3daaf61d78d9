"""What alerts say: numbers that differ in the digits shown, since when, how sure, what to check first, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from alerts.simulated import ATTENTION, Columns, alerts_in, alerts_of, components, healthy, index, samples_of, scale_by
from alerts.test_loaded import begin_anew, loaded, named
from alerts.test_rules import AT, FAULTS, UP, Q, scaled, set_from, without_gradient
from alerts.test_setting_jump import grown, rates
from weibull_monitor.alerts import replay
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.rules.words import signed
from weibull_monitor.history.alert import Alert, Finding

ACTION = re.compile(
    r"go back|lower|raise |correct it|add |nothing has to be done|Load its weights|loaded|load |keep a|stay so|"
    r"detaches|vanished|parameter group|rescales|argmax|learn|read the messages"
)


@cache
def rendered(rule: str) -> list[Alert]:
    """All alerts of the rule when it finds its fault, infos included."""
    columns, blocks = healthy(blocks=8), 8
    if rule == "optimizer_reset":
        samples = samples_of(columns, blocks=8)
        samples = [replace(s, withheld={"optimizer_reset": 56}) if n >= AT else s for n, s in enumerate(samples)]
        return [a for a in replay(samples, None, [ATTENTION]) if a.finding.rule == rule]
    if rule == "initialised_anew":
        columns = loaded()
        begin_anew(columns, index(3, "attn_q"))
        return named(columns)
    if rule == "no_gradient":
        without_gradient(columns, UP)
    else:
        FAULTS[rule][0](columns)  # type: ignore[no-untyped-call]
    return alerts_in(columns, rule, blocks=blocks)


@pytest.mark.parametrize("rule", RULES)
def test_a_sentence_says_what_happened_since_when_how_sure_and_what_to_do(rule: str) -> None:
    begun = [a for a in rendered(rule) if a.phase != "ends"]
    assert begun
    for alert in begun:
        text = alert.text
        numbers_differ(text)
        value, (low, high) = alert.finding.value, alert.finding.expected
        assert value is None or not (low is not None and high is not None and low < value < high), text
        assert value is None or low is not None or high is None or value > high, text
        assert re.search(r"step \d+", alert.finding.meaning), text  # since when
        assert re.search(r"This is certain\.|Strength [\d.,e+]+, a warning from|Healthy runs can have this", text), text
        assert re.search(
            r"[Cc]heck first|Look at|Load its weights|go back|read the messages|nothing has to be done", text
        ), text
        assert ACTION.search(text), text
        assert not re.search(r"\bnan\b|None|\binf\b", text), text
        assert len(text) < 700, text


def numbers_differ(text: str) -> None:
    """Where a value is held against another one, they are not the same number in the digits shown."""
    pairs = re.findall(r"went from (\S+) to (\S+?)(?=[ ,;.]* )", text)
    pairs += re.findall(r"moved it by (\S+) %.*?moved it by (\S+) %", text)
    pairs += re.findall(r"of this block is (\S+), that of the others of its kind about (\S+?)[.;]? ", text)
    value = re.search(r": \D*? ([-\d.e+]+), expected (?:at most |at least )?([-\d.e+]+)(?: to ([-\d.e+]+))?[,. ]", text)
    if value:
        pairs += [(value[1], edge.rstrip(".")) for edge in value.groups()[1:] if edge]
    assert all(before != now for before, now in pairs), text


def test_the_check_of_numbers_can_fail() -> None:
    with pytest.raises(AssertionError):
        numbers_differ("The RMS went from 0.05048 to 0.05048 since step 10; no step can do that.")
    with pytest.raises(AssertionError):
        numbers_differ("step 150: a: k 1.101, expected 1.101 to 1.301, z 3. Look.")


def test_what_is_unlike_the_others_is_not_held_against_a_range_that_it_is_in() -> None:
    def later(columns: list[Columns]) -> None:  # λ moves much at first, which widens what is usual for it
        for n, now in enumerate(columns[1:8]):
            shrink(now, 1.0 + 0.1 * (n % 2))
        for now in columns[AT:]:
            shrink(now, 0.80)

    text = said(later, "scale_shift")
    found = re.search(r"λ ([\d.]+)(?:, expected ([\d.]+) to ([\d.]+))?", text)
    assert found
    assert found[2] is None or not float(found[2]) < float(found[1]) < float(found[3]), text


def shrink(now: Columns, factor: float) -> None:
    """Multiplies λ of a matrix; its RMS moves less, and no further than the optimizer can move it."""
    now["lambda"][UP] *= factor
    now["rms"][UP] *= factor**0.3


def said(break_it: Callable[[list[Columns]], object], rule: str) -> str:
    return next(a.text for a in alerts_of(break_it) if a.finding.rule == rule)


def test_a_small_impossible_change_has_digits_that_show_it() -> None:
    def by_little(columns: list[Columns]) -> None:
        for now in columns:
            now["eta"] *= 1e-6
            now["eta_sum"] *= 1e-6
        for now in columns[1:]:  # nothing moves
            for name in ("k", "lambda", "rms", "r2", "largest"):
                now[name] = columns[0][name].copy()
        for now in columns[AT:]:
            now["rms"][UP] *= 1.0004

    text = said(by_little, "impossible_change")
    numbers_differ(text)
    was, now = re.findall(r"RMS went from (\S+) to (\S+)", text)[0]
    assert float(now) / float(was) == pytest.approx(1.0004, abs=2e-4)


def test_inf_and_nan_are_told_with_the_last_clean_sample_of_the_model() -> None:
    def spreading(columns: list[Columns]) -> None:
        set_from(columns, "nonfinite", UP, 3.0)
        for now in columns[AT + 2 :]:
            now["nonfinite"][:] = 65536.0

    columns = healthy()
    spreading(columns)
    first, *later = [a.text for a in alerts_in(columns, "nonfinite")]
    assert "the last sample of the model without them was at step 140" in first
    assert "All matrices" not in first
    assert all("without them was at step 140" in text and "All matrices have them" in text for text in later)


def test_a_blow_up_of_all_matrices_is_not_told_as_one_layer() -> None:
    def blown_up(columns: list[Columns]) -> None:
        chance = np.random.default_rng(0)
        for i in range(len(components())):
            scaled(columns, i, float(chance.uniform(4.0, 9.0)))

    found = [a for a in alerts_of(blown_up) if a.phase != "ends"]
    assert "impossible_change" in {a.finding.rule for a in found}
    for alert in found:
        assert not re.search(r"this layer|this block|initialised anew|multiplied by", alert.finding.meaning), alert.text
    assert "Most matrices changed at once" in said(blown_up, "impossible_change")


def test_what_has_not_come_back_is_not_over() -> None:
    def jumped(columns: list[Columns]) -> None:
        scaled(columns, Q, 8.0)

    ended = [a for a in alerts_of(jumped) if a.finding.rule == "impossible_change" and a.phase == "ends"]
    assert ended == []


def test_a_shift_names_the_cause_that_the_data_support() -> None:
    def one(columns: list[Columns]) -> None:
        scaled(columns, index(1, "attn_v"), 0.8)

    def rate(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:], 1):
            now["eta"] *= 4.0
            now["eta_sum"] += 0.03 * n
            for name in ("lambda", "rms"):
                now[name] *= np.exp(0.25 * n)

    assert "No other matrix shrank nearly as much." in said(one, "scale_shift")
    assert "more than twice its highest value before" in said(rate, "scale_shift")


def test_what_comes_back_by_training_is_not_called_undone() -> None:
    """W_k initialised anew: λ grows back in the following steps, and what the matrix had learnt is lost all the same."""

    def anew(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:]):
            shrink(now, 0.75 + 0.25 * min(1.0, n / 3))

    (ended,) = [a for a in alerts_of(anew) if a.finding.rule == "scale_shift" and a.phase == "ends"]
    assert "λ is back: it is" in ended.text
    assert "at that step. Training can do that, too" in ended.text
    assert "undone" not in ended.text


def test_half_of_the_way_back_is_said() -> None:
    def half(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:]):
            shrink(now, 0.6 if n < 2 else 0.85)

    (ended, *_) = [a for a in alerts_of(half) if a.finding.rule == "scale_shift" and a.phase == "ends"]
    assert "λ is more than half of the way back" in ended.text


def test_what_comes_back_and_goes_on_is_not_back() -> None:
    def beyond(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:]):
            shrink(now, 0.6 if n < 2 else 1.4)

    ended = [a.text for a in alerts_of(beyond) if a.finding.rule == "scale_shift" and a.phase == "ends"]
    assert len(ended) == 1
    assert "λ is back, and beyond where it was: it is" in ended[0]


def test_a_level_that_is_not_known_any_more_is_not_back() -> None:
    def lost(columns: list[Columns]) -> None:
        scaled(columns, Q, 8.0)
        for now in columns[AT + 2 :]:
            now["rms"][Q] = np.nan

    ended = [a.text for a in alerts_of(lost) if a.finding.rule == "impossible_change" and a.phase == "ends"]
    assert len(ended) == 1
    assert "no further jump, but RMS is not known now; it was 0.0" in ended[0]


def test_a_level_that_had_jumped_before_is_not_said_to_be_back() -> None:
    """λ follows η three samples later, so that η is the same at both samples when it is found."""

    def late(columns: list[Columns]) -> None:
        rates(columns, lambda step: 1e-3 * (8.0 if step > 10 * (AT - 3) else 1.0), [UP])
        grown(columns, 0.06, [UP], AT)

    ended = [a.text for a in alerts_of(late) if a.finding.rule == "setting_jump" and a.phase == "ends"]
    assert len(ended) == 1
    assert "no longer found; it began at step" in ended[0]


def test_a_fit_that_is_bad_and_stays_so_is_not_said_to_have_moved() -> None:
    def poor(columns: list[Columns]) -> None:
        for n, now in enumerate(columns[AT:]):
            now["r2"][index(1, "ffn_up")] -= 0.2
            if n > 0:  # another alert is sent first, and nothing for some samples
                now["r2"][UP] = 0.58 - 1e-5 * n

    told = [a.text for a in alerts_of(poor) if a.finding.rule == "body_break" and "model.layers.2" in a.text]
    assert any("R² of its fit is 0.58, about as at step 180" in text for text in told), told
    assert not any("R² of its fit went from 0.57" in text for text in told)


@pytest.mark.parametrize("value", [-1.678, 55.6])
def test_per_cent_follows_the_number(value: float) -> None:
    finding = Finding("r", "info", 4, "a", ("a",), 1, "drift of k in %", value, (-1.0, 1.0), None, "Look.")
    assert Alert("begins", 4, 4, finding).numbers == f"drift of k {value} %, expected -1 to 1 %"


def test_no_number_has_a_sign_that_its_digits_do_not_support() -> None:
    assert [signed(change) for change in (-4e-4, 4e-4, -0.25)] == ["0.0 %", "0.0 %", "-22.1 %"]


def test_a_matrix_that_changed_as_a_whole_has_no_two_populations() -> None:
    def whole(columns: list[Columns]) -> None:
        for now in columns[AT:]:
            now["k"][UP] -= 0.3

    def part(columns: list[Columns]) -> None:
        whole(columns)
        for now in columns[AT:]:
            now["r2"][UP] -= 0.03

    assert "all of its values changed alike" in said(whole, "body_break")
    assert "no longer form one population" in said(part, "body_break")


def test_weights_that_were_loaded_after_the_monitor_was_made_are_told_so() -> None:
    def loaded_late(columns: list[Columns]) -> None:
        for now in columns[1:]:
            scale_by(now, 3.0)

    assert "weights were loaded after the monitor was made" in said(loaded_late, "impossible_change")


def test_a_rate_far_below_that_of_the_others_explains_a_matrix_that_stands_still() -> None:
    def slow(columns: list[Columns]) -> None:
        for now in columns:
            now["eta"][UP] *= 1e-4
        for now in columns[AT:]:
            for name in ("k", "lambda", "rms", "r2", "zeros"):
                now[name][UP] = columns[AT][name][UP]

    assert "check first whether its parameter group is meant to have such a low rate" in said(slow, "unchanged")


def test_an_info_does_not_send_anybody_back_by_itself() -> None:
    infos = [a for rule in RULES for a in rendered(rule) if a.phase != "ends" and a.finding.severity == "info"]
    assert infos
    for alert in infos:
        assert "go back" not in alert.text or "only if the loss or another alert says so" in alert.text


def test_attention_that_outruns_the_rest_at_once_is_held_against_the_limit_of_the_first_steps() -> None:
    def at_once(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            for kind in ("attn_q", "attn_k"):
                scale_by(now, 1.0 + 0.3 * n, index(1, kind))
                for name in ("eta", "eta_sum"):
                    now[name][index(1, kind)] *= 10.0

    (first, *_) = [a for a in alerts_of(at_once) if a.finding.rule == "attention_scale" and a.phase != "ends"]
    value, (_, high) = first.finding.value, first.finding.expected
    assert first.step <= 64
    assert value is not None
    assert high is not None
    assert value > high
