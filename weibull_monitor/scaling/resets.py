"""Whether an optimizer's state was reset in mid-run: for a while it then takes steps of another size."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from weibull_monitor.errors import shown
from weibull_monitor.history.conform import conforms
from weibull_monitor.scaling.counts import step_counter


class StateWatch:
    """Finds out at each sample whether the optimizer's state was emptied, or replaced by a younger one.

    It looks at the first parameter that has a state. Its step count must not go back, and where the counter is replaced the
    new count must be at least what the old one would be by now. A counter on an accelerator is read only after it was
    replaced, so that samples do not wait for the device. Without a step count (Muon, SGD) no reset is seen.

    Args:
        optimizer: The optimizer itself, not a wrapper.

    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = torch.optim.AdamW([weight])
    >>> watch = StateWatch(optimizer)
    >>> def train(steps):
    ...     for _ in range(steps):
    ...         weight.grad = torch.ones(2, 2)
    ...         optimizer.step()
    >>> train(5); watch.reset(steps=5)
    False
    >>> optimizer.state.clear(); train(5); watch.reset(steps=10)
    True
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._parameter: weakref.ref[torch.Tensor] | None = None
        self._counter: weakref.ref[torch.Tensor] | None = None
        self._count: float | None = None
        self._steps: int | None = None
        self._was_reset = False

    def reset(self, steps: int) -> bool:
        """Whether the state was ever reset while it was watched.

        Args:
            steps: Steps of the optimizer since it is followed, including those that a loss scaler skipped.
        """
        parameter, counter = self._look()
        if parameter is None or counter is None:
            return self._was_reset
        if self._parameter is not None and self._parameter() is not parameter:  # another parameter begins a count anew
            self._count = self._counter = self._steps = None
        same = self._counter is not None and self._counter() is counter
        elsewhere = isinstance(counter, torch.Tensor) and counter.device.type != "cpu"
        if elsewhere and self._count is None:  # a lower bound is enough to tell a younger one by
            self._count, self._steps = 0.0, steps
        elif not (same and elsewhere):
            count = float(counter)
            if self._count is not None:
                replaced = self._counter is not None and not same
                passed = steps - self._steps if replaced and self._steps is not None else 0
                self._was_reset |= count < self._count + passed
            self._count, self._steps = count, steps
        self._parameter = weakref.ref(parameter)
        self._counter = weakref.ref(counter) if isinstance(counter, torch.Tensor) else None
        return self._was_reset

    def state(self) -> list[Any]:
        """The last count, and whether there was a reset, as JSON can hold them."""
        return [self._count, self._was_reset]

    def restore(self, state: Sequence[Any] | None) -> None:
        """Goes on from `state`, or from nothing.

        Raises:
            ValueError: If it holds something else.
        """
        if state and not conforms(list(state[:2]), tuple[float | None, bool | int]):
            raise ValueError(f"{shown(state)} is not a step count")
        self._parameter = self._counter = self._steps = None
        self._count, self._was_reset = (state[0], bool(state[1])) if state else (None, False)

    def _look(self) -> tuple[torch.Tensor | None, Any]:
        """The first parameter that has a state, and its step count: a tensor of one element, a number, or None."""
        optimizer = self._optimizer
        states = getattr(optimizer, "state", None)
        if not isinstance(states, Mapping):
            return None, None
        held = ((p, group) for group in optimizer.param_groups for p in group["params"] if states.get(p))
        return next(((p, step_counter(optimizer, p, group)) for p, group in held), (None, None))
