"""Blocks × kinds: a column of a sample laid out as a table, for heatmaps and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from weibull_monitor.model.components import Component, representatives

OUTSIDE = "–"
"""The row of matrices that stand outside of blocks."""
MOST_ALIKE = 6
"""Most matrices of one kind in a block that get columns of their own."""


@dataclass(frozen=True)
class BlockGrid:
    """Which components stand in which cell.

    Attributes:
        kinds: The columns: labels of kinds, in the order of the model. A kind of which a block has several matrices (two
            embeddings, the projections of a mixer) has a column for each, with the end of its name.
        blocks: The rows: block indices, with the tower's path before them where a model has several; `OUTSIDE` comes last.
        cells: For each row and column the names of the components there; several for the experts of a block.
    """

    kinds: tuple[str, ...]
    blocks: tuple[str, ...]
    cells: tuple[tuple[tuple[str, ...], ...], ...]

    def values(self, by_name: Mapping[str, float]) -> list[list[float | None]]:
        """A value for each row and column: the median over the components of the cell that have one, else None.

        Args:
            by_name: A value for each component, such as `RecordedSnapshot.values` gives.
        """
        return [[_median([by_name[n] for n in names if n in by_name]) for names in row] for row in self.cells]


def grid_of(components: Iterable[Component]) -> BlockGrid:
    """Lays components out.

    >>> import torch
    >>> from weibull_monitor.model.components import discover_components
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> grid = grid_of(discover_components(torch.nn.TransformerEncoder(layer, 2)))
    >>> grid.kinds, grid.blocks
    (('attn_qkv', 'attn_q', 'attn_k', 'attn_v', 'attn_o', 'ffn_in', 'ffn_out'), ('0', '1'))
    """
    shown = representatives(tuple(components))
    towers = list(dict.fromkeys(c.tower for c in shown if c.block is not None))
    columns = _columns(shown)
    kinds = list(dict.fromkeys(columns[c.name] for c in shown))
    rows = sorted({(towers.index(c.tower), c.block) for c in shown if c.block is not None})
    labels = [f"{towers[tower]} {block}" if len(towers) > 1 else str(block) for tower, block in rows]
    places: dict[tuple[int, int] | None, int] = {row: place for place, row in enumerate(rows)}
    if any(c.block is None for c in shown):
        places[None] = len(rows)
        labels.append(OUTSIDE)
    cells: list[list[list[str]]] = [[[] for _ in kinds] for _ in labels]
    for c in shown:
        row = places[None if c.block is None else (towers.index(c.tower), c.block)]
        cells[row][kinds.index(columns[c.name])].append(c.name)
    return BlockGrid(tuple(kinds), tuple(labels), tuple(tuple(tuple(names) for names in row) for row in cells))


def _columns(components: Sequence[Component]) -> dict[str, str]:
    """The column of each component: the label of its kind, with the end of its name where a block has several of the kind."""
    members: dict[str, dict[tuple[str, int | None], list[str]]] = {}
    for c in components:
        if c.expert is None:
            stem = _stem(c)
            members.setdefault(c.label, {}).setdefault((c.tower, c.block), []).append(stem)
    columns = {c.name: c.label for c in components}
    for label, blocks in members.items():
        stems = list(dict.fromkeys(stem for group in blocks.values() for stem in group))
        if not any(len(set(group)) > 1 for group in blocks.values()) or len(stems) > MOST_ALIKE:
            continue
        ends = _ends(stems)
        columns |= {c.name: f"{label} {ends[_stem(c)]}" for c in components if c.label == label and c.expert is None}
    return columns


def _stem(component: Component) -> str:
    """A name without its block, and without what nearly all names end in."""
    name = component.name.removesuffix(".weight")
    return name.removeprefix(f"{component.tower}.{component.block}.") if component.block is not None else name


def _ends(stems: Sequence[str]) -> dict[str, str]:
    """The shortest ends of names, in whole parts, that tell them apart.

    >>> _ends(["model.embed_tokens", "model.embed_positions"])
    {'model.embed_tokens': 'embed_tokens', 'model.embed_positions': 'embed_positions'}
    """
    parts = [stem.split(".") for stem in stems]
    for length in range(1, max(map(len, parts)) + 1):
        ends = [".".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(ends):
            return dict(zip(stems, ends, strict=True))
    return dict(zip(stems, stems, strict=True))


def _median(values: list[float]) -> float | None:
    return float(median(values)) if values else None
