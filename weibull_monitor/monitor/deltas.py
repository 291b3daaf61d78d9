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
from weibull_monitor.model.sharding.dtensor import is_dtensor


class PendingDeltas(NamedTuple):
    """Products that may still be on their way: the names of the components of A, the weights that they change, and the fits."""

    names: tuple[str, ...]
    bases: tuple[Component | str, ...]
    products: PendingProducts


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

    def collect(self, components: Sequence[Component]) -> PendingDeltas | None:
        """Queues the products of all adapters; None if there are none."""
        by_parameter = {c.parameter: c for c in components if c.part is None}
        if not any(c.kind == "adapter_a" for c in components):
            return None
        found = [(by_parameter[one.name], one) for one in adapters_of(self._model) if one.name in by_parameter]
        self.reasons = {c.name: why for c, one in found if (why := _sharded(one))}
        read = [(c, one) for c, one in found if c.name not in self.reasons]
        if not read:
            return None
        bases = tuple(base_of(one.target, by_parameter) for _, one in read)
        products = queue_products([(one.a, one.b, one.scaling) for _, one in read])
        return PendingDeltas(tuple(c.name for c, _ in read), bases, products)

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
        by_parameter = {c.parameter: c for c in components if c.part is None}
        return {
            by_parameter[one.name].name: described(one, base_of(one.target, by_parameter))
            for one in adapters_of(self._model)
            if one.name in by_parameter
        }


def _sharded(one: Adapter) -> str:
    return "its adapter is divided between ranks" if is_dtensor(one.a) or is_dtensor(one.b) else ""
