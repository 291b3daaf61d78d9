"""The elements of components that this rank counts, as views of what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from weibull_monitor.model.components import Component
from weibull_monitor.model.components.storage import unsupported
from weibull_monitor.model.sharding import Box, LocalParameter, local_parameters

if TYPE_CHECKING:
    from weibull_monitor.model.sharding.division import Agreement


class Tree:
    """The modules and parameters of a model as they were, to tell in a fraction of a millisecond whether they still are.

    Args:
        model: The model. Modules of it are kept alive.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, [*module._modules.items()], [*module._parameters], [*map(id, module._parameters.values())])
            for module in model.modules()
        ]

    def same(self) -> bool:
        """Whether every module has the same modules and parameters under the same names."""
        return all(
            [*map(id, module._parameters.values())] == parameters
            and [*module._parameters] == names
            and [*module._modules.items()] == modules
            for module, modules, names, parameters in self._modules
        )


class LocalWeights:
    """What this rank holds of a model, and which of it is its to count.

    Args:
        model: The model. Not modified.

    Attributes:
        held: What is held of each parameter, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shares: Agreement | None = None
        self._agreed: tuple[object, ...] = ()
        self._settled = False
        self._tree: Tree | None = None
        self.held: dict[str, LocalParameter] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Looks again at what is held, and says whether that is still what was `settled`."""
        if self._tree is None or not self._tree.same() or not all(h.stands(h.optimized) for h in self.held.values()):
            self.held = local_parameters(self._model, self.held)
            # Shards come and go by rules of their own: there, everything is looked at each time.
            self._tree = Tree(self._model) if all(h.copy is None for h in self.held.values()) else None
            self._settled = self._agreed == self._signature()
        return self._settled

    def settle(self, agreement: Agreement) -> None:
        """Takes note of who counts what."""
        self._shares, self._agreed, self._settled = agreement, self._signature(), True

    def pieces(self, component: Component, kept: Tensor | None = None) -> Sequence[Tensor] | str:
        """Views that hold each element of a component that this rank counts once; or why they cannot be read now.

        Args:
            component: The component.
            kept: A tensor that the optimizer keeps for its parameter, to take the same elements of; by default the parameter.
        """
        share = self._shares.shares.get(component.parameter) if self._shares else None
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

    def addresses(self, components: Sequence[Component]) -> tuple[tuple[str, int], ...]:
        """Where the parameter of each component lies, once each; empty if there is one that has no one address here."""
        found: dict[str, int] = {}
        for name in dict.fromkeys(component.parameter for component in components):
            held = self.held[name]
            if held.copy is not None or type(held.optimized) not in (nn.Parameter, Tensor):
                return ()
            found[name] = held.optimized.data_ptr()
        return tuple(found.items())

    def optimized(self) -> Mapping[str, Tensor]:
        """The tensor that an optimizer holds for each parameter, by the parameter's name."""
        return {name: held.optimized for name, held in self.held.items()}

    def _signature(self) -> tuple[object, ...]:
        return tuple(held.agreed for held in self.held.values())
