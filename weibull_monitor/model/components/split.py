"""Fused storage and where its parts lie: q, k and v; gate and up; keys and values of a latent; experts; heads.

What the layout is cannot be read off a shape: three thirds may lie one after the other, or alternate head by head. The tables at
the top name the exceptions; everything else is concatenated, as almost all code stores it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from weibull_monitor.model.components.heads import Heads
from weibull_monitor.model.components.identify import input_first
from weibull_monitor.model.components.part import Part
from weibull_monitor.model.components.tree import Leaf

HEAD_BY_HEAD: Final = r"\.query_key_value\b|DisentangledSelfAttention|LevitAttention|GPTBigCodeAttention"
"""Path or class of an attention that stores q, k and v of each head together (unless it says that it has one KV head)."""
GROUP_BY_GROUP: Final = r"\.wqkv\b|InternLM2"
"""The same for an attention that stores the queries of a KV head with its key and its value; Falcon says so itself."""
FOUR_BLOCKS: Final = r"CodeGenAttention"
"""CodeGen: four blocks of (q, v, k), one for each accelerator it was trained on."""
UP_BEFORE_GATE: Final = r"Phi4MultimodalAudioMLP|GatedLinearUnit|GEGLU|MoonshineDecoderMLP|MoonshineStreamingDecoderMLP"
"""Classes whose second half goes through the activation, and whose first is what it gates."""


@dataclass(frozen=True)
class Fragment:
    """One part of a parameter: what it is and where its elements lie."""

    kind: str
    part: Part
    shape: tuple[int, ...]
    expert: int | None = None


class _Frame:
    """The dimensions of a parameter, one of which, the features, is divided."""

    def __init__(self, shape: tuple[int, ...], axis: int, divided: tuple[int, ...], experts: int = 0) -> None:
        self.shape, self.axis, self.experts = shape, axis, experts
        self.view = (*shape[:axis], *divided, *shape[axis + 1 :])
        self.rank = len(divided)

    def fragment(
        self, kind: str, label: str, at: Mapping[int, tuple[int, int]], within: str = "", expert: int | None = None
    ) -> Fragment:
        """A part with the given ranges along the divided dimensions (0 is the first of them)."""
        ranges = [(0, n) for n in self.view]
        for dim, span in at.items():
            ranges[self.axis + dim] = span
        if expert is not None:
            ranges[0] = (expert, expert + 1)
        sizes = [stop - start for start, stop in ranges]
        features = math.prod(sizes[self.axis : self.axis + self.rank])
        shape = (*sizes[: self.axis], features, *sizes[self.axis + self.rank :])
        return Fragment(
            kind, Part(label, self.view, tuple(ranges), within), shape[1:] if expert is not None else shape, expert
        )


Span = tuple[int, int]
Spans = dict[int, Span]


def fragments(
    leaf: Leaf, kind: str, siblings: Mapping[str, Leaf], heads: Heads | None, resolution: str
) -> list[Fragment]:
    """The parts of one parameter, pieces after what they are pieces of; empty where there are none or the layout is not known.

    Args:
        leaf: The parameter.
        kind: Its kind.
        siblings: What stands in the same unit, by kind.
        heads: The heads of the attention that it belongs to.
        resolution: ``matrix``, or ``head`` for a part for every attention head as well.
    """
    shape = tuple(leaf.tensor.shape)
    if kind.startswith("ffn_"):
        return list(_feed_forward(leaf, kind, siblings))
    if not kind.startswith("attn_") or len(shape) not in (2, 4) or math.prod(shape[2:]) != 1:
        return []
    axis = 1 if input_first(leaf.owner) else 0
    found = _fused(leaf, kind, siblings, heads, axis)
    if resolution != "head" or heads is None:
        return [f for f, _ in found]
    if not found:
        return list(_heads_of_one(leaf, kind, heads, axis))
    out: list[Fragment] = []
    for fragment, pieces in found:
        out.append(fragment)
        out.extend(pieces())
    return out


Pieces = Callable[[], list[Fragment]]


def _none() -> list[Fragment]:
    return []


def _fused(
    leaf: Leaf, kind: str, siblings: Mapping[str, Leaf], heads: Heads | None, axis: int
) -> list[tuple[Fragment, Pieces]]:
    """The parts of fused attention storage, each with what divides it into heads."""
    rows = leaf.tensor.shape[axis]
    where = f"{leaf.name} {type(leaf.unit_module).__name__} {type(leaf.owner).__name__}"
    if kind == "attn_qkv":
        if re.search(FOUR_BLOCKS, where) and rows % 12 == 0:
            return _stacked(leaf, axis, (4, 3, rows // 12), 1, {"q": (0, 1), "v": (1, 2), "k": (2, 3)}, heads)
        grouped = (
            re.search(GROUP_BY_GROUP, where) or getattr(leaf.unit_module, "new_decoder_architecture", False) is True
        )
        if grouped and heads and rows % (heads.query + 2 * heads.key_value) == 0:
            n = heads.query // heads.key_value
            view = (heads.key_value, n + 2, rows // (heads.query + 2 * heads.key_value))
            return _stacked(leaf, axis, view, 1, {"q": (0, n), "k": (n, n + 1), "v": (n + 1, n + 2)}, heads)
        if re.search(HEAD_BY_HEAD, where) and getattr(leaf.unit_module, "multi_query", False) is not True:
            return _by_head(leaf, axis, heads, ("q", "k", "v"))
        sizes = _sizes(leaf, rows, siblings, heads, axis)
        return _concatenated(leaf, axis, dict(zip(("q", "k", "v"), sizes, strict=True)), heads) if sizes else []
    if kind == "attn_kv" and not _shared_key_value(leaf):
        if re.search(HEAD_BY_HEAD, where) and getattr(leaf.unit_module, "multi_query", False) is not True:
            return _by_head(leaf, axis, heads, ("k", "v"))
        return _concatenated(leaf, axis, {"k": rows // 2, "v": rows // 2}, heads) if rows % 2 == 0 else []
    if (
        kind == "attn_kv_b"
        and heads
        and heads.nope
        and heads.value
        and rows == heads.query * (heads.nope + heads.value)
    ):
        return _stacked(
            leaf,
            axis,
            (heads.query, heads.nope + heads.value),
            1,
            {"k": (0, heads.nope), "v": (heads.nope, heads.nope + heads.value)},
            heads,
        )
    if gate := _gate_size(leaf, kind, rows, siblings, heads, axis):
        size = rows // heads.query if heads else rows
        spans = {"q": (0, size - gate), "gate": (size - gate, size)}
        return _stacked(leaf, axis, (rows // size, size), 1, spans, heads, kind)
    return []


def _gate_size(leaf: Leaf, kind: str, rows: int, siblings: Mapping[str, Leaf], heads: Heads | None, axis: int) -> int:
    """Features a head of the output gate that is stored with the queries of that head, or 0.

    Told by shapes: there are twice as many rows as the output projection reads (keys and values being as wide as each other), or
    as many more as a head's values have (``q_gate_proj`` of latent attention).
    """
    output = siblings.get("attn_o")
    if kind not in ("attn_q", "attn_q_b") or heads is None or output is None or rows % heads.query:
        return 0
    read = output.tensor.shape[0 if input_first(output.owner) else 1]
    size = rows // heads.query
    if kind == "attn_q_b":
        fused = leaf.paths[-1].endswith("q_gate_proj") and heads.value is not None and heads.value < size
        return heads.value or 0 if fused else 0
    key, value = siblings.get("attn_k"), siblings.get("attn_v")
    if key is None or value is None or key.tensor.shape != value.tensor.shape:
        return 0
    return size // 2 if rows == 2 * read and size % 2 == 0 and heads.size in (None, size // 2) else 0


def _shared_key_value(leaf: Leaf) -> bool:
    """Whether one projection is both key and value (DeepSeek-V4), so that there is nothing to part."""
    return bool(re.search(r"DeepseekV4|\.compressor\.", f"{leaf.name} {type(leaf.unit_module).__name__}"))


def _sizes(
    leaf: Leaf, rows: int, siblings: Mapping[str, Leaf], heads: Heads | None, axis: int
) -> tuple[int, int, int] | None:
    """How many rows are q, k and v: from the heads, the width of the input, or what the output projection reads."""
    if heads is not None and rows % (heads.query + 2 * heads.key_value) == 0:
        size = rows // (heads.query + 2 * heads.key_value)
        if heads.size in (None, size):
            return heads.query * size, heads.key_value * size, heads.key_value * size
    width = leaf.tensor.shape[1 - axis]
    if rows == 3 * width:
        return width, width, width
    if rows == 2 * width + 1:  # separable attention: one score a position
        return 1, width, width
    output = siblings.get("attn_o")
    read = output.tensor.shape[0 if input_first(output.owner) else 1] if output is not None else 0
    if read and rows > read and (rows - read) % 2 == 0:
        return read, (rows - read) // 2, (rows - read) // 2
    return (rows // 3, rows // 3, rows // 3) if rows % 3 == 0 else None


def _concatenated(leaf: Leaf, axis: int, sizes: dict[str, int], heads: Heads | None) -> list[tuple[Fragment, Pieces]]:
    shape = tuple(leaf.tensor.shape)
    frame = _Frame(shape, axis, (shape[axis],))
    out: list[tuple[Fragment, Pieces]] = []
    start = 0
    for label, size in sizes.items():
        out.append(
            (
                frame.fragment(f"attn_{label}", label, {0: (start, start + size)}),
                _consecutive(frame, label, start, size, heads),
            )
        )
        start += size
    return out


def _consecutive(frame: _Frame, label: str, start: int, size: int, heads: Heads | None) -> Pieces:
    """The heads of a part whose rows lie one after the other."""
    count = 0 if heads is None else heads.query if label == "q" else heads.key_value
    if not count or size % count:
        return _none
    step = size // count
    return lambda: [
        frame.fragment(f"attn_{label}", f"{label}, head {h}", {0: (start + h * step, start + (h + 1) * step)}, label)
        for h in range(count)
    ]


def _by_head(leaf: Leaf, axis: int, heads: Heads | None, labels: tuple[str, ...]) -> list[tuple[Fragment, Pieces]]:
    """q, k and v of each head together; v may be wider than q and k (LeViT)."""
    rows = leaf.tensor.shape[axis]
    if heads is None or rows % heads.query:
        return []
    each = rows // heads.query
    size = each // len(labels) if each % len(labels) == 0 else 0
    stated = getattr(leaf.unit_module, "key_dim", None)
    size = stated if isinstance(stated, int) else size
    if not 0 < size * (len(labels) - 1) < each:
        return []
    spans, start = {}, 0
    for label in labels:
        stop = each if label == "v" else start + size
        spans[label], start = (start, stop), stop
    return _stacked(leaf, axis, (heads.query, each), 1, spans, heads)


def _stacked(
    leaf: Leaf,
    axis: int,
    divided: tuple[int, ...],
    dim: int,
    spans: Mapping[str, Span],
    heads: Heads | None,
    query: str = "attn_q",
) -> list[tuple[Fragment, Pieces]]:
    """Parts that lie side by side along dimension ``dim`` of the divided features, again and again along dimension 0."""
    frame = _Frame(tuple(leaf.tensor.shape), axis, divided)
    out: list[tuple[Fragment, Pieces]] = []
    for label, span in spans.items():
        kind = query if label == "q" else f"attn_{label}"
        out.append((frame.fragment(kind, label, {dim: span}), _repeated(frame, kind, label, divided, dim, span, heads)))
    return out


def _repeated(
    frame: _Frame, kind: str, label: str, divided: tuple[int, ...], dim: int, span: Span, heads: Heads | None
) -> Pieces:
    """The heads of a part that is repeated along dimension 0: one a repetition, or one a row of its span (query groups)."""
    if heads is None:
        return _none
    count = heads.query if label in ("q", "gate") else max(heads.key_value, divided[0])
    if divided[0] == count:
        return lambda: [
            frame.fragment(kind, f"{label}, head {h}", {0: (h, h + 1), dim: span}, label) for h in range(count)
        ]
    each = span[1] - span[0]
    if len(divided) == 3 and divided[0] * each == count:  # n queries for each group
        return lambda: [
            frame.fragment(
                kind, f"{label}, head {g * each + j}", {0: (g, g + 1), dim: (span[0] + j, span[0] + j + 1)}, label
            )
            for g in range(divided[0])
            for j in range(each)
        ]
    if len(divided) == 3 and each == 1 and count % divided[0] == 0 and divided[2] % (count // divided[0]) == 0:
        inner = count // divided[0]  # several heads in each block (CodeGen)
        size = divided[2] // inner
        return lambda: [
            frame.fragment(
                kind, f"{label}, head {b * inner + j}", {0: (b, b + 1), dim: span, 2: (j * size, (j + 1) * size)}, label
            )
            for b in range(divided[0])
            for j in range(inner)
        ]
    return _none


def _heads_of_one(leaf: Leaf, kind: str, heads: Heads, axis: int) -> Iterator[Fragment]:
    """The heads of a matrix of its own: rows of q, k and v, columns of o."""
    count = {"attn_q": heads.query, "attn_q_b": heads.query, "attn_o": heads.query}.get(kind, heads.key_value)
    if kind not in ("attn_q", "attn_q_b", "attn_k", "attn_v", "attn_o") or leaf.tensor.dim() != 2:
        return
    across = 1 - axis if kind == "attn_o" else axis
    size = leaf.tensor.shape[across]
    if count < 2 or size % count:
        return
    frame = _Frame(tuple(leaf.tensor.shape), across, (count, size // count))
    for h in range(count):
        yield frame.fragment(kind, f"head {h}", {0: (h, h + 1)})


def _feed_forward(leaf: Leaf, kind: str, siblings: Mapping[str, Leaf]) -> Iterator[Fragment]:
    """Gate and up of a fused matrix; the experts of a parameter with three dimensions, each with its gate and up."""
    shape = tuple(leaf.tensor.shape)
    fused = kind == "ffn_gate_up"
    if leaf.tensor.dim() == 2 or (leaf.tensor.dim() > 2 and isinstance(leaf.owner, nn.modules.conv._ConvNd)):
        if fused:
            axis = 1 if input_first(leaf.owner) else 0
            yield from _gate_and_up(leaf, shape, axis)
        return
    if leaf.tensor.dim() != 3:
        return
    other = siblings.get("ffn_down" if fused else "ffn_gate_up")
    shapes = [shape, tuple(other.tensor.shape)] if fused and other is not None else []
    axis = 2 if input_first(leaf.owner, shapes) else 1
    for expert in range(shape[0]):
        if fused:
            yield from _gate_and_up(leaf, shape, axis, expert)
        else:
            yield _Frame(shape, axis, (shape[axis],)).fragment(kind, f"expert {expert}", {}, expert=expert)


def _gate_and_up(leaf: Leaf, shape: tuple[int, ...], axis: int, expert: int | None = None) -> Iterator[Fragment]:
    n = shape[axis]
    if n % 2:
        return
    alternating = getattr(leaf.owner, "is_concatenated", True) is False
    frame = _Frame(shape, axis, (n // 2, 2) if alternating else (2, n // 2))
    modules = [leaf.owner, leaf.unit_module, *(module for _, module in leaf.above[-2:])]
    owners = " ".join(type(module).__name__ for module in modules)
    order = ("up", "gate") if re.search(UP_BEFORE_GATE, owners) else ("gate", "up")
    for index, label in enumerate(order):
        at = {1 if alternating else 0: (index, index + 1)}
        prefix = "" if expert is None else f"expert {expert}, "
        yield frame.fragment(f"ffn_{label}", prefix + label, at, expert=expert)
