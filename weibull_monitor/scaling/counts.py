"""How many steps an optimizer has taken on a parameter since the last look, by the optimizer's own count.

A call of ``optimizer.step()`` may move nothing: a parameter is frozen or has no gradient, a loss scaler skips the step, another
optimizer has its turn. Optimizers of the Adam family count the steps of each parameter in their state, and the count says so. A
count on an accelerator is not read, because that would wait for the device: there PyTorch's version of the tensor, which every
change raises, says whether a step was taken. Optimizers without a count (SGD, Muon) are followed by the version of the parameter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from torch import Tensor

from weibull_monitor.scaling.bounds import Group
from weibull_monitor.scaling.optimizers import rule_of

MANY_WRITES: Final = 4
"""More writes to a parameter between two calls than this are those of several steps."""
NO_COUNT: Final = frozenset({"SGD", "Muon", "LBFGS", "Adadelta"})
"""Optimizers of ``torch.optim`` that do not count their steps in any version of PyTorch that is supported, or need not."""


class StepCounts:
    """The step counts in the state of one optimizer.

    Args:
        optimizer: The optimizer itself, without wrappers.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        rule, kind = rule_of(optimizer), type(optimizer)
        self._in_group = rule.step_count == "group"
        # PyTorch's own make the state of a parameter at its first step, and change parameters in place.
        self.own = kind.__module__.startswith("torch.optim.")
        self.counting = self.own and kind.__name__ not in NO_COUNT

    @property
    def empty(self) -> bool:
        """Whether the optimizer has no state for any parameter: it has never stepped, or keeps none."""
        states = getattr(self._optimizer, "state", None)
        return not (isinstance(states, Mapping) and any(states.values()))

    def held(self) -> Iterator[Tensor]:
        """The parameters whose state the optimizer keeps on this rank."""
        return (p for group in self._optimizer.param_groups for p in group["params"])

    def of(self, parameter: Tensor, group: Group) -> Tensor | float | None:
        """The count of one parameter, unread; None if the optimizer does not count, or has not stepped it."""
        return step_counter(self._optimizer, parameter, group, self._in_group)


def step_counter(
    optimizer: Any, parameter: Tensor, group: Group, in_group: bool | None = None
) -> Tensor | float | None:
    """An optimizer's own count of the steps of a parameter, as `steps_taken`, but unread, so that nothing waits.

    Args:
        optimizer: The optimizer itself, without wrappers.
        parameter: The parameter, as the optimizer holds it.
        group: The parameter group that it is in.
        in_group: Whether it counts in the group, if that is known.

    Returns:
        A number or a tensor of one element, on any device; None if the optimizer does not count, or not yet.
    """
    states: Any = getattr(optimizer, "state", None)
    if type(states) not in _STATES and not isinstance(states, Mapping):
        return None
    if rule_of(optimizer).step_count == "group" if in_group is None else in_group:
        # Apex counts in the group. DeepSpeed gives every parameter's state a count of 0, counts in the state of the last
        # parameter that has a gradient, and steps all of them by that: the highest count is the right one.
        counts = [states[p]["step"] for p in group["params"] if p in states and "step" in states[p]]
        count = max(counts) if counts else group.get("step")
    else:
        state = states.get(parameter)
        count = state.get("step") if state else None
    if isinstance(count, Tensor):
        return count if not count.dim() or count.numel() == 1 else None
    return count if isinstance(count, (int, float)) else None


_STATES: Final = (dict, defaultdict)  # `isinstance` of an abstract class takes longer than all the rest


def steps_taken(optimizer: Any, parameter: Tensor, group: Group) -> int | None:
    """How many steps an optimizer has taken on a parameter by its own count; waits for a count on an accelerator.

    Steps that a loss scaler skips are not counted, nor are steps without a gradient where the count is the parameter's own.

    Args:
        optimizer: The optimizer itself, without wrappers.
        parameter: The parameter, as the optimizer holds it.
        group: The parameter group that it is in.

    Returns:
        The count; None if the optimizer does not count, or has not stepped the parameter.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = torch.optim.AdamW([weight])
    >>> for _ in range(3):
    ...     weight.grad = torch.ones(2, 2)
    ...     optimizer.step()
    >>> steps_taken(optimizer, weight, optimizer.param_groups[0])
    3
    """
    count = step_counter(optimizer, parameter, group)
    return None if count is None else int(count)


Mark: TypeAlias = "tuple[Tensor | None, float, int]"
"""What was last seen of a parameter's count: its tensor if it is one, the count, and the version of the tensor."""


class ParameterSteps:
    """Counts the steps that one optimizer takes on one parameter: `taken` says how many since the last call.

    A count may go back or jump: the optimizer's state is emptied, or replaced by that of a checkpoint. The tensor that held the
    count is kept here, so that the steps up to then are still read from it; the version of the new one tells how often it was
    raised. What these cannot tell apart lies between `least` and `most`.

    Args:
        counts: The counts of the optimizer.
        parameter: The parameter, as the optimizer holds it.
        group: The parameter group that it is in.
        seen: Whether the steps that it has taken so far are known already.
        mark: What was seen of the count before; of a count in a tensor, only used if it still is in that one.

    Attributes:
        exact: Whether the last result was read from a count.
        least: Fewest steps that there can have been at the last call, if it was read from a count.
        most: Most steps that there can have been; inf if there is no bound.
        jumped: Whether the count was found to have been emptied, replaced or set back at the last call.
        made: Whether it was found for the first time.
        crowded: Whether there is no count, and the parameter was written to as often at the last call as in several steps.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = torch.optim.AdamW([weight])
    >>> steps = ParameterSteps(StepCounts(optimizer), weight, optimizer.param_groups[0])
    >>> def train(times):
    ...     for _ in range(times):
    ...         weight.grad = torch.ones(2, 2)
    ...         optimizer.step()
    >>> train(3); steps.taken()
    3
    >>> steps.taken()
    0
    >>> train(2); optimizer.state.clear(); train(4); steps.taken()
    6
    """

    __slots__ = (
        "_count",
        "_counter",
        "_counts",
        "_elsewhere",
        "_group",
        "_numbered",
        "_still",
        "_version",
        "_writes",
        "_written",
        "crowded",
        "exact",
        "jumped",
        "least",
        "made",
        "most",
        "parameter",
    )

    def __init__(
        self, counts: StepCounts, parameter: Tensor, group: Group, seen: bool = True, mark: Mark | None = None
    ) -> None:
        self._counts, self.parameter, self._group = counts, parameter, group
        self._counter: Tensor | None = None
        self._count, self._version, self._elsewhere = 0.0, 0, False
        self._writes, self._written = parameter._version, False
        self.exact, self.jumped, self.made, self.crowded = False, False, False, False
        self._still: int | None = None
        self._numbered = False
        self.least, self.most = 0.0, 0.0
        counter = counts.of(parameter, group)
        if isinstance(counter, Tensor):
            self._elsewhere = counter.device.type != "cpu"
            if mark is not None and counter is mark[0]:
                self._counter, self._count, self._version = mark
            elif seen:
                self._counter, self._version = counter, counter._version
                self._count = 0.0 if self._elsewhere else counter.item()
        elif counter is not None and (seen or mark is not None):
            self._count = float(counter) if mark is None else mark[1]

    def taken(self) -> int | None:
        """Steps since the last call; None if that cannot be known."""
        counter = self._counts.of(self.parameter, self._group)
        self.exact, self.jumped, self.made, self.crowded, self._numbered = True, False, False, False, False
        if isinstance(counter, Tensor) and counter is self._counter:
            return self._on_same(counter)
        self.jumped = self._counter is not None
        self.made = not self.jumped and isinstance(counter, Tensor)
        before, ended = self._count, self._ended()
        if counter is None:
            self._counter, self._count = None, 0.0
            if ended and self.exact:
                return self._are(ended)
            if not self._counts.counting:
                return self._by_writing()
            if ended:
                return 1  # on an accelerator
            self.exact = not self._counts.empty
            return self._are(0) if self.exact else None  # it counts from its first step on
        made_anew = isinstance(counter, Tensor) and not self._counts.own and not counter._version
        if not isinstance(counter, Tensor) or (made_anew and counter.device.type == "cpu"):
            # A number, or a new tensor at each step.
            count, self._count, self._counter = float(counter), float(counter), None
            self.jumped, self.made, self._numbered = count < before, False, True
            # A number that went back: nothing shows what it was before.
            return self._are(count - before) if count >= before else self._are(count, math.inf)
        version = counter._version
        self._counter, self._version, self._elsewhere = counter, version, counter.device.type != "cpu"
        if self._elsewhere or not self.exact:
            self.exact = False
            return 1
        count = self._count = counter.item()
        if version >= count:  # raised step by step from 0 on
            return self._are(ended + count)
        # A count that was loaded was not raised step by step, so that its tensor has a low version. Copying it made one more,
        # in most ways of copying.
        return self._are(ended + max(version - 1, 0), ended + version)

    def written_by_others(self, steps: int | None) -> bool:
        """Whether the parameter is trained by something else: it was written to between two calls in a row without a step.

        Args:
            steps: The result of `taken` at this call.
        """
        if steps != 0 or not self.exact or not self._counts.own or self.parameter.grad is None:
            self._still = None
            return False
        before, self._still = self._still, self.parameter._version
        return before is not None and self._still > before

    def hold(self) -> None:
        """Keeps the tensor of a count that was made in this very step, so that it can be read when it is no longer the count."""
        counter = self._counts.of(self.parameter, self._group)
        if self._counter is None and isinstance(counter, Tensor) and counter.device.type == "cpu":
            taken = self.taken() or 0
            self._count -= taken
            self._version -= taken

    def mark(self) -> Mark:
        """What was last seen of the count, for when the parameter comes back."""
        return self._counter, self._count, self._version

    def _on_same(self, counter: Tensor) -> int:
        """Steps since the last call, where the count still is in the same tensor."""
        version, before = counter._version, self._version
        self._version = version
        if version == before:
            self.exact = not self._elsewhere
            return self._are(0)
        if self._elsewhere:
            self.exact = False
            return 1
        risen = counter.item() - self._count
        self._count += risen
        writes = version - before
        # Fused steps that a loss scaler skips raise the count and lower it again.
        if risen >= 0 and (risen == writes or not self._counts.own or self._group.get("fused")):
            return self._are(risen)
        # It was set in place, which is one write beside those of the steps.
        self.jumped = True
        return self._are(max(min(risen if risen >= 0 else self._count, writes - 1), 0), writes - 1)

    def _ended(self) -> float:
        """The steps that were still counted in a tensor after it was last read, and before it was replaced."""
        if self._counter is None:
            return 0.0
        if self._elsewhere:
            self.exact = False
            return float(self._counter._version != self._version)
        return float(max(self._counter.item() - self._count, 0.0))

    def _are(self, least: float, most: float | None = None) -> int:
        self.least, self.most = least, max(least, least if most is None else most)
        return int(self.least)

    def doubt(self) -> None:
        """Takes it that the count went back since the last call, if it is a number: nothing shows what it was before."""
        if self._numbered:
            self.most = math.inf

    def agrees(self, steps: int) -> bool:
        """Whether there may have been so many steps at the last call of `taken`, by the count that it read."""
        return self.exact and self.least <= steps <= self.most

    @property
    def certain(self) -> bool:
        """Whether there can have been no other number of steps at the last call, if it was read from a count."""
        return self.least == self.most

    def counter(self) -> Tensor | None:
        """The count on the host that was read last, if it still is the count; None if there is none, or it is elsewhere."""
        if self._counter is None or self._elsewhere:
            return None
        return self._counter if self._counter is self._counts.of(self.parameter, self._group) else None

    def note(self, steps: int) -> None:
        """Takes it that the count was seen to rise by so many steps since the last call, one by one."""
        self._version += steps
        self._count += steps
        self._still = None

    @property
    def counting(self) -> bool:
        """Whether the optimizer counts in its state from its first step on."""
        return self._counts.counting

    @property
    def moved(self) -> bool:
        """Whether the parameter of an optimizer without a count was ever written to."""
        return not self._counts.counting and (self._written or self.parameter._version > self._writes)

    def _by_writing(self) -> int | None:
        """0 or 1 for a parameter without a count; None before it was ever written to."""
        self.exact = False
        writes, self._writes = self.parameter._version - self._writes, self.parameter._version
        risen, self.crowded = writes > 0, writes > MANY_WRITES and _has_its_own_memory(self.parameter)
        self._written |= risen
        if risen or self._written or not self.parameter.requires_grad:
            return int(risen)
        return None


def _has_its_own_memory(parameter: Tensor) -> bool:
    """Whether no other parameter shares its memory, as views of a flat tensor do: each write to one of them counts for all."""
    try:
        return parameter.untyped_storage().nbytes() <= parameter.nbytes
    except Exception:  # its class may refuse any operation
        return False
