"""What a median per kind is taken over, and experts summarised: a few figures for all of them, never a key for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weibull_monitor.model.components.component import Component, Discovery


def representatives(components: Sequence[Component]) -> tuple[Component, ...]:
    """The components that stand for their kind once each, as medians per kind need them.

    Left out are heads, which are pieces of a matrix that is there itself, and a parameter that has a part of its own kind: all
    experts' down-projections in one tensor, or queries stored with a gate. A fused matrix of a kind of its own stays.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> found = discover_components(nn.MultiheadAttention(8, 2), resolution="head")
    >>> [c.kind for c in representatives(found)], len(found)
    (['attn_qkv', 'attn_q', 'attn_k', 'attn_v', 'attn_o'], 13)
    """
    parted = {(c.parameter, c.kind) for c in components if c.part is not None and not _is_head(c)}
    return tuple(c for c in components if not _is_head(c) and not (c.part is None and (c.parameter, c.kind) in parted))


def distinct(components: Sequence[Component]) -> tuple[Component, ...]:
    """The components that hold each element once: the parts of a matrix that is split, and matrices that are not.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> [c.kind for c in distinct(discover_components(nn.MultiheadAttention(8, 2)))]
    ['attn_q', 'attn_k', 'attn_v', 'attn_o']
    """
    split = {c.parameter for c in components if c.part is not None and not _is_head(c)}
    return tuple(c for c in components if not _is_head(c) and not (c.part is None and c.parameter in split))


def without_single_experts(discovery: Discovery, limit: int) -> Discovery:
    """The same, without each expert's part of the tensors that hold all experts of a block, if there are more than ``limit``
    components with them. The tensors themselves stay."""
    if len(discovery.components) <= limit:
        return discovery
    kept = tuple(c for c in discovery.components if c.part is None or c.expert is None)
    return replace(discovery, components=kept)


def _is_head(component: Component) -> bool:
    part = component.part
    return part is not None and (bool(part.within) or part.label.startswith("head "))


@dataclass(frozen=True)
class ExpertSummary:
    """One figure of all experts of one matrix of one block.

    Attributes:
        kind: Kind of the matrix.
        block: Index of the block, or None.
        tower: Path of the list of blocks.
        median: Median over the experts.
        lowest: The lowest value, and `lowest_expert` whose it is.
        lowest_expert: Index of that expert.
        highest: The highest value, and `highest_expert` whose it is.
        highest_expert: Index of that expert.
        experts: How many experts have a value.
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
    """Median, lowest and highest over the experts of every matrix of every block, and which experts those are.

    Args:
        components: Components; those that belong to no expert are passed over.
        values: A figure (k, say) by component name; a component without one is passed over.
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
