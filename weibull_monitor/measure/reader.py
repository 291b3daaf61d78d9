"""Reads a model: which of its matrices are measured now, and the fit of each."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from weibull_monitor.components import Component, Discovery
from weibull_monitor.measure.fit import WeibullFit, delivered
from weibull_monitor.measure.parts import count_components
from weibull_monitor.measure.solve import solve
from weibull_monitor.storage import unsupported


class ModelReader:
    """Fits the components of a model, again and again.

    Parameters that need no gradient are read once and remembered; parameters that come or go are noticed by `refresh`.

    Args:
        model: The model. Not modified.
        find: Finds the components of the model.

    Attributes:
        discovery: What `find` found last.
    """

    def __init__(self, model: nn.Module, find: Callable[[nn.Module], Discovery]) -> None:
        self._model, self._find = model, find
        self._names = self._parameter_names()
        self._frozen: dict[str, WeibullFit] = {}
        self.discovery = find(model)

    def refresh(self) -> bool:
        """Looks for the components again if parameters have come or gone, and says whether they have."""
        names = self._parameter_names()
        if names == self._names:
            return False
        self._names = names
        self.discovery = self._find(self._model)
        return True

    def read(self) -> tuple[dict[str, WeibullFit], dict[str, str]]:
        """Reads every matrix once.

        Returns:
            The fit of each component that could be read, by name; and why others could not be read or fitted, by name.
        """
        parameters = dict(self._model.named_parameters())
        problems: dict[str, str] = {}
        due: list[Component] = []
        for component in self.discovery.components:
            parameter = parameters[component.parameter]
            if parameter.requires_grad or component.name not in self._frozen:
                if problem := unsupported(parameter) or _reshaped(component, parameter):
                    problems[component.name] = problem
                else:
                    due.append(component)
        queued = [(r.indices, solve(r.counts, r.bins)) for r in count_components(due, parameters.__getitem__)]
        fresh = {due[index].name: fit for index, fit in delivered(queued).items()}
        for component in due:
            fit = fresh[component.name]
            if parameters[component.parameter].requires_grad:
                self._frozen.pop(component.name, None)
            else:
                self._frozen[component.name] = fit
            if not fit.available:
                problems[component.name] = fit.reason
        fits = self._frozen | fresh
        return {c.name: fits[c.name] for c in self.discovery.components if c.name in fits}, problems

    def trainable(self) -> frozenset[str]:
        """Names of the components that are being trained now."""
        parameters = dict(self._model.named_parameters())
        return frozenset(c.name for c in self.discovery.components if parameters[c.parameter].requires_grad)

    def _parameter_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._model.named_parameters())


def _reshaped(component: Component, parameter: Tensor) -> str:
    """Why a component is no longer where it was found in its parameter; empty if it is."""
    found = math.prod(component.part.view) if component.part else component.numel
    return "" if parameter.numel() == found else f"its storage had {found} elements and now has {parameter.numel()}"
