"""What low-rank adapters add to the weights of a model, read with each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from weibull_monitor.history.deltas import base_of, delta_of, described
from weibull_monitor.history.snapshot import Delta
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.product import PendingProducts, queue_products
from weibull_monitor.model.adapters import Adapter, adapters_of
from weibull_monitor.model.components import Component
from weibull_monitor.model.components.kept import Kept
from weibull_monitor.model.sharding.dtensor import is_dtensor


class PendingDeltas(NamedTuple):
    """Products that may still be on their way: the names of the components of A, the weights that they change, and the fits."""

    names: tuple[str, ...]
    bases: tuple[Component | str, ...]
    products: PendingProducts


@Kept
def _has_adapters(components: tuple[Component, ...]) -> bool:
    return any(c.kind == "adapter_a" for c in components)


class DeltaReader:
    """Reads the adapters of a model.

    Args:
        model: The model.

    Attributes:
        reasons: Why the change that an adapter makes could not be read, by the name of its A.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.reasons: dict[str, str] = {}

    def collect(self, components: tuple[Component, ...]) -> PendingDeltas | None:
        """Queues the products of all adapters; None if there are none."""
        if not _has_adapters(components):
            return None
        found = self._found(components)
        self.reasons = {name: why for name, one, _ in found if (why := _sharded(one))}
        read = [(name, one, base) for name, one, base in found if name not in self.reasons]
        if not read:
            return None
        names, adapters, bases = zip(*read, strict=True)
        return PendingDeltas(names, bases, queue_products([(one.a, one.b, one.scaling) for one in adapters]))

    def _found(self, components: Sequence[Component]) -> list[tuple[str, Adapter, Component | str]]:
        """The adapters: the name of the component of A, the adapter, and the weight that it changes."""
        by_parameter = {c.parameter: c for c in components if c.part is None}
        return [
            (by_parameter[one.name].name, one, base_of(one.target, by_parameter))
            for one in adapters_of(self._model)
            if one.name in by_parameter
        ]

    def deltas(self, collected: PendingDeltas, fits: Mapping[str, WeibullFit]) -> dict[str, Delta]:
        """What each adapter adds, by the name of its A; waits for the products.

        Args:
            collected: The result of `collect`.
            fits: The fits of the weights of the same step.
        """
        return {
            name: delta_of(fit, rms, base, fits)
            for name, base, (fit, rms) in zip(collected.names, collected.bases, collected.products.fits(), strict=True)
        }

    def record(self, components: Sequence[Component]) -> dict[str, dict[str, Any]]:
        """What the history says of each adapter, by the name of its A."""
        return {name: described(one, base) for name, one, base in self._found(components)}


def _sharded(one: Adapter) -> str:
    return "its adapter is divided between ranks" if is_dtensor(one.a) or is_dtensor(one.b) else ""
