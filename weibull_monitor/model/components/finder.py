"""Finds the components of a model, given the options of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

from torch import nn

from weibull_monitor.model.components import Discovery, Resolution, discover, without_single_experts

MAX_COMPONENTS = 2_000
"""With more components than this, ``"auto"`` leaves out single experts: a sample would take 200 kB in the history."""


def finder(
    kinds: Mapping[str, str] | None,
    include: str | Iterable[str] | None,
    exclude: str | Iterable[str] | None,
    resolution: Resolution | Literal["auto"],
) -> Callable[[nn.Module], Discovery]:
    """Returns a function that finds the components of a model; the arguments are options of the monitor."""
    # A model is looked at more than once, and an iterator can be used only once.
    kinds = None if kinds is None else dict(kinds)
    include, exclude = (
        given if given is None or isinstance(given, str) else list(given) for given in (include, exclude)
    )

    return partial(_found, kinds, include, exclude, resolution)  # can be pickled, for models of another process


def _found(
    kinds: Mapping[str, str] | None,
    include: str | list[str] | None,
    exclude: str | list[str] | None,
    resolution: Resolution | Literal["auto"],
    model: nn.Module,
) -> Discovery:
    if resolution != "auto":
        return discover(model, kinds, include, exclude, resolution)
    return without_single_experts(discover(model, kinds, include, exclude), MAX_COMPONENTS)
