"""Trainers as they are made: a callback for each, once, put there by a change of the frameworks' classes.

Nothing of a framework is imported here. `Finder` changes a class when the program imports its module.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.machinery import ModuleSpec
from typing import Any, Final

from weibull_monitor.errors import Guard

MADE_IN: Final = {
    "transformers.trainer_callback": ("transformers", "CallbackHandler"),
    "lightning.pytorch.trainer.trainer": ("lightning", "Trainer"),
    "pytorch_lightning.trainer.trainer": ("lightning", "Trainer"),
}
"""Modules of the frameworks: the integration of ours that serves each, and the class whose objects get the callback.

Of transformers it is the handler, which trainers with a constructor of their own make too (TRL's PPO)."""

_options: Mapping[str, Any] | None = None
"""Of the callbacks; None if none are given."""
_guard: Final = Guard()
_replaced: Final[list[tuple[type, str, Any, Any]]] = []
"""Class, name of a method, the framework's method and ours."""


class Finder:
    """Finds the modules of `MADE_IN` as Python does, and changes their class when they have been executed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The specification that Python would find, as `importlib.abc.MetaPathFinder.find_spec` documents it."""
        if name not in MADE_IN:
            return None
        others = [finder for finder in sys.meta_path if finder is not Finder and hasattr(finder, "find_spec")]
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            _guard("preparing autolog", _execute_and_change, spec.loader)
        return spec


def _execute_and_change(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: Any) -> None:
        del loader.exec_module  # the loader is as it was
        execute(module)
        _guard("setting up autolog", _change, module)

    loader.exec_module = exec_module  # of this loader, which is this module's own


def install(options: Mapping[str, Any]) -> None:
    """Gives each Trainer that is made from now on a callback with these options."""
    global _options
    _options = options
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
    for name in MADE_IN:
        if name in sys.modules:
            _change(sys.modules[name])


def remove() -> None:
    """Undoes `install`."""
    global _options
    _options = None
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)
    while _replaced:
        owner, name, theirs, ours = _replaced.pop()
        if owner.__dict__.get(name) is ours:  # else somebody else has wrapped ours, which does nothing from now on
            setattr(owner, name, theirs)


def _change(module: Any) -> None:
    integration, name = MADE_IN[module.__name__]
    owner = getattr(module, name)
    if any(owner is changed for changed, *_ in _replaced):
        return
    entry = "add_callback" if integration == "transformers" else "fit"  # where a Trainer may have got another one
    _replace(owner, "__init__", after=lambda host: _guard("adding the callback", _give, host, integration))
    _replace(owner, entry, before=lambda host, *args: _guard("looking for callbacks", _give_way, host, args))


def _replace(
    owner: type, name: str, before: Callable[..., object] | None = None, after: Callable[[Any], object] | None = None
) -> None:
    theirs = owner.__dict__[name]

    @wraps(theirs)
    def ours(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(self, *args)
        result = theirs(self, *args, **kwargs)
        if after is not None:
            after(self)
        return result

    setattr(owner, name, ours)
    _replaced.append((owner, name, theirs, ours))


def _give(host: Any, integration: str) -> None:
    if _options is None:
        return
    kind = importlib.import_module(f".{integration}", __package__).WeibullCallback
    if not any(isinstance(callback, kind) for callback in host.callbacks):
        callback = kind(**_options)
        callback.automatic = True
        last = getattr(host, "checkpoint_callbacks", [])  # Lightning wants these at the end
        host.callbacks.insert(min([len(host.callbacks), *map(host.callbacks.index, last)]), callback)


def _give_way(host: Any, given: tuple[Any, ...]) -> None:
    """Removes the callback of ours if the user has added one, or is about to."""
    from .options import CallbackOptions

    kinds = [x if isinstance(x, type) else type(x) for x in (*host.callbacks, *given) if not _is_automatic(x)]
    if any(issubclass(kind, CallbackOptions) for kind in kinds):
        host.callbacks[:] = [callback for callback in host.callbacks if not _is_automatic(callback)]


def _is_automatic(callback: Any) -> bool:
    return callback.__dict__.get("automatic") is True if hasattr(callback, "__dict__") else False
