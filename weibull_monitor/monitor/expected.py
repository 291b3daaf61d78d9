"""Changes of weights that are announced, so that they raise no warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from weibull_monitor.errors import Guard, shielded
from weibull_monitor.model.components.names import clean_name

if TYPE_CHECKING:
    from weibull_monitor.measure.reader.reader import ModelReader
    from weibull_monitor.monitor.ended import Ended
    from weibull_monitor.monitor.sampling import Sampler


class ChangeExpecter:
    """The method of `WeibullMonitor` about changes on purpose."""

    _guard: Guard
    _ended: Ended | None
    _reader: ModelReader
    _sampler: Sampler
    _step: int

    @shielded("expecting a change")
    def expect_change(self, *changed: nn.Module | Tensor | str) -> None:
        """Says that you are about to change weights, or their learning rate or moments: draw them anew, prune, merge, load.

        What alerts find in these weights at the next sample of the schedule, and at the one after it, is an info: it goes to the
        log and the history only, and never stops the run. Of learning rates and updates this holds for eight samples. Inf and NaN
        are errors as always. Call it before the change. If the model is spread over processes, only the call of the main one
        counts.

        Args:
            changed: Modules, parameters, and names of modules, parameters or matrices; the model for all of it.
        """
        if self._ended is not None:
            return
        found: dict[str, int] = {}
        for one in changed:
            these = _found(one, self._reader)
            found |= dict.fromkeys(these, self._step)
            if not these:
                what = repr(one) if isinstance(one, str) else f"this {type(one).__name__}"
                self._guard.once(f"expect_change: {what} has no weights that are measured", key=f"{what} {id(one)}")
        if not changed:
            self._guard.once("expect_change() names nothing; pass the model for all of its weights")
        self._sampler.expected = {**self._sampler.expected, **found}

    def _restore_expected(self, state: Any) -> None:
        """Goes on with what `state_dict` had of it; anything may be in a checkpoint."""
        given = state.items() if isinstance(state, Mapping) else ()
        self._sampler.expected = {n: after for n, after in given if isinstance(n, str) and type(after) is int}


def _found(one: object, reader: ModelReader) -> set[str]:
    """The measured parameters that are meant, by the name that the reader has for them."""
    model = reader.model
    tensors: list[Tensor]
    parameters = [(clean_name(name), p) for name, p in model.named_parameters(remove_duplicate=False)]
    if isinstance(one, str):
        places = {clean_name(one)}
        tensors = [p for name, p in parameters if _under(name, places)]
    elif isinstance(one, Tensor):
        places = {name for name, p in parameters if p is one}
        tensors = [one]
    elif isinstance(one, nn.Module):
        modules = model.named_modules(remove_duplicate=False)
        places = {clean_name(path) for path, module in modules if module is one}
        tensors = [*one.parameters()]
    else:
        return set()
    ids = {id(tensor) for tensor in tensors}
    held = reader.weights.held
    found: set[str] = set()
    for component in reader.discovery.components:
        here = held.get(component.parameter)
        of_tensors = here is not None and not ids.isdisjoint((id(here.optimized), *map(id, here.sources)))
        if of_tensors or _under(component.name, places) or _under(component.parameter, places):
            found.add(component.parameter)
    return found


def _under(name: str, places: set[str]) -> bool:
    """Whether a name is one of these, or of something within it; an empty one is the whole model."""
    return any(not place or name == place or name.startswith(f"{place}.") for place in places)
