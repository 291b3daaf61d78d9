"""The kind of every parameter that a forward pass settles, and the parts of fused storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.boxes import Box, box_of
from weibull_monitor.model.dataflow.follow import Pass
from weibull_monitor.model.dataflow.reading import AttentionUse, Use
from weibull_monitor.model.dataflow.roles import Roles

_ALONE: Final[Mapping[frozenset[str], str]] = {
    frozenset(roles): kind
    for roles, kind in (
        (("q",), "attn_q"),
        (("k",), "attn_k"),
        (("v",), "attn_v"),
        (("q", "k", "v"), "attn_qkv"),
        (("q", "k", "v", "attn_gate"), "attn_qkv"),
        (("k", "v"), "attn_kv"),
        (("q", "k"), "attn_qk"),
        (("q", "attn_gate"), "attn_q"),
        (("o",), "attn_o"),
        (("attn_gate",), "attn_gate"),
        (("q_a",), "attn_q_a"),
        (("kv_a",), "attn_kv_a"),
        (("kv_a", "k"), "attn_kv_a"),
        (("gate",), "ffn_gate"),
        (("up",), "ffn_up"),
        (("gate", "up"), "ffn_gate_up"),
        (("down",), "ffn_down"),
        (("in",), "ffn_in"),
        (("out",), "ffn_out"),
        (("router",), "router"),
        (("embedding",), "embedding"),
        (("lm_head",), "lm_head"),
        (("mixer",), "mixer"),
        (("adapter_a",), "adapter_a"),
        (("adapter_b",), "adapter_b"),
        (("other",), "other"),
    )
}
_OF_ROLE: Final[Mapping[str, str]] = {next(iter(roles)): kind for roles, kind in _ALONE.items() if len(roles) == 1}
ORDER: Final = ("q_a", "kv_a", "q", "k", "v", "attn_gate", "o", "gate", "up", "down", "in", "out", "mixer")
"""The order in which the parts of a matrix are listed."""
_LABEL: Final = {"attn_gate": "gate"}


@dataclass(frozen=True)
class Piece:
    """A part of a stored parameter.

    Attributes:
        label: ``q``, ``gate``, …
        kind: Its kind.
        box: Its elements.
        heads: The elements of each of its heads, if they are known.
    """

    label: str
    kind: str
    box: Box
    heads: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a forward pass says about one parameter.

    Attributes:
        kind: Its kind.
        why: How that is known, in words.
        cross: Whether it belongs to a cross-attention.
        pieces: The parts of fused storage; empty for other matrices, and where the rows of a part make no box.
        attention: The attention that it belongs to.
        stacked: Whether its first axis numbers experts.
        head: Whether its product is what the model returns: also of an embedding that is tied to the output.
    """

    kind: str
    why: str
    cross: bool = False
    pieces: tuple[Piece, ...] = ()
    attention: AttentionUse | None = None
    stacked: bool = False
    heads: tuple[Box, ...] = field(default=(), compare=False)
    head: bool = False


def verdicts(found: Pass, heads: bool = False) -> dict[str, Verdict]:
    """What a pass settles, by the names that the pass has of the parameters.

    Args:
        found: The pass.
        heads: Whether to find the elements of every head as well, which takes time.
    """
    roles = Roles(found)
    if not heads:
        for uses in roles.uses.values():
            for use in uses:
                use.heads = []
    out = {}
    for number, uses in roles.uses.items():
        shape = found.shapes[number]
        if len(shape) < 2:
            continue
        verdict = _verdict(shape, uses, roles)
        if verdict is not None:
            out[found.names[number]] = verdict
    return out


def _verdict(shape: tuple[int, ...], uses: list[Use], roles: Roles) -> Verdict | None:
    by_role: dict[str, list[Use]] = {}
    for use in uses:
        by_role.setdefault(use.role, []).append(use)
    if "embedding" in by_role:
        tied = "lm_head" in by_role
        return Verdict("embedding", by_role["embedding"][0].why + ", and it makes the logits" * tied, head=tied)
    named = {role: use for role, use in by_role.items() if role not in ("lm_head", "other")} or by_role
    places = {role: _merged(use) for role, use in named.items()}
    attentions = [roles.attentions[u.attention] for us in named.values() for u in us if u.attention >= 0]
    cross = bool(attentions) and all(a.cross for a in attentions)  # in all that it takes part in
    attention = next((a for a in attentions if a.cross == cross), None)
    why = "; ".join(dict.fromkeys(use[0].why for use in named.values()))
    kind = _ALONE.get(frozenset(named), "other")
    latent = any(u.latent for us in named.values() for u in us)
    if latent:
        kind = {"attn_q": "attn_q_b", "attn_kv": "attn_kv_b"}.get(kind, kind)
    stacked = len(shape) == 3 and kind.startswith("ffn_") and _alike(shape, named, places, roles)
    if stacked:
        named = {role: _of_first(shape, uses) for role, uses in named.items()}
    if len(named) == 1:
        heads = (
            _heads(shape, next(iter(named.values())), roles)
            if kind in ("attn_q", "attn_q_b", "attn_k", "attn_v")
            else ()
        )
        heads = heads if len(heads) > 1 else ()
        return Verdict(kind, why, cross, (), attention, stacked, heads, head="lm_head" in named)
    same = [
        r
        for r in named
        if any(r != o and named[r][0].columns is None and torch.equal(places[r], places[o]) for o in named)
    ]
    pieces = [] if same or kind == "attn_kv_a" else list(_pieces(shape, named, kind, roles))
    if len(pieces) > 1 and len({(p.box.view, p.box.ranges) for p in pieces}) == 1:  # all of it does several things
        return Verdict(pieces[0].kind if kind == "other" else kind, why, cross, (), attention, stacked)
    if len(pieces) > 1 and not stacked:
        pieces += _rest(shape, places, [use for uses in named.values() for use in uses], roles)
    if kind == "other":
        why = "it holds several matrices: " + ", ".join(_LABEL.get(r, r) for r in (*ORDER, "router") if r in named)
        if same or not pieces:
            return None  # one matrix that does two things
    return Verdict(kind, why, cross, tuple(pieces), attention, stacked)


def _alike(shape: tuple[int, ...], named: Mapping[str, list[Use]], places: Mapping[str, Tensor], roles: Roles) -> bool:
    """Whether the first axis of a parameter numbers experts: every one has rows of every role, and more than a single one.

    A single row each is what the outputs of a convolution along time have, (outputs, inputs, kernel).
    """
    if any(0 in roles.event(use).summed for uses in named.values() for use in uses):
        return False
    numbers = [frozenset(torch.unravel_index(places[role], shape)[0].tolist()) for role in named]
    rows = max(len(torch.unique(places[role])) for role in named)
    several = len(named) > 1 or len(numbers[0]) > 1 or shape[0] > 1
    return len(set(numbers)) == 1 and several and rows > len(numbers[0])


def _of_first(shape: tuple[int, ...], uses: list[Use]) -> list[Use]:
    """Uses with the rows of the first expert only."""
    numbers = [torch.unravel_index(use.places, shape)[0] for use in uses]
    first = min(int(n.min()) for n in numbers)
    return [
        replace(use, places=use.places[n == first], heads=[])
        for use, n in zip(uses, numbers, strict=True)
        if bool((n == first).any())
    ]


def _merged(uses: list[Use]) -> Tensor:
    first: Tensor = uses[0].places
    if all(len(u.places) == len(first) and torch.equal(u.places, first) for u in uses[1:]):
        return first
    merged: Tensor = torch.unique(torch.cat([u.places for u in uses]))
    return merged


def _pieces(shape: tuple[int, ...], named: Mapping[str, list[Use]], kind: str, roles: Roles) -> Iterator[Piece]:
    """The parts of a matrix, in the usual order."""
    for role in sorted(named, key=lambda r: ORDER.index(r) if r in ORDER else len(ORDER)):
        uses = named[role]
        event = roles.event(uses[0])
        box = box_of(shape, _merged(uses), event.summed, uses[0].columns, event.width, event.step)
        if box is None:
            continue
        part = "attn_q_b" if kind == "attn_q_b" and role == "q" else _OF_ROLE.get(role, "other")
        yield Piece(_LABEL.get(role, role), part, box, _heads(shape, uses, roles))


def _rest(shape: tuple[int, ...], places: Mapping[str, Tensor], uses: list[Use], roles: Roles) -> list[Piece]:
    """What is left of a matrix of which some rows have a role: rows that do something else, such as to weigh a position."""
    events = {use.event: roles.event(use) for use in uses}
    if len(events) != 1 or any(use.columns is not None for use in uses):
        return []
    (product,) = events.values()
    if product.places is None or len(product.summed) != 1:
        return []
    rows = torch.unique(product.places)
    left = rows[~torch.isin(rows, torch.cat(list(places.values())))]
    box = box_of(shape, left, product.summed)
    return [Piece("rest", "other", box)] if box is not None else []


def _heads(shape: tuple[int, ...], uses: list[Use], roles: Roles) -> tuple[Box, ...]:
    """The boxes of the heads of a part, in the order of their rows in storage."""
    heads = max((u.heads for u in uses), key=len, default=[])
    event = roles.event(uses[0])
    boxes = [
        box_of(shape, head, event.summed, None, event.width, event.step)
        for head in sorted(heads, key=lambda h: int(h[0]))
    ]
    return tuple(b for b in boxes if b is not None) if all(b is not None for b in boxes) else ()
