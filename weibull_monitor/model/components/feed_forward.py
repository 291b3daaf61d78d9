"""Decides which matrix of a feed-forward block is which: by the matrices beside it and their shapes, then by names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from weibull_monitor.model.components.names import kind_by_name


class Sibling(NamedTuple):
    """A matrix of a feed-forward block: the end of its path, and how many features it makes out of how many."""

    path: str
    features_out: int
    features_in: int


def roles(siblings: Sequence[Sibling], place: str = "ffn") -> list[str | None]:
    """The kind of every matrix of one feed-forward block.

    Args:
        siblings: All matrices of the block.
        place: The rows of the table of names to read: ``ffn``, or ``block`` for a block that holds them itself.

    Returns:
        ``ffn_gate``, ``ffn_up``, ``ffn_down``; ``ffn_gate_up``, ``ffn_down``; or ``ffn_in``, ``ffn_out``; None for what is
        none of them.

    >>> roles([Sibling("gate_proj", 256, 64), Sibling("up_proj", 256, 64), Sibling("down_proj", 64, 256)])
    ['ffn_gate', 'ffn_up', 'ffn_down']
    >>> roles([Sibling("up_proj", 256, 64), Sibling("down_proj", 64, 256)])
    ['ffn_in', 'ffn_out']
    >>> roles([Sibling("Wi", 512, 64), Sibling("Wo", 64, 256)])  # twice as wide as what is read: a gate and an up-projection
    ['ffn_gate_up', 'ffn_down']
    >>> roles([Sibling("linear_1", 256, 64), Sibling("linear_2", 64, 256), Sibling("linear_3", 256, 64)])
    ['ffn_gate', 'ffn_down', 'ffn_up']
    >>> roles([Sibling("0", 256, 64), Sibling("2", 64, 256)])  # no names at all
    ['ffn_in', 'ffn_out']
    """
    found = [kind_by_name(s.path, "block" if place == "block" else "ffn") for s in siblings]
    if place != "block" and not any(found) and len(siblings) == 2 and _chained(*siblings):
        found = ["ffn_in", "ffn_out"]
    if found.count("ffn_in") == found.count("ffn_up") == 1 and "ffn_gate" not in found:  # two that read the same
        first, third = (siblings[found.index(kind)] for kind in ("ffn_in", "ffn_up"))
        if first[1:] == third[1:]:
            found[found.index("ffn_in")] = "ffn_gate"
    kinds = set(found)
    gated = "ffn_gate" in kinds and bool(kinds & {"ffn_up", "ffn_in"}) and not _gates_the_output(siblings, found)
    if not gated:
        gated = "ffn_gate_up" in kinds
    if not gated and _first_is_double(siblings, found):
        found = ["ffn_gate_up" if kind in ("ffn_in", "ffn_up", "ffn_gate") else kind for kind in found]
        gated = True
    return [_gated(kind) if gated else _plain(kind, kinds) for kind in found]


def _gated(kind: str | None) -> str | None:
    return {"ffn_in": "ffn_up", "ffn_out": "ffn_down"}.get(kind or "", kind)


def _plain(kind: str | None, kinds: set[str | None]) -> str | None:
    if kind == "ffn_gate" and not kinds & {"ffn_up", "ffn_in"}:
        return "ffn_in"  # called a gate, but there is nothing that it gates
    return {"ffn_up": "ffn_in", "ffn_down": "ffn_out"}.get(kind or "", kind)


def _chained(first: Sibling, second: Sibling) -> bool:
    """Whether the second matrix reads what the first makes, or half of it."""
    return first.features_out in (second.features_in, 2 * second.features_in)


def _first_is_double(siblings: Sequence[Sibling], found: Sequence[str | None]) -> bool:
    """Whether the first matrix makes twice what the second reads: gate and up-projection are stored as one."""
    first = [s for s, kind in zip(siblings, found, strict=True) if kind in ("ffn_in", "ffn_up", "ffn_gate")]
    second = [s for s, kind in zip(siblings, found, strict=True) if kind in ("ffn_out", "ffn_down")]
    return len(first) == len(second) == 1 and first[0].features_out == 2 * second[0].features_in


def _gates_the_output(siblings: Sequence[Sibling], found: Sequence[str | None]) -> bool:
    """Whether the gate is as wide as the block's output, not as its hidden layer (RWKV's receptance)."""
    by_kind = dict(zip(found, siblings, strict=True))
    gate, first = by_kind.get("ffn_gate"), by_kind.get("ffn_in") or by_kind.get("ffn_up")
    return gate is not None and first is not None and gate.features_out != first.features_out
