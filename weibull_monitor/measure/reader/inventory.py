"""What there is to measure: the components of a model, or of all ranks together where each has other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from weibull_monitor.model.components import AttentionType, Component, Discovery, Skipped, attention_types
from weibull_monitor.model.sharding import LocalParameter


@dataclass(frozen=True)
class Inventory:
    """What one rank has to measure: the same on all ranks, unless they own different modules.

    Attributes:
        discovery: What is measured there, and what is not.
        attention: Every kind of attention of its modules.
        sizes: Name and number of elements of every parameter, and whether it is a matrix.
    """

    discovery: Discovery
    attention: tuple[AttentionType, ...]
    sizes: tuple[tuple[str, int, bool], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are measured."""
        return tuple(dict.fromkeys(c.parameter for c in self.discovery.components))


def inventory_of(
    model: nn.Module, held: Mapping[str, LocalParameter], find: Callable[[nn.Module], Discovery]
) -> Inventory:
    """The inventory of a model on this rank.

    Args:
        model: The model.
        held: What this rank holds of its parameters.
        find: Finds the components of a model.
    """
    found = find(model)
    return Inventory(
        discovery=found,
        attention=attention_types(model, found.components, found.attention),
        sizes=tuple((h.name, h.elements, len(h.shape) > 1) for h in held.values()),
    )


def without(table: Inventory, problems: Mapping[str, str]) -> Inventory:
    """An inventory without some parameters.

    Args:
        table: The inventory.
        problems: Why they cannot be measured, by name.
    """
    found = table.discovery
    left_out = [c for c in found.components if c.parameter in problems]
    if not left_out:
        return table
    skipped = {c.parameter: Skipped(c.parameter, problems[c.parameter], 0) for c in left_out}
    sizes = {name: numel for name, numel, _ in table.sizes}
    named = tuple(replace(s, numel=sizes.get(name, 0)) for name, s in skipped.items())
    kept = tuple(c for c in found.components if c.parameter not in problems)
    return replace(table, discovery=replace(found, components=kept, skipped=(*found.skipped, *named)))


def merged(tables: Sequence[Inventory]) -> Inventory:
    """One inventory for ranks that own different modules: pipeline stages, and experts that only some ranks have.

    Args:
        tables: Every different inventory, that of the lowest rank first. What several of them have is in the result once. A
            component that is not the same everywhere, or that some rank cannot read, is not measured.
    """
    if len(tables) == 1:
        return tables[0]
    first: dict[str, Component] = {}
    differ: dict[str, Skipped] = {}
    for component in (c for table in tables for c in table.discovery.components):
        before = first.setdefault(component.name, component)
        if before != component:
            differ[component.name] = Skipped(
                component.name,
                f"ranks have different matrices of this name ({_stored(before)}; {_stored(component)}): rename the modules so "
                "that each has its own name on all ranks",
                component.numel,
            )
    skipped = _once(s for table in tables for s in table.discovery.skipped)
    left_out = {s.name for s in skipped}
    sizes = {entry[0]: entry for table in tables for entry in table.sizes}
    discovery = Discovery(
        components=tuple(
            c for c in first.values() if c.name not in differ and c.name.partition("[")[0] not in left_out
        ),
        skipped=(*skipped, *differ.values()),
        elements=sum(numel for _, numel, _ in sizes.values()),
        vectors=sum(numel for _, numel, matrix in sizes.values() if not matrix),
    )
    return Inventory(discovery, _merged_attention(tables), tuple(sizes.values()))


def _merged_attention(tables: Sequence[Inventory]) -> tuple[AttentionType, ...]:
    """Each attention type once, with the blocks of all ranks counted; blocks that several ranks have count once."""
    counted: dict[AttentionType, int] = {}
    seen: set[str] = set()
    for table in tables:
        names = {c.name for c in table.discovery.components if c.kind.startswith("attn_")}
        if not names <= seen:
            for attention in table.attention:
                key = replace(attention, blocks=0)
                counted[key] = counted.get(key, 0) + attention.blocks
        seen |= names
    return tuple(replace(attention, blocks=count) for attention, count in counted.items())


def _once(skipped: Iterable[Skipped]) -> list[Skipped]:
    return list({entry.name: entry for entry in skipped}.values())


def _stored(component: Component) -> str:
    return f"{component.kind} {list(component.shape)} {str(component.dtype).removeprefix('torch.')}"
