"""Sees the first batch that a model gets, so that a forward pass can be followed with inputs of its shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakMethod

import torch
from torch import nn

from weibull_monitor.errors import Guard
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.model.dataflow import Called

Seen = Callable[[nn.Module, Called], None]


class FirstBatch:
    """Calls a method with the arguments of the first call of a model, before the model runs, and never again.

    In a model that is never called itself (a Lightning module whose ``training_step`` calls its children) the first call of each
    child counts. Nothing is changed, and nothing stays behind in the model; a copy of the model has nothing of it either. While
    `torch.compile` looks at the model nothing happens.

    Args:
        model: The model; None for nothing.
        seen: A method, which is not kept alive: it gets the module and its arguments.
        guard: Reports what goes wrong in it.
    """

    def __init__(self, model: nn.Module | None, seen: Seen, guard: Guard) -> None:
        self._handles: dict[int, Any] = {}
        modules = [model] if model is not None else []
        modules += model.children() if model is not None and hasattr(model, "training_step") else []
        for module in modules:
            hook = _Hook(self, seen, guard)
            self._handles[id(module)] = module.register_forward_pre_hook(hook, with_kwargs=True)

    def done(self, module: nn.Module | None = None) -> None:
        """Takes the hooks out of a module and the modules in it; by default out of all."""
        for key in list(self._handles) if module is None else {id(m) for m in module.modules()} & self._handles.keys():
            self._handles.pop(key).remove()


def with_earlier_fits(baseline: Snapshot | None, earlier: Snapshot | None) -> Snapshot | None:
    """A baseline that was taken again, with the fits of an earlier one for the matrices that both have."""
    if baseline is None or earlier is None:
        return baseline
    before = {c.name: (c.parameter, c.part) for c in earlier.components}
    same = [c.name for c in baseline.components if before.get(c.name) == (c.parameter, c.part)]
    return replace(baseline, fits={**baseline.fits, **{n: earlier.fits[n] for n in same if n in earlier.fits}})


class _Hook:
    def __init__(self, owner: FirstBatch | None, seen: Seen | None, guard: Guard | None) -> None:
        self._guard, self._owner, self._seen = guard, owner, WeakMethod(seen) if seen is not None else None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or self._owner is None:
            return
        owner, self._owner = self._owner, None
        owner.done(module)
        seen = self._seen() if self._seen is not None else None
        if seen is not None and self._guard is not None:
            self._guard("following the first forward pass", seen, module, Called(args, kwargs))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (None, None, None)  # in a copy of the model, or in a file
