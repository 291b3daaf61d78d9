"""The elements of components that this rank counts, as views of what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from weibull_monitor.model.components import Component
from weibull_monitor.model.components.storage import unsupported
from weibull_monitor.model.sharding import Box, LocalParameter, local_parameters
from weibull_monitor.model.sharding.division import Agreement, Share


class LocalWeights:
    """What this rank holds of a model, and which of it this rank counts.

    Args:
        model: The model. Not modified.

    Attributes:
        held: What this rank holds of each parameter, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shares: Mapping[str, Share] = {}
        self._agreed: Mapping[str, LocalParameter] = {}
        self.held = local_parameters(model)

    def refresh(self) -> bool:
        """Looks again at the parameters, and says whether they are still those of the agreement.

        This is the one place where a change is found: parameters that came or went, were frozen, cast or sharded in another way.
        """
        self.held = local_parameters(self._model, self.held)
        return self.held == self._agreed

    def settle(self, agreement: Agreement) -> None:
        """Keeps what the ranks agreed on for the parameters as they are now."""
        self._shares, self._agreed = agreement.shares, self.held

    def pieces(self, component: Component, kept: Tensor | None = None) -> Sequence[Tensor] | str:
        """Views that hold each element of a component that this rank counts once; or why they cannot be read now.

        Args:
            component: The component.
            kept: A tensor that the optimizer keeps for its parameter, to take the same elements of; by default the parameter.
        """
        share = self._shares.get(component.parameter)
        if share is None:
            return ()
        held = self.held[component.parameter]
        local = held.read() if kept is None else held.like(kept)
        if problem := unsupported(local):
            return problem
        box = Box(component.part.view, component.part.ranges) if component.part else None
        layout = held.layout
        try:
            if (share.start, share.stop) != (0, layout.units):
                layout, local = layout.narrowed(share.start, share.stop), local[share.start : share.stop]
            return layout.select(local, box)
        except ValueError as error:
            return str(error)

    def addresses(self, components: Sequence[Component]) -> tuple[int, ...]:
        """The address of each component's parameter in memory; empty if any of them is sharded or of a tensor subclass."""
        held = [self.held[name] for name in dict.fromkeys(component.parameter for component in components)]
        if any(h.copy is not None or type(h.optimized) not in (nn.Parameter, Tensor) for h in held):
            return ()
        return tuple(h.optimized.data_ptr() for h in held)

    def optimized(self) -> Mapping[str, Tensor]:
        """The tensor that an optimizer holds for each parameter, by the parameter's name."""
        return {name: held.optimized for name, held in self.held.items()}
