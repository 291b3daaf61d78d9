"""Fused storage that no forward pass was followed through, and where its parts are as far as names and shapes show it.

The layout cannot be read off a shape: three thirds may follow one another, or alternate head by head, and a gate may come before
its up-projection or after it. What is usually stored one part after the other is cut so; what is known to be stored otherwise,
and a gate and up-projection of which the name does not say the order, stay whole. A followed pass shows every layout.

Letters in comments: D the width of the input, H query heads, G heads of keys and values, d features of a head, I hidden features
of a feed-forward block, E experts. Shapes are those of a Linear, (out, in); for a Conv1D the axes are swapped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from weibull_monitor.model.components.heads import Heads
from weibull_monitor.model.components.identify import input_first
from weibull_monitor.model.components.part import Part
from weibull_monitor.model.components.tree import Leaf

KEPT_WHOLE: Final = re.compile(
    r"\.(?:query_key_value|wqkv|linear_qkv|compressor)\b|InternLM2|Disentangled|LevitAttention|GPTBigCode|CodeGen|DeepseekV4|"
    r"Phi4MultimodalAudio"
)
"""In the path or class of what is stored by heads or groups, or is key and value in one."""
SAYS_THE_ORDER: Final = re.compile(r"gate_(?:and_)?up|up_gate")
"""In the name of a gate and up-projection that are stored in this order."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Fragment:
    """One part of a parameter: what it is and where its elements are."""

    kind: str
    part: Part
    shape: tuple[int, ...]
    expert: int | None = None


class _DividedView:
    """A parameter seen with one of its axes divided: (3·H·d, D) with ``divided`` (H, 3, d) is seen as (H, 3, d, D).

    Args:
        shape: Shape of the parameter.
        axis: The axis that is divided.
        divided: Its factors.
    """

    def __init__(self, shape: tuple[int, ...], axis: int, divided: tuple[int, ...]) -> None:
        self.axis, self.rank = axis, len(divided)
        self.view = (*shape[:axis], *divided, *shape[axis + 1 :])

    def fragment(
        self, kind: str, label: str, at: Mapping[int, Span], within: str = "", expert: int | None = None
    ) -> Fragment:
        """A part with the given ranges along the factors of the divided axis (0 is the first of them)."""
        ranges = [(0, n) for n in self.view]
        for dim, span in at.items():
            ranges[self.axis + dim] = span
        if expert is not None:
            ranges[0] = (expert, expert + 1)
        sizes = [stop - start for start, stop in ranges]
        # The part is a matrix again: the factors are multiplied, and the axis of the experts goes.
        features = math.prod(sizes[self.axis : self.axis + self.rank])
        shape = (*sizes[: self.axis], features, *sizes[self.axis + self.rank :])
        part = Part(label, self.view, tuple(ranges), within)
        return Fragment(kind, part, shape if expert is None else shape[1:], expert)


def fragments(
    leaf: Leaf, kind: str, siblings: Mapping[str, Leaf], heads: Heads | None, resolution: str
) -> list[Fragment]:
    """The parts of one parameter, each followed by its heads; empty where there are none or the layout is not known.

    Args:
        leaf: The parameter.
        kind: Its kind.
        siblings: The matrices of the same unit, by kind.
        heads: The heads of the attention that it belongs to.
        resolution: ``matrix``, or ``head`` for a part for every attention head as well.
    """
    shape = tuple(leaf.tensor.shape)
    if kind.startswith("ffn_"):
        return list(_feed_forward(leaf, kind, siblings))
    if not kind.startswith("attn_") or len(shape) not in (2, 4) or math.prod(shape[2:]) != 1:
        return []  # 4 dimensions: a convolution of size 1
    matrix = _AttentionMatrix(leaf, kind, siblings, heads, resolution == "head")
    return list(matrix.parts()) or list(matrix.heads_alone())


class _AttentionMatrix:
    """A matrix of an attention, and all that its layout follows from.

    Args:
        leaf: The parameter.
        kind: Its kind.
        siblings: The matrices of the same attention, by kind.
        heads: The heads of the attention, or None if they are not known.
        per_head: Whether each part is followed by its heads.
    """

    def __init__(
        self, leaf: Leaf, kind: str, siblings: Mapping[str, Leaf], heads: Heads | None, per_head: bool
    ) -> None:
        self.leaf, self.kind, self.siblings, self.heads, self.per_head = leaf, kind, siblings, heads, per_head
        self.shape = tuple(leaf.tensor.shape)
        self.axis = 1 if input_first(leaf.owner) else 0  # the axis of the features that are made
        self.rows = self.shape[self.axis]
        self.where = f"{leaf.name} {type(leaf.unit_module).__name__} {type(leaf.owner).__name__}"

    def parts(self) -> Iterator[Fragment]:
        """The parts of a fused matrix."""
        if KEPT_WHOLE.search(self.where):
            return iter(())
        if self.kind == "attn_qkv":
            return self._concatenated(("q", "k", "v"), self._sizes())
        if self.kind == "attn_kv":
            return self._concatenated(("k", "v"), (self.rows // 2,) * 2 if self.rows % 2 == 0 else ())
        return self._query_and_gate()

    def heads_alone(self) -> Iterator[Fragment]:
        """The heads of a matrix that is not fused: rows of q, k and v, columns of o."""
        if not self.per_head or self.heads is None or len(self.shape) != 2:
            return
        if self.kind not in ("attn_q", "attn_q_b", "attn_k", "attn_v", "attn_o"):
            return
        count = self.heads.key_value if self.kind in ("attn_k", "attn_v") else self.heads.query
        axis = 1 - self.axis if self.kind == "attn_o" else self.axis
        if count < 2 or self.shape[axis] % count:
            return
        view = _DividedView(self.shape, axis, (count, self.shape[axis] // count))  # (H, d, D)
        for head in range(count):
            yield view.fragment(self.kind, f"head {head}", {0: (head, head + 1)})

    def _query_and_gate(self) -> Iterator[Fragment]:
        """Queries that are stored with the output gate of their head: (H, d + gate, D)."""
        gate = self._gate_size()
        if not gate or self.heads is None:
            return iter(())
        size = self.rows // self.heads.query
        return self._divided((self.heads.query, size), 1, {"q": (0, size - gate), "gate": (size - gate, size)})

    def _gate_size(self) -> int:
        """Features per head of the output gate that is stored with the queries, or 0.

        Shapes show it: there are twice as many rows as the output projection reads, while keys and values are equally wide.
        """
        heads = self.heads
        if self.kind != "attn_q" or heads is None or self.rows % heads.query:
            return 0
        read, size = self._read_by_output(), self.rows // heads.query
        key, value = self.siblings.get("attn_k"), self.siblings.get("attn_v")
        if not read or key is None or value is None or key.tensor.shape != value.tensor.shape:
            return 0
        return size // 2 if self.rows == 2 * read and size % 2 == 0 and heads.size in (None, size // 2) else 0

    def _read_by_output(self) -> int:
        """How many features the output projection reads, H·d; 0 if there is none."""
        output = self.siblings.get("attn_o")
        return output.tensor.shape[0 if input_first(output.owner) else 1] if output is not None else 0

    def _sizes(self) -> tuple[int, ...]:
        """How many rows are q, k and v: from what the output projection reads, the heads, or the width of the input."""
        rows, heads, read = self.rows, self.heads, self._read_by_output()
        if read and rows > read and (rows - read) % 2 == 0:
            return read, (rows - read) // 2, (rows - read) // 2
        if heads is not None and rows % (heads.query + 2 * heads.key_value) == 0:
            size = rows // (heads.query + 2 * heads.key_value)
            if heads.size in (None, size):
                return heads.query * size, heads.key_value * size, heads.key_value * size
        return (rows // 3,) * 3 if rows == 3 * self.shape[1 - self.axis] else ()

    def _concatenated(self, labels: tuple[str, ...], sizes: tuple[int, ...]) -> Iterator[Fragment]:
        """Parts one after the other: (q + k + v, D)."""
        spans, start = {}, 0
        for label, size in zip(labels, sizes, strict=False):  # no sizes where the layout is not known
            spans[label], start = (start, start + size), start + size
        return self._divided((self.rows,), 0, spans)

    def _divided(self, divided: tuple[int, ...], dim: int, spans: Mapping[str, Span]) -> Iterator[Fragment]:
        """Parts side by side along factor ``dim`` of the divided axis, again and again along the factors before it."""
        view = _DividedView(self.shape, self.axis, divided)
        for label, span in spans.items():
            kind = f"attn_{label}"
            yield view.fragment(kind, label, {dim: span})
            for head, at in enumerate(self._head_ranges(label, divided, dim, span)):
                yield view.fragment(kind, f"{label}, head {head}", at, label)

    def _head_ranges(self, label: str, divided: tuple[int, ...], dim: int, span: Span) -> list[dict[int, Span]]:
        """The ranges of every head of a part; empty where they are not asked for or not known."""
        if not self.per_head or self.heads is None:
            return []
        if dim:  # one head in each repetition
            return [{0: (head, head + 1), dim: span} for head in range(divided[0])]
        count = self.heads.query if label == "q" else self.heads.key_value
        start, stop = span
        step, rest = divmod(stop - start, count)
        return [] if rest else [{0: (start + h * step, start + (h + 1) * step)} for h in range(count)]


def _feed_forward(leaf: Leaf, kind: str, siblings: Mapping[str, Leaf]) -> Iterator[Fragment]:
    """Gate and up of a fused matrix; the experts of a parameter with three dimensions, each with its gate and up."""
    shape = tuple(leaf.tensor.shape)
    fused = kind == "ffn_gate_up"
    if len(shape) == 2 or isinstance(leaf.owner, nn.modules.conv._ConvNd):
        if fused:
            yield from _gate_and_up(leaf, shape, 1 if input_first(leaf.owner) else 0)
        return
    if len(shape) != 3:
        return
    # (E, 2·I, D) or (E, D, 2·I): the matrix that reads what this one makes shows which axis is which.
    other = siblings.get("ffn_down" if fused else "ffn_gate_up")
    shapes = [shape, tuple(other.tensor.shape)] if fused and other is not None else []
    axis = 2 if input_first(leaf.owner, shapes) else 1
    for expert in range(shape[0]):
        if fused:
            yield from _gate_and_up(leaf, shape, axis, expert)
        else:
            view = _DividedView(shape, axis, (shape[axis],))
            yield view.fragment(kind, f"expert {expert}", {}, expert=expert)


def _gate_and_up(leaf: Leaf, shape: tuple[int, ...], axis: int, expert: int | None = None) -> Iterator[Fragment]:
    """Two halves, (2, I, D), or alternating rows, (I, 2, D), as gpt-oss stores them; none if nothing says which is first."""
    n = shape[axis]
    order = SAYS_THE_ORDER.search(leaf.name)
    stated = getattr(leaf.owner, "is_concatenated", None)
    biased = hasattr(leaf.owner, f"{leaf.attribute}_bias")  # gpt-oss, whose experts are the only ones that have biases
    if n % 2 or order is None or KEPT_WHOLE.search(type(leaf.owner).__name__ + type(leaf.unit_module).__name__):
        return
    if biased and stated is None:
        return
    view = _DividedView(shape, axis, (n // 2, 2) if stated is False else (2, n // 2))
    prefix = "" if expert is None else f"expert {expert}, "
    for index, label in enumerate(("up", "gate") if order[0].startswith("up") else ("gate", "up")):
        yield view.fragment(
            f"ffn_{label}", prefix + label, {1 if stated is False else 0: (index, index + 1)}, expert=expert
        )
