"""The calls of an optimizer at which nothing happens but a step of every parameter: almost all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from weibull_monitor.scaling.accounts import GroupAccounts, Rates
from weibull_monitor.scaling.bounds import Group
from weibull_monitor.scaling.counts import ParameterSteps
from weibull_monitor.scaling.optimizers import chooses_rate

_NUMBERS = frozenset((float, int))


class QuickCalls:
    """Notes calls of an optimizer while each step count rises by one at each of them, and η is a number.

    The counts are those that were found at the last close look: one that has been replaced rises no more.

    Args:
        optimizer: The optimizer itself, whose step counts are tensors on the host.
        ones: For each account that it pays into, what counts the steps of the parameter that stands for all, and the count.

    Attributes:
        rates: η and λ_wd of each group, call by call.
    """

    __slots__ = ("_calls", "_counts", "_groups", "_ones", "_optimizer", "_sizes", "rates")

    def __init__(self, optimizer: Any, ones: Sequence[tuple[ParameterSteps, Tensor]]) -> None:
        self._optimizer, self._groups = optimizer, optimizer.param_groups
        self._sizes = group_sizes(self._groups)
        self._ones = [one for one, _ in ones]
        self._counts = [(_reads(counter), counter.item()) for _, counter in ones]
        self._calls = 0
        self.rates: list[list[Rates]] = []

    @classmethod
    def of(cls, optimizer: Any, groups: Sequence[GroupAccounts]) -> QuickCalls | None:
        """For an optimizer whose last call was certain; None if it has to be looked at closely at each call."""
        ones: list[tuple[ParameterSteps, Tensor]] = []
        for payers in (payers for group in groups for payers in group.payers):
            counter = payers.one.counter() if payers.one is not None and payers.one.exact else None
            if payers.one is None or counter is None:
                return None
            ones.append((payers.one, counter))
        if not ones or any(chooses_rate(group) for group in optimizer.param_groups):
            return None
        return cls(optimizer, ones)

    def note(self) -> bool:
        """Notes a call; returns False, and notes nothing, if it was another than described."""
        groups, risen = self._groups, self._calls + 1
        if self._optimizer.param_groups is not groups or len(groups) != len(self._sizes):
            return False
        for count, before in self._counts:
            if count() != before + risen:
                return False
        rates = []
        for group, size in zip(groups, self._sizes, strict=True):
            if len(group["params"]) != size:
                return False
            eta, weight_decay = group["lr"], group.get("weight_decay")
            if type(eta) not in _NUMBERS or type(weight_decay) not in _NUMBERS:
                return False
            rates.append((eta, weight_decay))
        self.rates.append(rates)
        self._calls = risen
        return True

    def taken(self) -> list[list[Rates]]:
        """η and λ_wd call by call for each group, which are no longer noted then."""
        calls = len(self.rates)
        for one in self._ones:
            one.note(calls)
        by_group = [[(float(eta), float(wd)) for eta, wd in of_group] for of_group in zip(*self.rates, strict=True)]
        self.rates = []
        return by_group


def group_sizes(groups: Iterable[Group]) -> list[int]:
    """The number of parameters of each group."""
    return [len(group["params"]) for group in groups]


def _reads(counter: Tensor) -> Callable[[], float]:
    """What reads a count: through NumPy, which takes a third of the time."""
    if counter.dtype is torch.float32 and type(counter) is Tensor and not counter.requires_grad:
        return counter.numpy().item
    return counter.item
