"""Compares the kinds that were found in a model with labels that were made without them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from weibull_monitor.model.components import Component, Discovery, discover

Rows = Mapping[str, Tensor]
"""Kind -> numbers of the elements of a flattened parameter."""


@dataclass(frozen=True)
class Label:
    """What a parameter is.

    Attributes:
        kinds: Kinds that are right for it; the first is the best. Empty if nothing was said of it.
        parts: For fused storage: kind -> the elements that are of this kind.
        heads: Number of heads along the rows (q, k, v) or columns (o), or None if that is not compared.
    """

    kinds: tuple[str, ...]
    parts: Rows = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Verdict:
    """The comparison of one or several models.

    Attributes:
        models: Number of models.
        matrices: Number of attention and feed-forward matrices by the labels; fused ones count as their parts.
        right: How many of them have the right kind, and the right rows.
        other: How many are ``other``, or fused and not cut.
        wrong: A line for each that has a wrong kind, and for each other matrix that is called an attention or feed-forward one.
        heads: How many were compared by their heads, and how many of these were right.
        evidence: Number of compared matrices by what their kind rests on.
        unlabelled: Names that no label covers.
        problems: Models that could not be built or read.
        seconds: Time that finding the kinds took.
    """

    models: int = 0
    matrices: int = 0
    right: int = 0
    other: int = 0
    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    heads: int = 0
    heads_right: int = 0
    evidence: Counter[str] = field(default_factory=Counter)
    unlabelled: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Verdict) -> None:
        for name in ("models", "matrices", "right", "other", "heads", "heads_right", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("wrong", "missed", "unlabelled", "problems"):
            getattr(self, name).extend(getattr(other, name))
        self.evidence.update(other.evidence)


def verdict_of(found: Mapping[str, Any]) -> Verdict:
    """A verdict that was written as JSON."""
    return Verdict(**{**found, "evidence": Counter(found["evidence"])})


TRANSFORMER = ("attn_", "ffn_")
WHOLE = {"attn_qkv", "attn_kv", "attn_qk", "ffn_gate_up", "attn_kv_b", "other"}
"""Kinds of storage that holds several matrices: to be cut."""
SAME = {"attn_q": {"attn_q_b", "attn_q"}, "attn_q_b": {"attn_q_b", "attn_q"}}
"""Kinds that are as good as another."""


def judge(
    name: str,
    model: nn.Module,
    inputs: Any,
    label: Callable[[str, Tensor], Label | None],
    found_all: Discovery | None = None,
) -> Verdict:
    """Finds the kinds of a model's matrices, by use where inputs are given, and compares them with labels.

    Args:
        name: What lines about it begin with.
        model: The model.
        inputs: Example inputs; None for those that the model says it takes, False for kinds by name.
        label: Gives the label of a parameter by its name, or None for one that it does not know.
        found_all: What was found with these inputs, if it was looked for already.
    """
    started = time.perf_counter()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found_all = found_all or discover(model, resolution="head", example_inputs=inputs)
    components = found_all.components
    verdict = Verdict(models=1, seconds=time.perf_counter() - started)
    if problem := found_all.problem:
        verdict.problems.append(f"{name}: not followed: {problem}")
    found: dict[str, list[Component]] = {}
    for component in components:
        found.setdefault(component.parameter, []).append(component)
    for parameter, mine in found.items():
        tensor = parameters.get(parameter)
        if tensor is None:
            continue  # a layer makes it of others
        known = label(parameter, tensor)
        if known is None and mine[0].kind.startswith(TRANSFORMER):
            verdict.unlabelled.append(f"{name}: {parameter} {tuple(tensor.shape)} {mine[0].kind}")
        elif known is not None:
            _one(f"{name}: {parameter} {tuple(tensor.shape)}", tensor, mine, known, verdict)
    return verdict


def _one(name: str, tensor: Tensor, mine: Sequence[Component], label: Label, verdict: Verdict) -> None:
    whole = mine[0]
    parts = [c for c in mine if c.part is not None and not _is_head(c)]
    if not label.kinds[0].startswith(TRANSFORMER) and not label.parts:
        called = {c.kind for c in (parts or [whole])} - set(label.kinds)
        if any(kind.startswith(TRANSFORMER) for kind in called):
            verdict.wrong.append(f"{name} is {'/'.join(label.kinds)}, called {', '.join(sorted(called))}")
        return
    if not label.parts:
        outcome = [_whole(whole, parts, label)]
    else:
        outcome = [_part(kind, elements, tensor, whole, parts, label) for kind, elements in label.parts.items()]
    for result, called, kind in outcome:
        verdict.matrices += 1
        verdict.evidence[str(getattr(whole, "evidence", "name") or "name")] += 1
        if result == "right":
            verdict.right += 1
        elif result == "other":
            verdict.other += 1
            verdict.missed.append(f"{name} is {kind}, called {called}")
        else:
            verdict.wrong.append(f"{name} is {kind}, called {called}")
    for kind, count in label.heads.items():
        verdict.heads += 1
        pieces = [c for c in mine if _is_head(c) and c.kind in SAME.get(kind, {kind})]
        verdict.heads_right += len(pieces) == count or (count == 1 and not pieces)


def _whole(whole: Component, parts: Sequence[Component], label: Label) -> tuple[str, str, str]:
    kinds = {c.kind for c in parts if c.expert is None or c.expert == 0} or {whole.kind}
    if label.kinds[0] == "attn_kv_a" and kinds == {"attn_k"}:  # the rows with positions are also found as a part
        kinds = {whole.kind}
    allowed = {a for kind in label.kinds for a in SAME.get(kind, {kind})}
    called = "+".join(sorted(kinds))
    if kinds <= allowed:
        return "right", called, label.kinds[0]
    whole_of_several = len(label.kinds) > 1 and kinds <= WHOLE
    return ("other" if kinds == {"other"} or whole_of_several else "wrong"), called, "/".join(label.kinds)


def _part(
    kind: str, elements: Tensor, tensor: Tensor, whole: Component, parts: Sequence[Component], label: Label
) -> tuple[str, str, str]:
    numbers = torch.arange(tensor.numel()).view(tensor.shape)
    allowed = SAME.get(kind, {kind})
    wanted = torch.zeros(tensor.numel(), dtype=torch.bool)
    wanted[elements.flatten()] = True
    covered = torch.zeros_like(wanted)
    touching = set()
    for part in parts:
        assert part.part is not None
        index = part.part.select(numbers).flatten()
        if part.kind in allowed:
            covered[index] = True
        if bool(wanted[index].any()):
            touching.add(part.kind)
    if torch.equal(covered, wanted):
        return "right", kind, kind
    called = "+".join(sorted(touching)) or whole.kind
    if (not parts and whole.kind in WHOLE) or (not covered.any() and touching <= WHOLE):
        return "other", called, kind
    return "wrong", called + " by other rows" * (touching == allowed), kind


def _is_head(component: Component) -> bool:
    return component.part is not None and re.search(r"\bhead \d", component.part.label) is not None


def rows(shape: Sequence[int], axis: int, kinds: Sequence[str], view: Sequence[int] | None = None) -> Rows:
    """The elements of each kind of a parameter that is seen in a view, of which one axis tells the kinds.

    Several places of the axis may have one kind; a place that is called ``""`` has none.
    """
    numbers = torch.arange(int(torch.tensor(tuple(shape)).prod())).view(tuple(view or shape))
    assert numbers.shape[axis] == len(kinds), (tuple(numbers.shape), axis, kinds)
    return {
        kind: numbers.index_select(axis, torch.tensor([i for i, k in enumerate(kinds) if k == kind])).flatten()
        for kind in dict.fromkeys(kinds)
        if kind
    }


def sizes(shape: Sequence[int], **of: int) -> Rows:
    """Rows of a matrix one after the other: ``sizes(shape, attn_q=64, attn_k=16, attn_v=16)``."""
    return rows(shape, 0, [kind for kind, size in of.items() for _ in range(size)])


Entry = tuple[str, Any]


def table(entries: Iterable[Entry], heads: Mapping[str, int] | None = None) -> Callable[[str, Tensor], Label | None]:
    """A labelling from a table of (regular expression on the parameter's name, what it is).

    What it is: a kind, several that are right, a `Label`, or a function of the shape that gives one or the parts.
    """
    compiled = [(re.compile(pattern), value) for pattern, value in entries]

    def label(name: str, tensor: Tensor) -> Label | None:
        for pattern, value in compiled:
            if pattern.search(name):
                made = value(tuple(tensor.shape)) if callable(value) else value
                if isinstance(made, Label):
                    return made
                if isinstance(made, str):
                    made = (made,)
                if isinstance(made, Mapping):
                    return Label(tuple(made), made, {k: n for k, n in (heads or {}).items() if k in made})
                return Label(made, heads={k: n for k, n in (heads or {}).items() if k == made[0]})
        return None

    return label
