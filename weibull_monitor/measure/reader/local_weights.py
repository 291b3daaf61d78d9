"""The elements of components that this rank counts, as views of what it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from weibull_monitor.errors import text_of
from weibull_monitor.model.components import Component
from weibull_monitor.model.components.storage import unsupported
from weibull_monitor.model.sharding import Box, Layout, LocalParameter, ParameterWatch
from weibull_monitor.model.sharding.division import Agreement, Share
from weibull_monitor.model.sharding.layout import Elements


class LocalWeights:
    """What this rank holds of a model, and which of it this rank counts.

    Args:
        model: The model. Not modified.

    Attributes:
        held: What this rank holds of each parameter, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self._shares: Mapping[str, Share] = {}
        self._agreed: Mapping[str, LocalParameter] = {}
        self._look = ParameterWatch(model)
        self.held = self._look()
        self._firsts: tuple[Sequence[Component], dict[str, Component]] | None = None

    def refresh(self) -> bool:
        """Looks again at the parameters, and says whether they are still those of the agreement.

        This is the one place where a change is found: parameters that came or went, were frozen, cast or sharded in another way.
        """
        self.held = self._look()
        return self.held == self._agreed

    def settle(self, agreement: Agreement) -> None:
        """Keeps what the ranks agreed on for the parameters as they are now."""
        self._shares, self._agreed = agreement.shares, self.held

    def elsewhere(self) -> dict[str, str]:
        """Parameters of which other ranks hold elements, by name; and what to do about it where this rank measures alone."""
        out = {}
        for name, held in self.held.items():
            here, whole = math.prod(held.layout.local_shape), math.prod(held.shape)
            if here != whole and not held.problem and not held.sources:
                out[name] = (
                    f"this rank holds {here:,} of its {whole:,} elements, and measures alone (process_group=None): pass the "
                    "process group of the ranks that hold the rest, or leave process_group out"
                )
        return out

    def pieces(self, component: Component, kept: Tensor | None = None) -> Sequence[Tensor] | str:
        """Views that hold each element of a component that this rank counts once; or why they cannot be read now.

        Args:
            component: The component.
            kept: A tensor that the optimizer keeps for its parameter, to take the same elements of; by default the parameter.
        """
        if component.parameter not in self._shares:
            return ()
        try:
            layout, local = self._here(component, kept)
            return _unreadable(local, kept) or layout.select(local, box_of(component))
        except ValueError as error:
            return text_of(error)
        except Exception as error:  # a tensor of another library, or somebody's parametrization
            return f"reading it failed ({type(error).__name__}: {text_of(error)})"

    def some(self, component: Component) -> Elements:
        """Those of the elements that this rank counts that are looked at; see `Grid.some`."""
        layout, local = self._here(component)
        return layout.some(local, box_of(component))

    def _here(self, component: Component, kept: Tensor | None = None) -> tuple[Layout, Tensor]:
        """What of a component's parameter this rank counts, and where that is in the parameter."""
        share, held = self._shares[component.parameter], self.held[component.parameter]
        layout: Layout = held.layout
        local = held.read() if kept is None else held.like(kept)
        if (share.start, share.stop) != (0, layout.units) and not _unreadable(local, kept):
            layout, local = layout.narrowed(share.start, share.stop), local[share.start : share.stop]
        return layout, local

    def made(self, component: Component) -> bool:
        """Whether the weight is made anew each time that it is read."""
        held = self.held.get(component.parameter)
        return held is not None and bool(held.sources)

    def stays(self, component: Component) -> bool:
        """Whether a component's elements stay where they are in memory, as long as `addresses` are the same."""
        held = self.held[component.parameter]
        return held.copy is None and not held.sources and type(held.optimized) in (nn.Parameter, Tensor)

    def addresses(self, components: Sequence[Component]) -> tuple[int, ...]:
        """The address of each parameter in memory, of the components that `stays` says so of; 0 for others."""
        if self._firsts is None or self._firsts[0] is not components:
            self._firsts = components, {component.parameter: component for component in components}
        firsts = self._firsts[1]
        return tuple(self.held[name].optimized.data_ptr() if self.stays(first) else 0 for name, first in firsts.items())

    def optimized(self) -> Mapping[str, Tensor]:
        """The tensor that an optimizer holds for each parameter, by the parameter's name."""
        return {name: held.optimized for name, held in self.held.items() if held.steps_alike}


def _unreadable(local: Tensor, kept: Tensor | None) -> str:
    """Why a local tensor cannot be measured; empty if it can. A state of the optimizer may be codes of 8 bits."""
    return "" if kept is not None and local.dtype == torch.uint8 else unsupported(local)


def box_of(component: Component) -> Box | None:
    """The elements of its parameter that a component consists of; None if it is the whole."""
    return Box(component.part.view, component.part.ranges) if component.part else None
