"""Experts, summarised: a few figures for all experts of a matrix, never a key for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from weibull_monitor.components.component import Component


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
        out.append(ExpertSummary(kind, block, tower, median(v for v, _ in found), *low, *high, len(found)))
    return tuple(out)
