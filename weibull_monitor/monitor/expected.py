"""Changes of weights that are announced, so that they raise no warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from weibull_monitor.errors import Guard, shielded

if TYPE_CHECKING:
    from weibull_monitor.measure.reader.reader import ModelReader
    from weibull_monitor.model.sharding import LocalParameter
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

        What alerts find in these weights at the next sample, and at the one after it, is an info: it goes to the log and the
        history only, and never stops the run. Inf and NaN are errors as always. Call it before the change. If the model is spread
        over processes, only the call of the main one counts.

        Args:
            changed: Modules, parameters, and names of matrices, parameters or modules. Without any, the whole model.
        """
        if self._ended is not None:
            return
        held = self._reader.weights.held
        names = {c.name: c.parameter for c in self._reader.discovery.components}
        found = set() if changed else set(held)
        for one in changed:
            these = _found(one, held, names)
            found |= these
            if not these:
                what = repr(one) if isinstance(one, str) else f"this {type(one).__name__}"
                self._guard.once(f"expect_change: {what} has no weights that are measured", key=f"expecting {what}")
        self._sampler.expected = {**self._sampler.expected, **dict.fromkeys(found, self._step)}


def _found(one: nn.Module | Tensor | str, held: Mapping[str, LocalParameter], names: Mapping[str, str]) -> set[str]:
    """The parameters that are meant, by name."""
    if isinstance(one, str):
        wanted = names.get(one, one)
        return {name for name in held if name == wanted or name.startswith(f"{wanted}.")}
    tensors = {id(t) for t in ([one] if isinstance(one, Tensor) else one.parameters())}
    return {name for name, here in held.items() if tensors & {id(here.optimized), *map(id, here.sources)}}
