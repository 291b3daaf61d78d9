"""Matrices by kind: the rows of every table and the curves of every chart."""

from __future__ import annotations

from collections.abc import Sequence

from weibull_monitor.model.adapters import of_adapters
from weibull_monitor.model.components import Component, representatives


def by_kind(components: Sequence[Component]) -> dict[str, list[Component]]:
    """The matrices of each kind, each once, in the model's order; keys are labels, such as ``attn_q`` or ``cross_attn_q``."""
    kinds: dict[str, list[Component]] = {}
    for component in representatives(components):
        kinds.setdefault(component.label, []).append(component)
    return kinds


def frozen_kinds(components: Sequence[Component]) -> dict[str, list[Component]]:
    """Of a run that trains adapters, the kinds that it does not train; empty for other runs."""
    if not of_adapters(components):
        return {}
    kinds = by_kind(components)
    return {kind: members for kind, members in kinds.items() if not any(c.trainable for c in members)}
