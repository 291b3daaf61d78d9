"""Finds the components of a model, given the options of the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import nn

from weibull_monitor.model.components import Discovery, Resolution, discover, without_single_experts
from weibull_monitor.model.components.by_use import ExampleInputs, Followed, follow_model
from weibull_monitor.model.dataflow import Inputs
from weibull_monitor.model.sharding import local_parameters

MAX_COMPONENTS = 2_000
"""With more components than this, ``"auto"`` leaves out single experts: a sample would take 200 kB in the history."""


class Finder:
    """A function of a model that finds its components; the arguments are options of the monitor.

    A forward pass is followed when a model is looked at for the first time, and when the shapes of its parameters have changed.
    """

    def __init__(
        self,
        kinds: Mapping[str, str] | None,
        include: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
        resolution: Resolution | Literal["auto"],
        example_inputs: ExampleInputs = None,
    ) -> None:
        # A model is looked at more than once, and an iterator can be used only once.
        self._kinds = None if kinds is None else dict(kinds)
        self._include, self._exclude = (
            given if given is None or isinstance(given, str) else list(given) for given in (include, exclude)
        )
        self._resolution, self._inputs = resolution, example_inputs
        self._shapes: object = None
        self.followed = Followed()

    def __call__(self, model: nn.Module) -> Discovery:
        """The components of a model."""
        held = local_parameters(model)
        shapes = tuple((h.name, h.shape) for h in held.values())
        if (
            shapes != self._shapes
        ):  # a pass takes up to seconds: not again when only a dtype or what is frozen has changed
            self._shapes = shapes
            self.followed = follow_model(model, held, self._inputs, self._resolution == "head")
        if self._resolution != "auto":
            return discover(model, self._kinds, self._include, self._exclude, self._resolution, followed=self.followed)
        found = discover(model, self._kinds, self._include, self._exclude, followed=self.followed)
        return without_single_experts(found, MAX_COMPONENTS)

    def learn(self, model: nn.Module, module: nn.Module, inputs: Inputs) -> bool:
        """Follows a pass of a module of the model with the inputs that it gets; returns whether anything was settled.

        Args:
            model: The model.
            module: The model, or a module in it.
            inputs: The arguments of the module's ``forward``.
        """
        held = local_parameters(model)
        self._shapes = tuple((h.name, h.shape) for h in held.values())
        found = follow_model(module, held, inputs, self._resolution == "head")
        self.followed = Followed(
            {**self.followed.verdicts, **found.verdicts},
            self.followed.seen | found.seen,
            self.followed.judged | found.judged,
            self.followed.inner | found.inner,
            found.problem,
            True,
            self.followed.seconds + found.seconds,
        )
        return bool(found.verdicts)
