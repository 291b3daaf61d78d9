"""Why λ moves: what the last step of AdamW did to the squared norm of each matrix.

AdamW takes w to w' = (1 - ηλ_wd)·w - η·u with u = m̂/(√v̂ + ε) (I. Loshchilov, F. Hutter, arXiv:1711.05101, 2019), so

    ‖w'‖² - ‖w‖² = -2η⟨w, u⟩ + η²‖u‖² - 2ηλ_wd‖w‖² + η²λ_wd(λ_wd‖w‖² + 2⟨w, u⟩)
                    alignment   injection   decay       of second order in ηλ_wd

(the three forces of T. Ding, arXiv:2606.19367, 2026). After a step the optimizer's state holds the m and v that it was taken
with, so w is found from w' and u, and three sums over each matrix give every term: ⟨w', w'⟩, ⟨w', u⟩ and ⟨u, u⟩. The norm before
the step is measured as well: how far the terms miss the measured change is the closure error, which rounding makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from weibull_monitor.history.snapshot import Forces
from weibull_monitor.scaling.counts import step_counter
from weibull_monitor.scaling.kept import kept_tensor, raw_of, values_of
from weibull_monitor.scaling.optimizers import rule_of

CHUNK: Final = 1 << 19
"""Elements per pass, which keeps the temporaries at a few MiB."""
MEAN: Final = ("exp_avg", "state1")
"""Names of m in an optimizer's state: of torch and most others, and of bitsandbytes."""
SQUARE: Final = ("max_exp_avg_sq", "exp_avg_sq", "state2")
"""Names of v."""
SUMS: Final = 4
"""Number of sums over a matrix: ⟨w', u⟩, ⟨w', w'⟩ and ⟨u, u⟩ after the step, and ⟨w, w⟩ measured before it."""


class AdamState(NamedTuple):
    """What AdamW keeps for one parameter, and the constants of its update.

    Attributes:
        mean: m, of the parameter's shape and placement: floats, or codes of 8 bits.
        square: v, of the parameter's shape and placement; with AMSGrad, its maximum.
        step: Steps taken, on any device; infinite where m and v are not corrected for their bias.
        beta1: Decay of m.
        beta2: Decay of v.
        eps: ε.
        values: Make float32 of pieces of ``mean``, and of ``square``.
        corrections: 1 - β₁ᵗ and √(1 - β₂ᵗ), numbers or tensors without dimensions; None if they are still to be made.
    """

    mean: Tensor
    square: Tensor
    step: Tensor | float
    beta1: Tensor | float
    beta2: Tensor | float
    eps: Tensor | float
    values: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = (Tensor.float, Tensor.float)
    corrections: tuple[Tensor | float, Tensor | float] | None = None


def adam_state(parameter: Tensor, group: Mapping[str, Any], optimizer: Any) -> AdamState | str:
    """The state of one parameter in an optimizer after its step, or why there are no forces for it.

    Args:
        parameter: The parameter, as the optimizer holds it.
        group: The parameter group that it is in.
        optimizer: The optimizer itself, without wrappers.
    """
    name, rule = type(optimizer).__name__, rule_of(optimizer)
    if not (rule.forces and rule.decouples(group) and "betas" in group):
        return f"the forces are those of AdamW, and the optimizer is {name}"
    found = kept_by_adam(parameter, group, optimizer)
    if isinstance(found, AdamState) and not (found.mean.is_floating_point() and found.square.is_floating_point()):
        return f"{name} rounds its state after each step, and the forces have to add up"
    return found


def kept_by_adam(parameter: Tensor, group: Mapping[str, Any], optimizer: Any) -> AdamState | str:
    """The state of one parameter in an optimizer of the Adam family, whatever its weight decay; or why it is not there.

    Args:
        parameter: The parameter, as the optimizer holds it.
        group: The parameter group that it is in.
        optimizer: The optimizer itself, without wrappers.
    """
    name = type(optimizer).__name__
    state = optimizer.state.get(parameter, {})
    if not state:
        return "the optimizer has no state for it yet"
    mean = kept_tensor(optimizer, parameter, *MEAN)
    square = kept_tensor(optimizer, parameter, *SQUARE)
    step = step_counter(optimizer, parameter, group)
    if mean is None or square is None or step is None:
        return f"{name} does not keep exp_avg, exp_avg_sq and a step count for it"
    if isinstance(mean, str) or isinstance(square, str):
        return mean if isinstance(mean, str) else str(square)
    if not group.get("bias_correction", True):  # Apex, DeepSpeed; 1 - β^∞ = 1
        step = math.inf
    beta1, beta2, eps = (_unread(number) for number in (*group["betas"], group["eps"]))
    return AdamState(raw_of(mean), raw_of(square), step, beta1, beta2, eps, (values_of(mean), values_of(square)))


def adam_update(mean: Tensor, square: Tensor, state: AdamState) -> Tensor:
    """u = m̂/(√v̂ + ε) of some elements in float32, as optimizers make it (D. P. Kingma, J. Ba, "Adam", 2015, algorithm 1).

    Args:
        mean: m, of any shape, as the state keeps it: of any float dtype, or codes.
        square: v, of the same shape.
        state: The constants, and the step count or the corrections that belong to it.

    Returns:
        float32, a new tensor of that shape. Where the step count is on the device, it is not waited for.
    """
    correct1, correct2 = state.corrections or bias_corrections(state.step, state.beta1, state.beta2)
    mean_of, square_of = state.values
    return (mean_of(mean) / correct1).div_(square_of(square).sqrt().div_(correct2).add_(state.eps))


def bias_corrections(step: Any, beta1: Any, beta2: Any) -> tuple[Any, Any]:
    """1 - β₁ᵗ and √(1 - β₂ᵗ), of the shape of the step count: numbers, or tensors if one of them is."""
    return 1.0 - beta1**step, (1.0 - beta2**step) ** 0.5


@torch.no_grad()
def sums_after(
    weights: Sequence[Tensor], means: Sequence[Tensor], squares: Sequence[Tensor], state: AdamState
) -> Tensor:
    """⟨w', u⟩, ⟨w', w'⟩ and ⟨u, u⟩ over pieces of a matrix.

    Args:
        weights: Pieces of the parameter after the step, of any float dtype.
        means: The same pieces of m.
        squares: The same pieces of v.
        state: The optimizer's state.

    Returns:
        float64 (float32 on MPS), shape (3,), on the weights' device, which is not waited for.
    """
    out = torch.zeros(3, dtype=_precise(weights[0].device), device=weights[0].device)
    for w, m, v in chunks_of(weights, means, squares):  # each of up to CHUNK elements, in one shape
        # The update in float32, as optimizers make it; only the sums need more, since they run over millions of elements.
        w, u = w.float(), adam_update(m, v, state)
        out += torch.stack([(w * u).sum(dtype=out.dtype), (w * w).sum(dtype=out.dtype), (u * u).sum(dtype=out.dtype)])
    return out


@torch.no_grad()
def squared_norm(weights: Sequence[Tensor]) -> Tensor:
    """⟨w, w⟩ over pieces of a matrix: 0-dimensional, on their device, float64 (float32 on MPS)."""
    dtype = _precise(weights[0].device)
    out = torch.zeros((), dtype=dtype, device=weights[0].device)
    for (w,) in chunks_of(weights):
        out += w.float().square().sum(dtype=dtype)
    return out


def forces_of(sums: Sequence[float], eta: float, weight_decay: float) -> Forces | None:
    """The forces of one step from the sums over a matrix.

    Args:
        sums: In the order of `SUMS`; NaN for a norm that was not measured.
        eta: η of the step.
        weight_decay: λ_wd of the step.

    Returns:
        None if η is 0, the weights are all zero, or a sum is not finite.

    >>> forces = forces_of([0.02, 0.999, 4.0, 1.0], eta=1e-3, weight_decay=0.1)
    >>> f"{forces.alignment:.3g} {forces.injection:.3g} {forces.decay:.3g}"
    '-4.8e-05 4e-06 -0.0002'
    """
    aligned, after, update, measured = sums  # ⟨w', u⟩, ‖w'‖², ‖u‖², and ‖w‖² as measured
    # w' = kept·w - η·u, so w = (w' + η·u)/kept: the terms of the step follow from the sums after it.
    kept = 1.0 - eta * weight_decay
    before = (after + 2.0 * eta * aligned + eta * eta * update) / kept**2
    if not eta > 0.0 or not (math.isfinite(before) and before > 0.0):
        return None
    along = (aligned + eta * update) / kept  # ⟨w, u⟩
    alignment, injection, decay = -2.0 * eta * along, eta * eta * update, -2.0 * eta * weight_decay * before
    second = eta * eta * weight_decay * (weight_decay * before + 2.0 * along)
    # The closure error is in units of the forces' sizes: they may cancel, so their sum would not do.
    size = abs(alignment) + abs(injection) + abs(decay)
    closure = None
    if math.isfinite(measured) and size:
        closure = (after - measured - (alignment + injection + decay + second)) / size
    return Forces(alignment / before, injection / before, decay / before, (after - before) / before, closure)


def chunks_of(*tensors: Sequence[Tensor], size: int = CHUNK) -> Iterator[tuple[Tensor, ...]]:
    """Cuts tensors of the same shapes into the same chunks of up to ``size`` elements, views of them."""
    for pieces in zip(*tensors, strict=True):
        if all(piece.is_contiguous() for piece in pieces):
            yield from zip(*(torch.split(piece.reshape(-1), size) for piece in pieces), strict=True)
        elif pieces[0].dim() and pieces[0][0].numel() > size:
            for rows in zip(*pieces, strict=True):
                yield from chunks_of(*([row] for row in rows), size=size)
        else:
            rows_at_once = max(1, size // max(1, pieces[0][0].numel()))
            yield from zip(*(torch.split(piece, rows_at_once) for piece in pieces), strict=True)


def _unread(number: Any) -> Tensor | float:
    """A number, or a tensor with it where reading it would wait for a device."""
    return number if isinstance(number, Tensor) and number.device.type != "cpu" else float(number)


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
