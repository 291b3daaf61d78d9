"""The properties of components that rules need, as arrays: made once, not at every sample."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weibull_monitor.alerts.statistics import Bools, Floats
from weibull_monitor.analysis.published import AttentionKind
from weibull_monitor.model.components import Component, distinct, representatives
from weibull_monitor.model.components.component import DTYPES

Ints = npt.NDArray[np.int64]
ROUNDED: Final = 1e-4
"""Dtypes with a larger precision than this (bf16, fp16) lose small updates, may double a step by rounding, and may move by one
unit in the last place at each step, as by stochastic rounding."""


FACTORS: Final = ("attn_q_a", "attn_kv_a")
"""Kinds, outside the Selection class, of matrices whose products are W_q and W_k."""
LEAST_PART: Final = 1024
"""A part with fewer elements is not judged by its shape: se(R²) is above 0.01 there."""


@dataclass(frozen=True, eq=False)
class JudgedGroup:
    """Components that are judged together: one kind in one list of blocks, each stored matrix or part once.

    Attributes:
        label: Kind, as metric keys spell it.
        component_class: Class of that kind.
        attention: Type of attention in that tower; None if no published model has it (MLA), or if it is not known.
        members: Indices of the components by rising block, shape (members,).
    """

    label: str
    component_class: str
    attention: AttentionKind | None
    members: Ints


@dataclass(frozen=True, eq=False)
class ComponentArrays:
    """The components as arrays, each of shape (components,).

    Attributes:
        names: Names.
        selection: Whether it is a W_q or W_k, a head of one, or a fused matrix that holds one.
        wakes: The same, or a factor of W_q or W_k (latent attention): these grow when attention begins to learn.
        whole: Whether its parts are components large enough to be judged. Two kinds of values in such a stored matrix, each
            in its part, mean nothing.
        body: Whether it is an attention or feed-forward matrix, but not a head or an expert: its values should be one population.
        expert: Whether it belongs to one expert, which may be given no tokens.
        trainable: Whether a gradient was required when the component was found.
        numel: Number of elements.
        precision: Distance between 1 and the next number in the stored dtype.
        coarse: Whether that is above `ROUNDED`.
        blocks: Index of the block; -1 outside of blocks.
        labels: Kinds, as metric keys spell them.
        towers: Paths of the lists of blocks.
        groups: The groups that are judged together.
        owners: A number that a parameter and its parts share, as they are stored, and so written to, together. Each expert
            has one of its own.
        sides: Both sides of each matrix, and of the stored parameter that it is a part of, shape (4, components). With more than
            two dimensions: the first, and the product of the others.
    """

    names: tuple[str, ...]
    selection: Bools
    wakes: Bools
    whole: Bools
    body: Bools
    expert: Bools
    trainable: Bools
    numel: Floats
    precision: Floats
    coarse: Bools
    blocks: Ints
    labels: tuple[str, ...]
    towers: tuple[str, ...]
    groups: tuple[JudgedGroup, ...]
    owners: Ints
    sides: Floats

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def elements(self) -> float:
        """Elements of all stored matrices; those of experts that are measured one by one, besides, count twice."""
        _, first = np.unique(self.owners, return_index=True)
        return float(self.numel[first].sum())

    @staticmethod
    def of(components: Sequence[Component], attention: Iterable[Mapping[str, Any]] = ()) -> ComponentArrays:
        """The arrays of some components.

        Args:
            components: The components.
            attention: The model's types of attention, as in the history's ``run`` line.
        """

        def array(of: Callable[[Component], Any], dtype: Any) -> Any:
            return np.array([of(c) for c in components], dtype=dtype)

        # Single experts are not compared, so the tensor of all of them is, also where it has one kind with them.
        shown = {id(c) for c in representatives([c for c in components if c.expert is None])}

        def comparable(c: Component) -> bool:
            # Heads and experts have more noise and fewer peers; adapters of one block have all shapes.
            return id(c) in shown and c.kind.startswith(("attn_", "ffn_")) and c.expert is None and c.block is not None

        body = array(comparable, bool)

        def selects(c: Component) -> bool:
            return c.component_class in ("selection", "mixed")

        types = {(str(a["tower"]), bool(a["cross"])): _attention_kind(a) for a in attention}
        return ComponentArrays(
            names=tuple(c.name for c in components),
            selection=array(selects, bool),
            wakes=array(lambda c: selects(c) or c.kind in FACTORS, bool),
            whole=_wholes(components),
            body=body,
            expert=array(lambda c: c.expert is not None, bool),
            trainable=array(lambda c: c.trainable, bool),
            numel=array(lambda c: c.numel, float),
            precision=array(lambda c: DTYPES.get(c.dtype_name, 0.0), float),
            coarse=array(lambda c: DTYPES.get(c.dtype_name, 0.0) > ROUNDED, bool),
            blocks=array(lambda c: -1 if c.block is None else c.block, int),
            labels=tuple(c.label for c in components),
            towers=tuple(c.tower for c in components),
            groups=_groups(components, np.flatnonzero(body), types),
            owners=_owners(components),
            sides=_sides(components),
        )


def table_of(rows: Sequence[Sequence[int] | Ints]) -> Ints:
    """Indices in rows of different lengths, shape (rows, longest), -1 after the last of each."""
    table = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int64)
    for row, indices in zip(table, rows, strict=True):
        row[: len(indices)] = indices
    return table


def at_table(values: Floats, table: Ints) -> Floats:
    """The ``values`` (…, components) of a table's indices, in its shape: (…, rows, longest); NaN where it has none."""
    return np.where(table >= 0, values[..., table], np.nan)


def _wholes(components: Sequence[Component]) -> Bools:
    shared = [c for c in components if c.expert is None]
    parts = [c for c in distinct(shared) if c.part is not None]
    small = {c.parameter for c in parts if c.numel < LEAST_PART}
    split = {c.parameter for c in parts} - small
    return np.array([c.part is None and c.parameter in split for c in components], dtype=bool)


def _owners(components: Sequence[Component]) -> Ints:
    known: dict[tuple[str, int | None], int] = {}
    return np.array([known.setdefault((c.parameter, c.expert), len(known)) for c in components], dtype=np.int64)


def _sides(components: Sequence[Component]) -> Floats:
    whole = {c.parameter: c.shape for c in components if c.part is None}

    def of(shape: tuple[int, ...]) -> tuple[int, int]:
        return (shape[0] if shape else 1), math.prod(shape[1:])

    sides = [(*of(c.shape), *of(whole.get(c.parameter, c.shape))) for c in components]
    return np.array(sides, dtype=float).reshape(len(components), 4).T


def _groups(
    components: Sequence[Component], body: Ints, types: Mapping[tuple[str, bool], AttentionKind | None]
) -> tuple[JudgedGroup, ...]:
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for i in body.tolist():
        c = components[i]
        found[c.tower, c.label].append((-1 if c.block is None else c.block, i))
    groups = []
    for (tower, label), members in found.items():
        first = components[members[0][1]]
        indices = np.array([i for _, i in sorted(members)])
        groups.append(JudgedGroup(label, first.component_class, types.get((tower, first.cross)), indices))
    return tuple(groups)


def _attention_kind(attention: Mapping[str, Any]) -> AttentionKind | None:
    """The published type, by the stored matrix: alerts judge a fused matrix as a whole, with shared keys too."""
    if attention["sharing"] == "MLA":
        return None
    if attention["fused"]:
        return "fused"
    if attention["sharing"] in ("GQA", "MQA"):
        return "gqa"
    if attention["sharing"] == "MHA":
        return "mha_qk_norm" if attention["qk_norm"] else "mha"
    return None
