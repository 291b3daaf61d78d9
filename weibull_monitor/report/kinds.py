"""Matrices by kind: the rows of every table and the curves of every chart."""

from __future__ import annotations

from collections.abc import Sequence

from weibull_monitor.model.components import Component, representatives


def by_kind(components: Sequence[Component]) -> dict[str, list[Component]]:
    """The matrices of each kind, each once, in the model's order; keys are labels, such as ``attn_q`` or ``cross_attn_q``."""
    kinds: dict[str, list[Component]] = {}
    for component in representatives(components):
        kinds.setdefault(component.label, []).append(component)
    return kinds
