"""The learning rates to come as a function of the scheduler's epoch, without stepping the scheduler through them.

The schedulers of ``torch.optim.lr_scheduler`` have closed forms. Those that multiply the present rate (`StepLR`, `LinearLR`,
`CosineAnnealingLR`, …) go on from what the rate is now, also if the user has changed it; those that compute it from the base rate
do not look at it. Schedulers of others are asked at a few hundred epochs where their ``get_lr`` allows it.
"""

from __future__ import annotations

import bisect
import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.optim import lr_scheduler as lr

Rates = npt.NDArray[np.float64]
Epochs = npt.NDArray[np.int64]
Curve = Callable[[Epochs], Rates]
"""From epochs, shape (n,), not before the present one, to learning rates, shape (groups, n)."""
Factor = Callable[[Epochs], Rates]
"""From epochs, shape (n,), to factors of the learning rates of all groups, shape (n,)."""

MAX_REHEARSED: Final = 500
"""Steps that a copy of a scheduler without a closed form is taken through."""
GRID: Final = 256
"""Epochs at which the ratio of two learning rates is asked for, where they are multiplied step by step."""


def curve_of(scheduler: Any, last: int) -> tuple[Curve, bool] | None:
    """The learning rates that a scheduler will set.

    Args:
        scheduler: A scheduler; it is read, and not changed.
        last: The last epoch that will be asked for.

    Returns:
        The rates, and whether they are exact; None if they cannot be known.
    """
    now = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
    if (found := _closed(scheduler, now)) is not None:
        return found, True
    with (
        warnings.catch_warnings()
    ):  # of other people's schedulers only: it makes Python forget which warnings it has shown
        warnings.simplefilter("ignore")
        if last - epoch_of(scheduler) <= MAX_REHEARSED:
            return _rehearsed(scheduler, last), True
        if type(scheduler).step is not lr.LRScheduler.step:
            return None
        twin = _Twin(scheduler)
        if twin.forgets_rates(last):
            return twin.at, True
        return twin.by_ratios(last, now), False


def epoch_of(scheduler: Any) -> int:
    """How often a scheduler has stepped; a `ChainedScheduler` as often as its parts."""
    if (epoch := getattr(scheduler, "last_epoch", None)) is not None:
        return int(epoch)
    return epoch_of(scheduler._schedulers[0])


def _closed(scheduler: Any, now: Sequence[float], epoch: int | None = None) -> Curve | None:
    """The closed form of one of PyTorch's schedulers, from the rates ``now`` at ``epoch`` on; None if there is none."""
    epoch = epoch_of(scheduler) if epoch is None else epoch
    kind, s = type(scheduler), scheduler
    if kind.step is lr.ChainedScheduler.step:
        factors = [_factor(part) for part in s._schedulers]
        starts = [epoch_of(part) - epoch for part in s._schedulers]
        if any(factor is None for factor in factors):
            return None
        shifted = [_shifted(factor, start) for factor, start in zip(factors, starts, strict=True) if factor]
        return _scaled(lambda epochs: np.prod([factor(epochs) for factor in shifted], axis=0), now, epoch)
    if kind.step is lr.SequentialLR.step:
        return _sequential(s, now, epoch)
    if kind.get_lr is lr.LambdaLR.get_lr:
        return lambda epochs: _of_lambdas(s, epochs)
    if kind.get_lr is lr.CosineAnnealingLR.get_lr:
        return _cosine(s, now, epoch)
    if kind.get_lr is lr.CosineAnnealingWarmRestarts.get_lr and kind.step is lr.CosineAnnealingWarmRestarts.step:
        return _restarts(s, epoch)
    if kind.get_lr in (lr.OneCycleLR.get_lr, lr.CyclicLR.get_lr):
        return _Twin(s).at
    factor = _factor(s)
    return None if factor is None else _scaled(factor, now, epoch)


def _factor(s: Any) -> Factor | None:
    """What the base rate is multiplied by at each epoch, for schedulers that multiply the present rate; None for others."""
    get = type(s).get_lr if hasattr(type(s), "get_lr") else None
    if get is lr.ConstantLR.get_lr:
        return lambda e: np.where(e < s.total_iters, s.factor, 1.0)
    if get is lr.LinearLR.get_lr:
        rise = s.end_factor - s.start_factor
        return lambda e: s.start_factor + rise * np.minimum(e, s.total_iters) / s.total_iters
    if get is lr.StepLR.get_lr:
        return lambda e: float(s.gamma) ** (e // s.step_size)
    if get is lr.MultiStepLR.get_lr:
        steps = np.array(sorted(Counter(s.milestones).elements()))
        return lambda e: np.float64(s.gamma) ** np.searchsorted(steps, e, side="right").astype(np.float64)
    if get is lr.ExponentialLR.get_lr:
        return lambda e: float(s.gamma) ** e.astype(np.float64)
    if get is lr.PolynomialLR.get_lr:
        return lambda e: (1.0 - np.minimum(e, s.total_iters) / s.total_iters) ** s.power
    return None


def _shifted(factor: Factor, by: int) -> Factor:
    return lambda epochs: factor(epochs + by)


def _scaled(factor: Factor, now: Sequence[float], epoch: int) -> Curve:
    here = float(factor(np.array([epoch]))[0])

    def curve(epochs: Epochs) -> Rates:
        # Powers of a small base end in 0/0, and a rate that has come to 0 stays there.
        with np.errstate(all="ignore"):
            share = factor(epochs) / here if here else np.ones(len(epochs))
        return np.outer(now, share)

    return curve


def _of_lambdas(scheduler: Any, epochs: Epochs) -> Rates:
    """Calls the functions of a `LambdaLR`, each once per epoch, even if many groups share it."""
    wanted, position = np.unique(epochs, return_inverse=True)
    factors: dict[int, Rates] = {}
    for function in scheduler.lr_lambdas:
        if id(function) not in factors:
            values = np.array([float(function(int(epoch))) for epoch in wanted], dtype=np.float64)
            factors[id(function)] = values[position]  # (n,)
    bases = [float(base) for base in scheduler.base_lrs]
    return np.stack([base * factors[id(f)] for base, f in zip(bases, scheduler.lr_lambdas, strict=True)])


def _cosine(s: Any, now: Sequence[float], epoch: int) -> Curve:
    low, period = float(s.eta_min), s.T_max
    height = np.array([float(base) - low for base in s.base_lrs])  # (groups,)
    shape = 0.5 * (1.0 + math.cos(math.pi * epoch / period))
    # A changed rate goes on in proportion until the trough. There PyTorch begins again from the base rate.
    trough = period * (2 * ((epoch // period + 1) // 2) + 1)
    changed = np.array(now) - low if shape * 1e9 > 1.0 else height
    changed = changed / shape if shape * 1e9 > 1.0 else changed

    def curve(epochs: Epochs) -> Rates:
        share = 0.5 * (1.0 + np.cos(np.pi * epochs / period))
        rates: Rates = low + np.where(epochs <= trough, changed[:, None], height[:, None]) * share
        return rates

    return curve


def _restarts(s: Any, epoch: int) -> Curve:
    low = float(s.eta_min)
    height = np.array([float(base) - low for base in s.base_lrs])
    passed, present = s.T_cur, s.T_i  # the scheduler moves on

    def curve(epochs: Epochs) -> Rates:
        since = epochs - epoch + passed  # since the start of the present cycle
        starts, lengths = [0.0], [float(present)]
        while s.T_mult > 1 and starts[-1] + lengths[-1] <= since.max(initial=0):
            starts.append(starts[-1] + lengths[-1])
            lengths.append(lengths[-1] * s.T_mult)
        cycle = np.searchsorted(np.array(starts), since, side="right") - 1
        within = since % present if s.T_mult == 1 else since - np.array(starts)[cycle]
        return low + np.outer(height, 0.5 * (1.0 + np.cos(np.pi * within / np.array(lengths)[cycle])))

    return curve


def _sequential(s: Any, now: Sequence[float], epoch: int) -> Curve | None:
    place = bisect.bisect_right(s._milestones, epoch)
    curves: list[Curve | None] = [_closed(s._schedulers[place], now)]
    offsets = [epoch - epoch_of(s._schedulers[place])]
    for part, start in zip(s._schedulers[place + 1 :], s._milestones[place:], strict=True):
        if hasattr(part, "_schedulers") or not hasattr(type(part), "_get_closed_form_lr"):
            free = type(part).get_lr in (lr.LambdaLR.get_lr, lr.OneCycleLR.get_lr, lr.CyclicLR.get_lr)
            if hasattr(part, "_schedulers") or not free:
                return None
            first = list(now)
        else:
            twin = copy.copy(part)
            twin.last_epoch = 0
            first = [
                float(rate) for rate in twin._get_closed_form_lr()
            ]  # at the milestone it begins from the base rate
        if type(part).get_lr is lr.CosineAnnealingWarmRestarts.get_lr:
            return None
        curves.append(_closed(part, first, epoch=0))
        offsets.append(start)
    if any(curve is None for curve in curves):
        return None
    edges = np.array(s._milestones[place:])

    def curve(epochs: Epochs) -> Rates:
        which = np.searchsorted(edges, epochs, side="right")
        out = np.empty((len(now), len(epochs)))
        for n, (part, offset) in enumerate(zip(curves, offsets, strict=True)):
            if part is not None and (here := which == n).any():
                out[:, here] = part(epochs[here] - offset)
        return out

    return curve


class _OptimizerStandIn:
    """The part of an optimizer that a scheduler needs."""

    def __init__(self, groups: Iterable[Mapping[str, Any]]) -> None:
        self.param_groups = [
            {name: _number(value) for name, value in group.items() if name != "params"} for group in groups
        ]
        self.defaults: dict[str, Any] = {}
        self.state: dict[Any, Any] = {}
        self._opt_called = True

    def step(self) -> None:
        """Does nothing."""

    vars(step)["_wrapped_by_lr_sched"] = True  # without it, torch warns of a wrong order of calls


class _Twin:
    """A copy of a scheduler that is asked for single epochs, in any order."""

    def __init__(self, scheduler: Any) -> None:
        self._twin = copy.copy(scheduler)
        self._twin.optimizer = self._optimizer = _OptimizerStandIn(scheduler.optimizer.param_groups)
        self._twin._get_lr_called_within_step = True
        self._twin._is_initial = False
        self._epoch = epoch_of(scheduler)

    def rates(self, epoch: int, before: Sequence[float] | None = None) -> list[float]:
        """The rates at an epoch, if those of the epoch before were ``before``."""
        for group, rate in zip(self._optimizer.param_groups, before or (), strict=False):
            group["lr"] = rate
        self._twin.last_epoch = epoch
        return [float(rate) for rate in self._twin.get_lr()]

    def at(self, epochs: Epochs) -> Rates:
        """The rates at some epochs, for a scheduler that does not look at the present ones."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array([self.rates(int(epoch)) for epoch in epochs]).reshape(len(epochs), -1).T

    def forgets_rates(self, last: int) -> bool:
        """Whether the rates at an epoch do not depend on those before it."""
        size = len(self._optimizer.param_groups)
        places = {self._epoch + 1 + (last - self._epoch - 1) * i // 8 for i in range(9)}
        return all(self.rates(e, [1.0] * size) == self.rates(e, [0.5] * size) for e in places)

    def by_ratios(self, last: int, now: Sequence[float]) -> Curve:
        """The rates of a scheduler that multiplies them step by step: its factors at a few epochs, and a smooth line between."""
        grid = np.unique(np.linspace(self._epoch, last, GRID).astype(np.int64))
        logs = [np.log(np.maximum(now, 1e-300))]
        slope = np.zeros(len(now))
        for n, epoch in enumerate(grid):
            rates = np.exp(logs[-1])
            with np.errstate(all="ignore"):
                new = np.log(np.maximum(self.rates(int(epoch) + 1, rates.tolist()), 1e-300)) - logs[-1]
            if n:
                logs[-1] = logs[-1] + 0.5 * (new - slope) * (epoch - grid[n - 1])
            slope = new
            if n + 1 < len(grid):
                logs.append(logs[-1] + slope * (grid[n + 1] - epoch))
        table = np.array(logs).T  # (groups, grid)
        return lambda epochs: np.exp(np.array([np.interp(epochs, grid, row) for row in table]))


def _rehearsed(scheduler: Any, last: int) -> Curve:
    """Steps a copy of the scheduler through a few epochs, with a stand-in for the optimizer."""
    stand_in = _OptimizerStandIn(scheduler.optimizer.param_groups)
    known: dict[int, Any] = {id(scheduler.optimizer): stand_in}
    # A scheduler may hold the model (its weights must not be copied).
    known |= {id(value): value for value in vars(scheduler).values() if isinstance(value, nn.Module)}
    twin, first = copy.deepcopy(scheduler, known), epoch_of(scheduler)
    rows = [[float(group["lr"]) for group in stand_in.param_groups]]
    for _ in range(first, last):
        twin.step()
        rows.append([float(group["lr"]) for group in stand_in.param_groups])
    table = np.array(rows).T  # (groups, epochs)
    return lambda epochs: table[:, epochs - first]


def _number(value: Any) -> Any:
    return float(value) if hasattr(value, "item") else copy.copy(value)
