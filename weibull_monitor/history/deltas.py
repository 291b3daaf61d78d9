"""What a low-rank adapter adds, as a sample and a history hold it, and the kind of the weight that it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weibull_monitor.history.snapshot import Delta
from weibull_monitor.model.adapters import Adapter
from weibull_monitor.model.components import Component
from weibull_monitor.model.components.names import kind_by_name

if TYPE_CHECKING:
    from weibull_monitor.measure import WeibullFit


def base_of(target: str, by_parameter: Mapping[str, Component]) -> Component | str:
    """The weight that an adapter of a module changes; only its kind, from the name, if it is not measured."""
    for end in ("base_layer.weight", "weight", "base_layer.base_layer.weight"):
        if (found := by_parameter.get(f"{target}.{end}" if target else end)) is not None:
            return found
    return kind_by_name(target, "attention") or kind_by_name(target, "ffn") or "other"


def label_of(base: Component | str) -> str:
    """The kind of a weight."""
    return base if isinstance(base, str) else base.label


def delta_of(fit: WeibullFit, rms: float, base: Component | str, fits: Mapping[str, WeibullFit]) -> Delta:
    """What an adapter adds, from the fit of its product."""
    own = fits.get(base.name) if isinstance(base, Component) else None
    ratio = rms / own.rms if own is not None and own.rms > 0 else None
    k, lambda_ = (fit.k, fit.lambda_) if fit.available else (None, None)
    return Delta(k, lambda_, rms, ratio, label_of(base))


def described(one: Adapter, base: Component | str) -> dict[str, Any]:
    """What the history says of an adapter."""
    facts = {"target": one.target, "kind": label_of(base), "adapter": one.adapter, "rank": one.rank}
    return {**facts, "scaling": one.scaling, "dora": one.dora}
