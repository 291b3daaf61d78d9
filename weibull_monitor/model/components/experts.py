"""Chooses the components that medians per kind are taken over, and summarises experts in a few figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weibull_monitor.model.components.component import Component, Discovery


def representatives(components: Sequence[Component]) -> tuple[Component, ...]:
    """The components that a median per kind is taken over: each matrix of a kind once.

    Heads are left out, because their matrix is a component too. So is a parameter that has a part of its own kind: all experts'
    down-projections in one tensor, or queries stored with a gate. A fused matrix with a kind of its own stays.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> found = discover_components(nn.MultiheadAttention(8, 2), resolution="head")
    >>> [c.kind for c in representatives(found)], len(found)
    (['attn_qkv', 'attn_q', 'attn_k', 'attn_v', 'attn_o'], 13)
    """
    parted = {(c.parameter, c.kind) for c in components if c.part is not None and not _is_head(c)}
    return tuple(c for c in components if not _is_head(c) and not (c.part is None and (c.parameter, c.kind) in parted))


def distinct(components: Sequence[Component]) -> tuple[Component, ...]:
    """The components that cover each element once: the parts of matrices that are split, and all other matrices.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> [c.kind for c in distinct(discover_components(nn.MultiheadAttention(8, 2)))]
    ['attn_q', 'attn_k', 'attn_v', 'attn_o']
    """
    split = {c.parameter for c in components if c.part is not None and not _is_head(c)}
    return tuple(c for c in components if not _is_head(c) and not (c.part is None and c.parameter in split))


def without_single_experts(discovery: Discovery, limit: int) -> Discovery:
    """The discovery without single experts, if it has more than ``limit`` components. The tensors of all experts stay."""
    if len(discovery.components) <= limit:
        return discovery
    kept = tuple(c for c in discovery.components if c.part is None or c.expert is None)
    return replace(discovery, components=kept)


def _is_head(component: Component) -> bool:
    part = component.part
    return part is not None and (bool(part.within) or part.label.startswith("head "))


@dataclass(frozen=True)
class ExpertSummary:
    """A figure summarised over the experts of one kind of matrix in one block.

    Attributes:
        kind: Kind of the matrix.
        block: Index of the block, or None.
        tower: Path of the list of blocks.
        median: Median over the experts.
        lowest: The lowest value.
        lowest_expert: Index of the expert with the lowest value.
        highest: The highest value.
        highest_expert: Index of the expert with the highest value.
        experts: Number of experts that have a value.
    """

    kind: str
    block: int | None
    tower: str
    median: float
    lowest: float
    lowest_expert: int
    highest: float
    highest_expert: int
    experts: int


def summarise_experts(components: Sequence[Component], values: Mapping[str, float]) -> tuple[ExpertSummary, ...]:
    """Median, lowest and highest value over the experts of every kind of matrix in every block.

    Args:
        components: Components; those that do not belong to an expert are ignored.
        values: A figure, such as k, by component name; components without one are ignored.
    """
    groups: dict[tuple[str, int | None, str], list[tuple[float, int]]] = defaultdict(list)
    for component in components:
        if component.expert is not None and component.name in values:
            key = (component.label, component.block, component.tower)
            groups[key].append((values[component.name], component.expert))
    out = []
    for (kind, block, tower), found in groups.items():
        low, high = min(found), max(found)
        out.append(ExpertSummary(kind, block, tower, float(np.median([v for v, _ in found])), *low, *high, len(found)))
    return tuple(out)
