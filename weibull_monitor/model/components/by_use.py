"""What a forward pass says about the matrices of a model: their kinds, and the parts of fused ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import nn

from weibull_monitor.errors import say, text_of
from weibull_monitor.model.components.part import Part
from weibull_monitor.model.components.split import Fragment
from weibull_monitor.model.components.tree import Leaf
from weibull_monitor.model.dataflow import (
    SECONDS,
    Called,
    Inputs,
    Verdict,
    example_inputs_of,
    follow,
    is_tower,
    parts_of,
    verdicts,
)
from weibull_monitor.model.dataflow.boxes import Box
from weibull_monitor.model.dataflow.clone import unwrapped
from weibull_monitor.model.sharding import LocalParameter
from weibull_monitor.model.tuners import of_peft

ExampleInputs = Inputs | Literal[False] | None
"""Arguments of ``forward``, by position or by name; None for those that the model names itself; False for no pass."""


_HEADED: Final = re.compile("For[A-Z]|LMHead|DoubleHeads")
"""In the names of the classes of transformers whose models make an output, and not what another model reads."""
INNER: Final = ("stream", "embedding", "attention", "gated")
"""What the matrices within a model read, as `weibull_monitor.model.dataflow.graph.Event` calls it."""


@dataclass(frozen=True)
class Followed:
    """What a followed forward pass settled.

    Attributes:
        verdicts: What it says about parameters, by their names in ``model.named_parameters()``.
        seen: The parameters that took part in a pass that came to its end.
        judged: Those that took part in any pass, except in the block in which one was cut off: what says nothing of them now has
            nothing to say.
        inner: Those that were multiplied with the output of an embedding or a block, so they are not lookup tables.
        problem: Why no pass was followed to its end; empty if one was, or if there was nothing to follow one with.
        tried: Whether there were inputs for the model itself, not only for models in it.
        seconds: How long it took.
    """

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    judged: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()
    problem: str = ""
    tried: bool = False
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether a pass of the model itself, not only of models in it, settled anything."""
        return self.tried and bool(self.verdicts)


def follow_model(
    model: nn.Module, held: Mapping[str, LocalParameter], example_inputs: ExampleInputs = None, heads: bool = False
) -> Followed:
    """Follows a forward pass of a model, if there are inputs for one. Nothing that goes wrong in it is raised.

    Args:
        model: The model.
        held: What this rank holds of its parameters, whose whole shapes are needed.
        example_inputs: The arguments of ``forward``.
        heads: Whether the elements of every head are asked for.
    """
    if example_inputs is False:
        return Followed()
    try:
        with torch.device("cpu"):  # whatever the default is: what is made on the way meets copies of what is here
            return _followed(model, held, example_inputs, heads)
    except Exception as error:
        say(logging.DEBUG, "weibull_monitor: a forward pass cannot be followed", error)
        return Followed(problem=f"{type(error).__name__}: {text_of(error)}"[:300], tried=True)


def _followed(
    model: nn.Module, held: Mapping[str, LocalParameter], example_inputs: ExampleInputs, heads: bool
) -> Followed:
    """`follow_model`, with inputs that may be given, or made."""
    inner = unwrapped(model)
    inputs: Any = example_inputs if example_inputs is not None else example_inputs_of(inner)
    if inputs is not None and (not isinstance(inputs, (Mapping, list, tuple, Called)) or hasattr(inputs, "_fields")):
        inputs = (inputs,)
    total = _one_pass(inner, inputs, held, heads) if inputs is not None else Followed()
    if example_inputs is None and is_tower(inner):
        total = replace(total, verdicts=_without_heads(total.verdicts))
    return _with_parts(total, inner, held, heads) if example_inputs is None else total


def _with_parts(total: Followed, model: nn.Module, held: Mapping[str, LocalParameter], heads: bool) -> Followed:
    """What a pass said, with passes of the models of transformers in a model that the first did not reach."""
    whole: nn.Module | None = (
        model if total.tried else None
    )  # what makes the output, for which other models read each other
    for part in parts_of(model):
        own = example_inputs_of(part) if total.seconds < SECONDS and _left(part, held, total.seen) else None
        if own is None:
            continue
        more = _one_pass(part, own, held, heads)
        kept: Mapping[str, Verdict] = more.verdicts
        if whole is not None or not _HEADED.search(type(part).__name__):
            kept = _without_heads(kept)
        whole = whole or part
        total = replace(
            total,
            verdicts={**kept, **total.verdicts},
            seen=total.seen | more.seen,
            judged=total.judged | more.judged,
            inner=total.inner | more.inner,
            problem=total.problem if total.tried else total.problem or more.problem,
            seconds=total.seconds + more.seconds,
        )
    return total


def _without_heads(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """What a pass of a part of a model says: another part reads what it returns."""
    return {name: verdict for name, verdict in verdicts.items() if verdict.kind != "lm_head"}


def _left(part: nn.Module, held: Mapping[str, LocalParameter], seen: Set[str]) -> bool:
    """Whether a module has matrices that are not ``seen``."""
    modules, parameters = {id(m) for m in part.modules()}, {id(p) for p in part.parameters()}
    return any(
        name not in seen
        and len(h.shape) > 1
        and (any(id(m) in modules for m, _ in h.places) if h.places else id(h.optimized) in parameters)
        for name, h in held.items()
    )


def _one_pass(module: nn.Module, inputs: Inputs, held: Mapping[str, LocalParameter], heads: bool) -> Followed:
    """What one pass of a module says, by the names of its parameters in the model."""
    done = follow(module, inputs, held.values())
    found = {name: verdict for name, verdict in verdicts(done, heads).items() if name in held}
    events = done.graph.events
    kinds = ("product", "parameter", "embedding")
    took_part = {e.parameter for e in events if e.type in kinds and e.base not in done.graph.hollow}
    took_part |= {number for number, _ in done.graph.depthwise}
    took = {done.names[number] for number in took_part if number >= 0} & held.keys()
    seen = took if done.returned else set[str]()
    products = [e.parameter for e in events if e.type == "product" and e.parameter >= 0]
    last = re.match(r"(?:.*?\.)?\d+\.", done.names[products[-1]]) if products and not done.returned else None
    judged = {name for name in took if last is None or not name.startswith(last[0])}
    reading = {
        e.parameter for e in events if e.type == "product" and any(events[source].type in INNER for source in e.sources)
    }
    inner = {done.names[number] for number in reading if number >= 0}
    return Followed(
        found, frozenset(seen), frozenset(judged), frozenset(inner & seen), done.problem, True, done.seconds
    )


def with_peers(
    leaves: Sequence[Leaf], found: Mapping[str, Verdict], judged: Set[str] = frozenset()
) -> dict[str, Verdict]:
    """Verdicts also for matrices that the pass did not reach, if all like them in other blocks or experts have the same.

    Alike are matrices whose names differ in numbers only, of one shape, held by modules of one class. They are not if the pass
    has nothing to say of one that took part (``judged``): the steps of one network are numbered, too, and so are blocks of two
    sorts.
    """
    groups: dict[tuple[object, ...], list[Leaf]] = {}
    for leaf in leaves:
        key = (re.sub(r"\d+", "#", leaf.name), tuple(leaf.tensor.shape), type(leaf.owner))
        groups.setdefault(key, []).append(leaf)
    out = dict(found)
    for group in groups.values():
        known = [found[leaf.parameter] for leaf in group if leaf.parameter in found]
        silent = any(leaf.parameter in judged for leaf in group if leaf.parameter not in found)
        if known and len(known) < len(group) and not silent:
            first = known[0]
            if all((v.kind, v.cross, v.pieces) == (first.kind, first.cross, first.pieces) for v in known):
                for leaf in group:
                    out.setdefault(leaf.parameter, first)
    return out


def outweighs(leaf: Leaf, by_name: str, verdict: Verdict | None) -> bool:
    """Whether what a matrix does says what it is. The matrices of PEFT's adapters are known by its names for them."""
    if verdict is None:
        return False
    return not (by_name.startswith("adapter") and _of_peft(leaf))


def _of_peft(leaf: Leaf) -> bool:
    return leaf.tuned or (leaf.adapter and any(of_peft(type(module)) for _, module in leaf.above))


MISLEADING: Final = 0.1
"""If names say something else than a pass about a larger share of the matrices that both know, names are not asked at all."""


def second_witness(
    leaves: Sequence[Leaf], named: Sequence[tuple[str, str]], followed: Followed, used: Mapping[str, Verdict]
) -> list[tuple[str, str]]:
    """What the names of matrices say, as far as a pass does not contradict it.

    Args:
        leaves: The matrices.
        named: By their names: their kinds, and the reasons for ``other``.
        followed: The pass.
        used: What it says of each matrix, with `with_peers`.

    Returns:
        Kinds and reasons. A matrix that took part in a pass, and neither in an attention nor in a feed-forward block, is none of
        theirs whatever it is called.
    """
    both = [
        (kind, used[leaf.parameter].kind)
        for leaf, (kind, _) in zip(leaves, named, strict=True)
        if leaf.parameter in used
    ]
    known = [(a, b) for a, b in both if "other" not in (a, b)]
    misleading = sum(a != b for a, b in known) > MISLEADING * len(known) if known else False
    shown = tuple(family for family in ("attn_", "ffn_") if any(v.kind.startswith(family) for v in used.values()))
    shown += (
        ("router",) if "ffn_" in shown else ()
    )  # without any attention in sight, a kernel may have hidden all of it
    shown += ("lm_head",) if any(v.head for v in used.values()) else ()
    out = []
    for leaf, (kind, why) in zip(leaves, named, strict=True):
        if kind.startswith("adapter") and _of_peft(leaf):
            pass
        elif leaf.parameter not in used and leaf.parameter in followed.seen:
            table = kind != "embedding" or leaf.parameter not in followed.inner
            if kind.startswith(shown) or not table or (misleading and kind not in ("other", "embedding", "lm_head")):
                kind, why = "other", f"its name says {kind}, but a forward pass does not show that"
        elif misleading and leaf.parameter not in used:
            kind, why = "other", "the names of this model's matrices are misleading"
        out.append((kind, why))
    return out


def fragments_by_use(leaf: Leaf, verdict: Verdict, resolution: str) -> list[Fragment]:
    """The parts of one parameter that a pass found, each followed by its heads."""
    shape = tuple(leaf.tensor.shape)
    out: list[Fragment] = []
    if verdict.stacked:
        pieces = [(p.kind, f", {p.label}", p.box) for p in verdict.pieces]
        whole = Box(shape, tuple((0, n) for n in shape), (1, *shape[1:]))
        for expert in range(shape[0]):
            for kind, label, box in pieces or [(verdict.kind, "", whole)]:
                out.append(_fragment(kind, f"expert {expert}{label}", shape, box, "", expert))
        return out
    for piece in verdict.pieces:
        out.append(_fragment(piece.kind, piece.label, shape, piece.box))
        if resolution == "head":
            for n, box in enumerate(piece.heads):
                out.append(_fragment(piece.kind, f"{piece.label}, head {n}", shape, box, piece.label))
    if not verdict.pieces and resolution == "head":
        for n, box in enumerate(verdict.heads):
            out.append(_fragment(verdict.kind, f"head {n}", shape, box))
    return out


def _fragment(
    kind: str, label: str, shape: tuple[int, ...], box: Box, within: str = "", expert: int | None = None
) -> Fragment:
    ranges = box.ranges if expert is None else ((expert, expert + 1), *box.ranges[1:])
    # An axis of which the part has one element only is none of the part's.
    made = tuple(n for n, size in zip(box.shape, shape, strict=True) if n > 1 or size == 1 or len(shape) < 3)
    return Fragment(kind, Part(label, box.view, ranges, within), made, expert)
