from __future__ import annotations

import math

import pytest
import torch

from weibull_monitor import UnsupportedTensorError, fit_weibull


def test_one_tensor_gives_one_fit_and_a_sequence_a_list() -> None:
    w = torch.randn(64, 64)
    assert fit_weibull(w) == fit_weibull([w])[0]
    assert fit_weibull(()) == []


def test_dtypes_may_be_mixed_in_a_batch_and_keep_their_order() -> None:
    w = torch.randn(200, 200, dtype=torch.float64) * 0.1
    fits = fit_weibull([w.bfloat16(), w, w.float() * 2, w.half()])
    assert [fit.lambda_ for fit in fits] == pytest.approx([0.0887, 0.0887, 0.1775, 0.0887], rel=0.02)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(8, 8, dtype=torch.int32), "int32"),
        (torch.zeros(8, 8, dtype=torch.bool), "bool"),
        (torch.zeros(8, 8, dtype=torch.complex64), "complex64"),
        (torch.zeros(8, 8, device="meta"), "meta device"),
        (torch.zeros(8, 8).to_sparse(), "sparse_coo"),
        (torch.zeros(0, 8), "no elements"),
    ],
    ids=["int", "bool", "complex", "meta", "sparse", "empty"],
)
def test_what_cannot_be_read_raises_a_typed_error_that_names_it(tensor: torch.Tensor, says: str) -> None:
    with pytest.raises(UnsupportedTensorError, match=says) as caught:
        fit_weibull([torch.randn(100), tensor])
    message = str(caught.value)
    assert "weights[1]" in message
    assert str(tuple(tensor.shape)) in message
    assert "Pass a dense" in message


def test_something_else_than_a_tensor_is_a_typed_error() -> None:
    with pytest.raises(UnsupportedTensorError, match=r"weights\[0\] is a list"):
        fit_weibull([[1.0, 2.0]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.randn(99), "99 of 99 values are finite and not zero; 100 are needed"),
        (torch.cat([torch.randn(60), torch.zeros(500)]), "60 of 560 values are finite and not zero; 100 are needed"),
        (torch.zeros(300), "all 300 finite values are zero"),
        (torch.full((300,), 0.25), "the middle 80 % of |w| lies in 1 bins of about 1 %; 5 are needed"),
        (torch.full((300,), float("nan")), "0 of 300 values are finite and not zero; 100 are needed"),
        (
            torch.tensor([-1.0, 1.0, 2.0]).repeat(200),
            "the middle 80 % of |w| lies in 2 bins of about 1 %; 5 are needed",
        ),
    ],
    ids=["few", "few among zeros", "all zero", "all equal", "all NaN", "two values"],
)
def test_data_without_a_line_through_them_give_an_unavailable_fit_with_a_reason(
    tensor: torch.Tensor, reason: str
) -> None:
    fit = fit_weibull(tensor)
    assert not fit.available
    assert math.isnan(fit.k)
    assert fit.reason == reason
    assert fit.n + fit.zeros + fit.nonfinite == tensor.numel()


def test_an_unavailable_fit_does_not_disturb_others_in_the_batch() -> None:
    w = torch.randn(1000)
    assert fit_weibull([torch.zeros(500), w, torch.ones(200)])[1] == fit_weibull(w)


def test_zeros_and_non_finite_values_are_counted_and_left_out() -> None:
    w = torch.randn(10_000)
    clean = fit_weibull(w)
    spoilt = fit_weibull(torch.cat([w, torch.zeros(7), torch.tensor([float("nan"), float("inf"), -float("inf")])]))
    assert (spoilt.zeros, spoilt.nonfinite, spoilt.n) == (7, 3, 10_000)
    assert (spoilt.k, spoilt.lambda_) == (clean.k, clean.lambda_)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-42])
def test_extreme_scales(scale: float) -> None:
    """The last is subnormal in float32, where only a few dozen values are representable around it."""
    w = torch.randn(100_000, dtype=torch.float64) * scale
    fit = fit_weibull(w.float() if scale > 1e-40 else w)
    assert fit.k == pytest.approx(1.2054, abs=0.02)
    assert fit.lambda_ == pytest.approx(0.8875 * scale, rel=0.01)
    assert fit.rms == pytest.approx(scale, rel=0.01)


def test_subnormal_float32_values_are_finite_and_not_zero() -> None:
    w = torch.full((1000,), 1e-42)
    fit = fit_weibull(w)
    assert (fit.n, fit.zeros, fit.nonfinite) == (1000, 0, 0)


def test_parameters_with_gradients_and_inference_mode() -> None:
    w = torch.nn.Parameter(torch.randn(50, 50))
    with torch.inference_mode():
        inside = fit_weibull(w)
    assert fit_weibull(w) == inside
    assert w.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_largest_value_is_in_the_last_occupied_bin(dtype: torch.dtype) -> None:
    weights = (torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 0.02).to(dtype)
    for value in (None, 3.0, 65000.0):
        if value is not None:
            weights[3, 5] = -value
        most = float(weights.abs().max())
        largest = fit_weibull(weights).largest
        assert most <= largest * (1 + 1e-12)
        assert largest <= most * (1 + 1 / 64 + torch.finfo(dtype).eps)
    assert math.isnan(fit_weibull(torch.zeros(64, 64, dtype=dtype)).largest)
