"""What rules need to know of the components, as arrays: made once, not at every sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from weibull_monitor.alerts.statistics import Bools, Floats
from weibull_monitor.model.components import Component, representatives

Ints = npt.NDArray[np.int64]
Sharing = Literal["separate", "separate with QK-norm", "grouped", "fused", "latent", "unknown"]
"""Kinds of attention that have expectations of their own."""


@dataclass(frozen=True, eq=False)
class JudgedGroup:
    """Components that are judged together: one kind in one list of blocks, each stored matrix or part once.

    Attributes:
        label: Kind, as metric keys spell it.
        component_class: Class of that kind.
        tower: Path of the list of blocks.
        sharing: Kind of attention in that tower.
        members: Indices of the components, by rising block.
        blocks: Their blocks.
    """

    label: str
    component_class: str
    tower: str
    sharing: Sharing
    members: Ints
    blocks: Ints


@dataclass(frozen=True, eq=False)
class ComponentArrays:
    """The components as arrays, each of shape (components,).

    Attributes:
        names: Names.
        selection: W_q and W_k, their heads, and fused matrices that hold them.
        body: Attention and feed-forward matrices, without heads and experts: those that are one population.
        trainable: Required a gradient when they were found.
        numel: Number of elements.
        precision: Distance of 1 and the next number in the dtype of storage.
        blocks: Index of the block; -1 outside of blocks.
        labels: Kinds, as metric keys spell them: one string a component.
        groups: What is judged together.
    """

    names: tuple[str, ...]
    selection: Bools
    body: Bools
    trainable: Bools
    numel: Floats
    precision: Floats
    blocks: Ints
    labels: tuple[str, ...]
    groups: tuple[JudgedGroup, ...]

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    def of(components: Sequence[Component], attention: Iterable[Mapping[str, Any]] = ()) -> ComponentArrays:
        """The facts of these components.

        Args:
            components: The components.
            attention: Kinds of attention of the model, as the history's ``run`` line has them.
        """

        def array(of: Callable[[Component], Any], dtype: Any) -> Any:
            return np.array([of(c) for c in components], dtype=dtype)

        standing = {id(c) for c in representatives(components)}
        matrix = ("attn_", "ffn_")
        return ComponentArrays(
            names=tuple(c.name for c in components),
            selection=array(lambda c: c.component_class in ("selection", "mixed"), bool),
            body=array(
                lambda c: id(c) in standing and c.kind.startswith(matrix) and c.expert is None and c.block is not None,
                bool,
            ),
            trainable=array(lambda c: c.trainable, bool),
            numel=array(lambda c: c.numel, float),
            precision=array(lambda c: _precision(c.dtype), float),
            blocks=array(lambda c: -1 if c.block is None else c.block, int),
            labels=tuple(c.label for c in components),
            groups=_groups(components, standing, {_place(a): _sharing(a) for a in attention}),
        )


def _groups(
    components: Sequence[Component], standing: set[int], attention: Mapping[tuple[str, bool], Sharing]
) -> tuple[JudgedGroup, ...]:
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for i, c in enumerate(components):
        comparable = c.kind.startswith(("attn_", "ffn_"))  # adapters of one block are of all shapes
        if id(c) in standing and c.block is not None and c.expert is None and comparable:
            found[c.tower, c.label].append((c.block, i))
    groups = []
    for (tower, label), members in found.items():
        one = components[members[0][1]]
        blocks, indices = zip(*sorted(members), strict=True)
        sharing = attention.get((tower, one.cross), "unknown")
        groups.append(JudgedGroup(label, one.component_class, tower, sharing, np.array(indices), np.array(blocks)))
    return tuple(groups)


def _place(attention: Mapping[str, Any]) -> tuple[str, bool]:
    return str(attention["tower"]), bool(attention["cross"])


def _sharing(attention: Mapping[str, Any]) -> Sharing:
    if attention["sharing"] == "MLA":
        return "latent"
    if attention["fused"]:
        return "fused"
    if attention["sharing"] in ("GQA", "MQA"):
        return "grouped"
    if attention["sharing"] == "MHA":
        return "separate with QK-norm" if attention["qk_norm"] else "separate"
    return "unknown"


def _precision(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0
