"""The last update of a parameter, as its optimizer's state has it: w ← w - η(u + λ_wd·w).

A fault of training begins in the update: the weights show only what many of them have added up to. After a step the state holds
what the step was made from: m and v of AdamW, and so u itself; of others a momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from weibull_monitor.measure import WeibullFit
from weibull_monitor.scaling.bounds import MUON_RMS
from weibull_monitor.scaling.forces import CHUNK, AdamState, adam_update, bias_corrections, chunks_of, kept_by_adam
from weibull_monitor.scaling.kept import kept_tensor, raw_of, values_of
from weibull_monitor.scaling.optimizers import UpdateForm, rule_of

MOMENTUM: Final = ("momentum_buffer", "exp_avg", "momentum", "m", "state1")
"""Names of the momentum in an optimizer's state: of torch's SGD and Muon, of several Lions, and of bitsandbytes."""


class UpdateState(NamedTuple):
    """What an optimizer keeps of the last update of one parameter.

    Attributes:
        form: What it tells of u.
        kept: One or several tensors of the parameter's shape and placement: floats, or codes of 8 bits.
        of: What makes float32 of pieces of the momentum, or the state of Adam.
    """

    form: UpdateForm
    kept: tuple[Tensor, ...]
    of: Callable[[Tensor], Tensor] | AdamState

    def chunks(self, *pieces: Sequence[Tensor], size: int = CHUNK) -> Iterator[Tensor]:
        """u of pieces of the kept tensors, up to ``size`` elements at a time; nothing of full size is made."""
        of = self.of
        for chunk in chunks_of(*pieces, size=size):
            yield adam_update(chunk[0], chunk[1], of) if isinstance(of, AdamState) else of(chunk[0])


def update_state(parameter: Tensor, group: Mapping[str, Any], optimizer: Any) -> UpdateState | str:
    """What an optimizer keeps of the last update of a parameter; or why its update cannot be read. No number is read.

    Args:
        parameter: The parameter, as the optimizer holds it.
        group: The parameter group that it is in.
        optimizer: The optimizer itself, without wrappers.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = torch.optim.AdamW([weight])
    >>> weight.grad = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    >>> optimizer.step()
    >>> found = update_state(weight, optimizer.param_groups[0], optimizer)
    >>> [u.round(decimals=4).tolist() for u in found.chunks(*([tensor] for tensor in found.kept))]
    [[1.0, -1.0, 1.0, 1.0]]
    >>> update_state(weight, {}, torch.optim.Rprop([weight]))
    'the update of Rprop is not known'
    """
    name, form = type(optimizer).__name__, rule_of(optimizer).update
    if form is None:
        return f"the update of {name} is not known"
    if form == "adam":
        adam = kept_by_adam(parameter, group, optimizer)
        if isinstance(adam, str):
            return adam
        return UpdateState(form, (adam.mean, adam.square), adam)
    momentum = kept_tensor(optimizer, parameter, *MOMENTUM)
    if momentum is None:
        none = optimizer.state.get(parameter) or (form == "momentum" and not group.get("momentum", True))
        return f"{name} keeps no momentum for it" if none else "the optimizer has no state for it yet"
    if isinstance(momentum, str):
        return momentum
    return UpdateState(form, (raw_of(momentum),), values_of(momentum))


def with_corrections(states: Sequence[UpdateState]) -> list[UpdateState]:
    """The same states, with `AdamState.corrections` where Adam counts steps in tensors.

    Each parameter has a count of its own. On a device the launches for one take longer than to read its matrix, so the
    corrections are made for all counts at once.
    """
    out = list(states)
    alike: dict[tuple[object, ...], list[tuple[int, AdamState, Tensor]]] = {}
    for place, state in enumerate(states):
        adam = state.of
        if isinstance(adam, AdamState) and type(adam.step) is Tensor:
            betas = (id(beta) if isinstance(beta, Tensor) else beta for beta in (adam.beta1, adam.beta2))
            alike.setdefault((adam.step.device, adam.step.dtype, *betas), []).append((place, adam, adam.step))
    for counted in alike.values():
        _, first, _ = counted[0]
        steps = torch.stack([step.reshape(()) for *_, step in counted])  # (parameters,)
        corrections = zip(*bias_corrections(steps, first.beta1, first.beta2), strict=True)
        for (place, adam, _), both in zip(counted, corrections, strict=True):
            out[place] = out[place]._replace(of=adam._replace(corrections=both))
    return out


def step_rms(form: UpdateForm | None, fit: WeibullFit, scale: float) -> float | None:
    """RMS of u itself, from the fit of what the state holds; None if that does not tell it.

    Args:
        form: What the state tells of u (`weibull_monitor.scaling.optimizers.OptimizerRule.sized`).
        fit: The fit of u, or of the momentum.
        scale: RMS of a step in units of η, relative to AdamW's.
    """
    if form == "sign":  # 1 for every element but zeros
        return math.sqrt(fit.n / (fit.n + fit.zeros)) if fit.n else None
    if form == "orthogonal":  # whatever the momentum, u has singular values near 1: 0.7 to 1.2
        return MUON_RMS * scale
    return fit.rms if form else None
