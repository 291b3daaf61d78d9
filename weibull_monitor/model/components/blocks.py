"""Finds the block and the tower that a matrix belongs to, from the numbered containers above it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from torch import nn

from weibull_monitor.model.components.tree import Leaf, children_of, place_of

_EXPERT: Final = r"(?:^|\.)experts\.(?:expert_)?(\d+)(?:\.|$)"


def expert_of(name: str) -> int | None:
    """Index of the expert that a parameter belongs to, or None.

    >>> expert_of("layers.3.mlp.experts.7.up_proj.weight"), expert_of("layers.3.mlp.experts.expert_7.wi.weight")
    (7, 7)
    """
    found = re.search(_EXPERT, name)
    return int(found[1]) if found else None


def blocks_of(leaves: Sequence[Leaf]) -> list[tuple[int | None, str]]:
    """For every matrix, the index of its transformer block (None outside of blocks) and the path of the list of blocks.

    Blocks of a tower with several stages (Swin, Hiera) are numbered consecutively. Lists within an attention, a feed-forward
    block or a mixer do not number blocks, nor do lists of the different halves of one block (T5's ``layer``).
    """
    found = [_block_path(leaf) for leaf in leaves]
    in_stages: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for path, indices in found:
        if len(indices) > 1:
            in_stages[path].add(indices)
    ordinal = {path: {indices: i for i, indices in enumerate(sorted(every))} for path, every in in_stages.items()}
    out: list[tuple[int | None, str]] = []
    for path, indices in found:
        tower = path.partition(".#")[0] if indices else ""
        out.append((ordinal[path][indices] if len(indices) > 1 else indices[0] if indices else None, tower))
    return out


def _block_path(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    """The path to the innermost numbered block, with # for its numbers, and these numbers."""
    segments: list[str] = []
    path = ""
    indices: tuple[int, ...] = ()
    unit_depth = leaf.unit.count(".") + 1 if leaf.unit else 0
    for depth, (name, module) in enumerate(leaf.above, start=1):
        if name.isdigit():
            container = leaf.above[depth - 2][1] if depth > 1 else None
            if indices and depth > unit_depth > 0:
                break
            if indices and (place_of("", module) in ("attention", "ffn", "mixer") or not _alike(container)):
                break
            segments.append("#")
            indices = (*indices, int(name))
            path = ".".join(segments)
        else:
            segments.append(name)
    return path, indices


def _alike(container: nn.Module | None) -> bool:
    """Whether the elements of a list have one class, as blocks have; the halves of a block do not."""
    return container is None or len({type(child) for _, child in children_of(container)}) == 1
