"""`impossible_change` of single values, and alerts that stand until what they found is undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyModel

from alerts.simulated import Columns, alerts_of, healthy, index, scale_by, window_in
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.alerts.rules.maximum import impossible_maximum, one_value_alone
from weibull_monitor.alerts.settings import ImpossibleChange
from weibull_monitor.history.alert import Alert

K = "layers.1.self_attn.k_proj.weight"
Train = Callable[..., list[float]]


def flip(weight: torch.Tensor, bit: int) -> float:
    """Flips a bit of the exponent of a middling value; returns what came of it."""
    flat = weight.detach().view(-1)
    i = int((flat.abs() - flat.abs().median()).abs().argmin())
    if weight.dtype == torch.bfloat16:
        flat.view(torch.int16)[i] ^= 1 << (bit - 16)
    else:
        flat.view(torch.int32)[i] ^= 1 << bit
    return float(flat[i])


def run(place: Path, train: Train, break_it: Callable[[torch.Tensor], object], **options: Any) -> list[Alert]:
    torch.manual_seed(3)
    model = TinyModel(width=32).to(options.pop("dtype", torch.float32))
    make = options.pop("optimizer", lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1))
    if options.pop("frozen", False):
        model.get_parameter(K).requires_grad_(False)
    steps = [0]
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    with WeibullMonitor(model, optimizer, every_n_steps=5, output_dir=place) as m:

        def after() -> None:
            steps[0] += 1
            m.step()
            if steps[0] == 22:
                with torch.no_grad():
                    break_it(model.get_parameter(K))

        train(model, optimizer, 40, after)
    return [a for a in read_history(place).alerts if a.finding.rule == "impossible_change"]


@pytest.mark.parametrize("bit", [25])
def test_a_flipped_bit_of_an_exponent_is_found_at_the_next_sample_and_stands(
    tmp_path: Path, train: Train, bit: int
) -> None:
    values: list[float] = []
    found = run(tmp_path, train, lambda w: values.append(flip(w, bit)))
    assert abs(values[0]) > 0.3  # the bit was not set before, so that the value has grown
    assert [(a.phase, a.step) for a in found] == [("begins", 25)]  # it does not end: nothing was undone
    assert found[0].finding.component == K
    assert found[0].finding.severity == "error"
    assert "λ hardly moved, so few values changed" in found[0].text


def test_a_value_that_steps_can_reach_is_not_found(tmp_path: Path, train: Train) -> None:
    assert run(tmp_path, train, lambda w: None) == []


def test_where_steps_have_no_bound_one_value_is_found_that_gained_more_than_all_others(
    tmp_path: Path, train: Train
) -> None:
    options: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9)}
    found = run(tmp_path / "one", train, lambda w: w.view(-1)[3].fill_(8.0), **options)
    assert [(a.phase, a.step, a.finding.severity, a.finding.component) for a in found] == [("begins", 25, "warning", K)]
    assert "it has gained more than all others together" in found[0].text
    assert run(tmp_path / "none", train, lambda w: None, **options) == []
    assert run(tmp_path / "row", train, lambda w: w[3].mul_(50.0), **options) == []


def test_one_value_of_a_frozen_matrix_is_a_change_and_none_is_not(tmp_path: Path, train: Train) -> None:
    found = run(tmp_path / "set", train, lambda w: w.view(-1)[3].fill_(2.0), frozen=True)
    assert [(a.step, a.finding.severity, a.finding.component) for a in found] == [(25, "warning", K)]
    assert "This matrix is frozen" in found[0].text
    assert run(tmp_path / "kept", train, lambda w: None, frozen=True) == []


def test_the_largest_value_cannot_shrink_further_than_it_is_moved() -> None:
    """What was the largest is still there: smaller by the bound and by what weight decay takes away."""
    before = healthy()[14]["largest"][index(1, "attn_v")]
    least = before * 64.0 / 65.0 * (1.0 - 0.1 * 1e-4 * 10) - 7.27 * 1e-4 * 10
    for factor, expected in ((1.01, False), (0.99, True)):
        changed = healthy(eta=1e-4)
        largest_set(least * factor)(changed)
        result = impossible_maximum(window_in(changed[:16]), ImpossibleChange())
        assert result is not None
        assert (result.strength > 1.0).tolist() == [
            expected and i == index(1, "attn_v") for i in range(len(result.strength))
        ]


def test_a_largest_value_that_shrinks_further_than_steady_gradients_take_it_is_a_warning() -> None:
    """All values that were nearly as large have shrunk with it; a fall by less than a tenth may be that of one value."""
    i = index(1, "attn_v")
    before = healthy()[14]["largest"][i] * 64.0 / 65.0
    for eta, fell, expected in ((1.2e-3, 0.2, True), (2e-3, 0.2, False), (4e-4, 0.07, False)):
        changed = healthy(eta=eta)  # 1.5 · Σ η is 0.18, 0.30 and 0.06 of the largest value
        for now in changed:
            now["weight_decay"] *= 0.0
        largest_set(before * (1.0 - fell) - (0.03 * before if expected else 0.0))(changed)
        result = impossible_maximum(window_in(changed[:16]), ImpossibleChange())
        assert result is not None
        assert bool(result.strength[i] >= 1.0) == expected
        assert result.severity[i] == (2 if expected else 3)


def largest_set(to: float) -> Callable[[list[Columns]], None]:
    def set_(columns: list[Columns]) -> None:
        for now in columns[15:]:
            now["largest"][index(1, "attn_v")] = to

    return set_


def test_the_bound_is_that_of_single_values_and_bins_are_no_change() -> None:
    columns = healthy()
    before = columns[14]["largest"][index(1, "attn_v")]
    allowed = before + 7.27 * 1e-3 * 10  # ‖u‖_max · η · steps
    for factor, expected in ((1.0, 0.0), (64.9 / 64.0, 0.0), (65.1 / 64.0 * 1.01, 1.0)):
        changed = healthy()
        largest_set(allowed * factor)(changed)
        result = impossible_maximum(window_in(changed[:16]), ImpossibleChange())
        assert result is not None
        strength = result.strength[index(1, "attn_v")]
        assert (strength >= 1.0) == bool(expected), (factor, strength)
    columns[15]["element_max"][:] = columns[14]["element_max"][:] = np.nan
    result = impossible_maximum(window_in(columns[:16]), ImpossibleChange())
    assert result is not None
    assert not result.strength.any()


def gained(columns: list[Columns], of_one: float, of_others: float = 0.0) -> list[str]:
    """The severities at the sample at which one value gains this share of Σ w², and the others of their matrix that."""
    i, n = index(1, "attn_v"), 256 * 256
    for sample, now in enumerate(columns):
        now["update_max"][:] = now["element_max"][:] = np.nan
        for name in ("lambda", "rms", "largest"):  # a matrix that rests
            now[name][i] = columns[0][name][i]
        if sample >= 15:
            now["largest"][i] = now["rms"][i] * np.sqrt(n * of_one) * 65.0 / 64.0
            now["rms"][i] *= np.sqrt(1.0 + of_one + of_others)
            now["lambda"][i] *= np.sqrt(1.0 + of_others)
    result = one_value_alone(window_in(columns[:16]))
    assert one_value_alone(window_in(columns[:15])) is None
    return [] if result is None else [str(s) for s in result.severity[result.strength >= 1.0]]


@pytest.mark.parametrize(
    ("of_one", "of_others", "found"),
    [
        (0.01, 0.0, True),  # 26 times the RMS, in a matrix of 65,536 values
        (0.01, 0.005, True),
        (0.01, 0.007, True),  # as all grew
        (0.01, 0.015, False),  # the others gained more
        (0.02, -0.01, True),
        (0.02, -0.05, False),  # beside what the others lost, it is little …
        (0.02, -0.99, True),  # … but not beside what is left
        (5e-4, 0.0, False),  # 5.7 times the RMS: no larger than large values are
    ],
)
def test_one_value_has_to_gain_more_than_the_others_changed_by(of_one: float, of_others: float, found: bool) -> None:
    assert bool(gained(healthy(), of_one, of_others)) == found


def test_an_alert_about_a_jump_ends_when_it_is_undone() -> None:
    i = index(1, "attn_v")

    def there_and_back(columns: list[Columns]) -> None:
        for now in columns[15:30]:
            now["largest"][i] = 8.0

    found = [a for a in alerts_of(there_and_back, samples=40) if a.finding.rule == "impossible_change"]
    # That a value comes back is as impossible for the optimizer, so the three quiet samples are those after it.
    assert [(a.phase, a.step) for a in found] == [("begins", 150), ("ends", 330)]
    assert "undone: largest |w| is back: it is 0.1" in found[1].text
    stays = [a for a in alerts_of(largest_set(8.0), samples=60) if a.finding.rule == "impossible_change"]
    assert [a.phase for a in stays] == ["begins"]


def test_a_single_value_is_not_told_as_a_scaled_matrix_where_training_moved_the_rest() -> None:
    """The optimizer moved λ by 5 % in the same interval."""
    i = index(1, "attn_v")

    def flipped(columns: list[Columns]) -> None:
        for now in columns[15:]:
            for name in ("lambda", "rms"):
                now[name][i] *= 1.05
            now["largest"][i] = 4e36
            now["rms"][i] = 1e34

    (first, *_) = [a for a in alerts_of(flipped) if a.finding.rule == "impossible_change"]
    assert "few values changed" in first.text
    assert "multiplied by" not in first.text


def test_a_blow_up_of_all_matrices_is_not_called_a_layer() -> None:
    def all_grow(columns: list[Columns]) -> None:
        for now in columns[15:]:
            scale_by(now, 6.0)

    (first, *_) = [a for a in alerts_of(all_grow) if a.finding.rule == "impossible_change"]
    assert first.finding.count == 28
    assert "Most matrices changed at once, so this is not one layer" in first.text


def test_a_matrix_that_is_back_at_its_start_is_said_to_be_initialised_anew() -> None:
    i = index(1, "attn_v")

    def anew(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):  # it has trained a long way
            scale_by(now, 1.0 + 0.35 * n, i)
        for now in columns[15:]:
            for name in ("k", "lambda", "rms", "largest"):
                now[name][i] = columns[0][name][i]

    found = [a for a in alerts_of(anew) if a.finding.rule == "impossible_change" and a.step == 150]
    assert found
    assert "this matrix was initialised anew" in found[0].text


def test_numbers_differ_in_the_digits_that_are_shown() -> None:
    i = index(1, "attn_v")

    def slightly(columns: list[Columns]) -> None:
        for n, now in enumerate(columns):
            now["eta_sum"][i] = 1e-9 * 10 * n if n else np.nan
            now["rms"][i] = 0.0504455 if n < 15 else 0.0504545

    (first, *_) = [a for a in alerts_of(slightly) if a.finding.rule == "impossible_change"]
    assert "RMS 0.050454, expected 0.05044 to 0.050451" in first.text
    assert "The RMS went from 0.050445 to 0.050454 since step 140" in first.text
