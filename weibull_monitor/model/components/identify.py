"""Decides the kind of a matrix: from its place, then the matrices beside it, then its name. Reads no weights."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Final

from torch import nn

from weibull_monitor.model.components.feed_forward import Sibling, roles
from weibull_monitor.model.components.names import (
    CROSS,
    GENERAL,
    PAIR,
    PARAMETRIZATION,
    SELF,
    Place,
    kind_by_name,
)
from weibull_monitor.model.components.tree import Leaf, children_of, is_block, place_of

WHY: Final[Mapping[str, str]] = {
    "norm": "part of a normalisation or of a residual mixing",
    "indexer": "sparse-attention indexer: it chooses what is attended to, and makes no query, key or value itself",
    "outside": "head, pooler or projector: outside of the transformer blocks",
    "attention": "attention, but none of query, key, value, gate and output",
    "ffn": "feed-forward block, but none of gate, up, down, in and out",
    "block": "in a block, but neither attention nor feed-forward",
    "anywhere": "outside of attention, feed-forward blocks and mixers",
    "bias": "a bias or scale of several dimensions, not a matrix",
    "parametrization": "a parameter of a parametrization: what the layer makes with it is measured",
    "beside": "beside the matrix that the module around it is named after",
    "conv": "convolution, of a stem or of a convolutional network",
}
"""Why a matrix is ``other``, by its place."""

_EMBEDS: Final = r"^(?!class|bbox).*embed|^rel_pos"
_SHARED_GATE: Final = ("shared_expert_gate", "shared_experts_gate")


def kinds(leaves: Sequence[Leaf], lm_head: nn.Module | None = None) -> list[tuple[str, str]]:
    """The kind of every matrix, and for ``other`` the reason.

    Args:
        leaves: All matrices of the model; siblings are looked at together.
        lm_head: The module that makes the logits, if the model says which it is.
    """
    # What a matrix is by itself comes first; the rest are compared with the other matrices of their attention or block.
    found: list[tuple[str, str] | None] = [_alone(leaf, lm_head) for leaf in leaves]
    names = {leaf.name for leaf in leaves}
    for index, leaf in enumerate(leaves):
        if leaf.adapter:
            found[index] = (_adapter(leaf.name, names), "")
    units: dict[str, list[int]] = defaultdict(list)
    for index, leaf in enumerate(leaves):
        if found[index] is None:
            units[leaf.unit].append(index)
    for members in units.values():
        for index, kind in zip(members, _together([leaves[i] for i in members]), strict=True):
            found[index] = kind
    return [kind or ("other", WHY["anywhere"]) for kind in found]


def _alone(leaf: Leaf, lm_head: nn.Module | None) -> tuple[str, str] | None:
    """The kind of a matrix that does not depend on its siblings; None if it does."""
    if PARAMETRIZATION in leaf.name:
        return "other", WHY["parametrization"]
    if isinstance(leaf.owner, nn.Embedding):
        return "embedding", ""
    if leaf.beside and not _depthwise(leaf):
        return "other", WHY["beside"]
    if lm_head is not None and leaf.owner is lm_head:
        return "lm_head", ""
    if leaf.paths[-1].endswith(_SHARED_GATE):
        return "router", ""
    # A convolution's weight in a mixer has several dimensions too, so the place comes before the shape.
    if leaf.place == "mixer" or (leaf.place == "router" and "bias" not in leaf.attribute):
        return leaf.place, ""
    if _is_vector(leaf):
        return _named(leaf, "anywhere") or ("other", WHY["bias"])
    if leaf.place in ("norm", "indexer"):
        return "other", WHY[leaf.place]
    if leaf.place in ("outside", "anywhere"):
        return _named(leaf, "anywhere") or ("other", WHY["conv" if leaf.tensor.dim() > 2 else leaf.place])
    return None


def _adapter(name: str, names: Set[str]) -> str:
    """The kind of an adapter's matrix: ``adapter_a`` and ``adapter_b`` if both of a pair are there.

    >>> _adapter("q.lora_A.weight", {"q.lora_A.weight", "q.lora_B.weight"}), _adapter("q.lora_A.weight", {"q.lora_A.weight"})
    ('adapter_a', 'adapter')
    """
    found = PAIR.search(name)
    if found is None:
        return "adapter"
    group = "letter" if found["letter"] else "word"
    start, stop = found.span(group)
    other = {"A": "B", "B": "A", "a": "b", "b": "a", "down": "up", "up": "down"}[found[group]]
    if name[:start] + other + name[stop:] not in names:
        return "adapter"
    return "adapter_a" if found[group] in ("A", "a", "down") else "adapter_b"


def _together(siblings: Sequence[Leaf]) -> list[tuple[str, str]]:
    """The kinds of the matrices of one attention, one feed-forward block, or one block that holds them itself."""
    place = siblings[0].place
    if place == "attention":
        return _attention(siblings)
    found: list[tuple[str, str]] = []
    named = [next((p for p in _telling_first(leaf) if kind_by_name(p, place)), leaf.paths[-1]) for leaf in siblings]
    shapes = _features(siblings)
    # In a feed-forward block every matrix has a role; in a block that holds them itself only those whose names say so.
    takes_part = [
        not _depthwise(leaf) and (place == "ffn" or kind_by_name(path, place) is not None)
        for leaf, path in zip(siblings, named, strict=True)
    ]
    members = [Sibling(named[i], *shapes[i]) for i in range(len(siblings)) if takes_part[i]]
    block = iter(roles(members, place) if members else [])
    for leaf, takes in zip(siblings, takes_part, strict=True):
        kind = next(block) if takes else None
        if kind is None and _depthwise(leaf) and (place == "ffn" or _holds_feed_forward(leaf.unit_module)):
            kind = "mixer"
        found.append((kind, "") if kind else _named(leaf, "anywhere") or ("other", WHY[place]))
    return found


def _attention(siblings: Sequence[Leaf]) -> list[tuple[str, str]]:
    found = [_named(leaf, "attention") for leaf in siblings]
    names = {kind[0] for kind in found if kind}
    out: list[tuple[str, str]] = []
    for leaf, kind in zip(siblings, found, strict=True):
        shape = leaf.tensor.shape
        if _depthwise(leaf):
            kind = ("mixer", "")
        elif kind is not None and kind[0] == "attn_qkv" and "attn_q" in names:
            kind = ("attn_kv", "")  # the query has a matrix of its own: GPT-2's cross-attention
        elif kind is None and len(siblings) == 2 and len(shape) == 2:
            # Two matrices without telling names: (3·D, D) is q, k and v if the other is (D, D).
            other = siblings[0] if leaf is siblings[1] else siblings[1]
            if max(shape) > min(shape) and other.tensor.dim() == 2 and max(other.tensor.shape) == min(shape):
                kind = ("attn_qkv", "")
        out.append(kind or _named(leaf, "anywhere") or ("other", WHY["attention"]))
    return out


def _named(leaf: Leaf, place: Place) -> tuple[str, str] | None:
    """The kind that a matrix's name stands for at a place, by the first of its paths that has one."""
    for path in _telling_first(leaf):
        kind = kind_by_name(path, place)
        if place == "attention" and _says_little(leaf, path):
            continue
        if kind == "lm_head" and path is not leaf.paths[-1]:
            continue  # BERT's prediction head: its other matrix is the one that is tied to the embedding
        if (
            kind == "embedding"
            and isinstance(leaf.owner, nn.Linear)
            and not re.search(_EMBEDS, path.rpartition(".")[2])
        ):
            continue
        if kind:
            return kind, ""
    return None


def _telling_first(leaf: Leaf) -> list[str]:
    """The paths that stand for a matrix, outermost first; those that end in a name that says little come last."""
    return sorted(leaf.paths, key=lambda path: path.rpartition(".")[2] in GENERAL)


def _says_little(leaf: Leaf, path: str) -> bool:
    """Whether a path ends in a general name below one that is neither general nor the attention: what that means is not known."""
    above, _, last = path.rpartition(".")
    while last in GENERAL or last.isdigit():
        if above == leaf.unit or not above:
            return False
        above, _, last = above.rpartition(".")
    return path.rpartition(".")[2] in GENERAL and kind_by_name(f"{above}.{last}", "attention") is None


def _is_vector(leaf: Leaf) -> bool:
    """Whether a parameter of several dimensions is a bias, a scale or a list of them."""
    if leaf.attribute != "weight" and ("bias" in leaf.attribute or leaf.attribute.startswith("b_")):
        return True
    return leaf.tensor.numel() == max(leaf.tensor.shape)


def _depthwise(leaf: Leaf) -> bool:
    shape = leaf.tensor.shape
    return len(shape) > 2 and shape[1] == 1 and isinstance(leaf.owner, nn.modules.conv._ConvNd)


def _holds_feed_forward(block: nn.Module) -> bool:
    return any(place_of(n, m) == "ffn" or kind_by_name(n, "block") for n, m in children_of(block))


def _features(siblings: Sequence[Leaf]) -> list[tuple[int, int]]:
    """(features out, features in) of each matrix of a feed-forward block, whichever is stored first."""
    out = []
    shapes = [tuple(leaf.tensor.shape) for leaf in siblings]
    for leaf, shape in zip(siblings, shapes, strict=True):
        if isinstance(leaf.owner, nn.modules.conv._ConvNd):
            out.append((shape[0], shape[1]))
        elif input_first(leaf.owner, shapes):
            out.append((shape[-1], shape[-2]))
        else:
            out.append((shape[-2], shape[-1]))
    return out


def input_first(owner: nn.Module, shapes: Sequence[tuple[int, ...]] = ()) -> bool:
    """Whether a module stores its matrix as (in, out), as GPT-2's Conv1D and some experts do, and not as (out, in)."""
    if type(owner).__name__ == "Conv1D":
        return True
    stated = getattr(owner, "is_transposed", None)
    if isinstance(stated, bool):
        return stated
    if len(shapes) == 2 and all(len(shape) == 3 for shape in shapes):
        # (E, D, I or 2·I) and (E, I, D): the second reads what the first makes, if they are stored as (in, out).
        (_, a, b), (_, c, d) = shapes
        return b in (c, 2 * c) and a == d and not (a in (d, 2 * d) and b == c)
    return False


def is_cross(leaf: Leaf, siblings: Mapping[str, Leaf]) -> bool:
    """Whether an attention matrix belongs to cross-attention, where keys come from another sequence than queries.

    The attention's own attribute decides, then keys that read another width than queries do, then the names of modules above,
    of which the outer outweigh the inner within a block.
    """
    if getattr(leaf.unit_module, "is_cross_attention", False) is True:
        return True
    query, key = siblings.get("attn_q"), siblings.get("attn_k") or siblings.get("attn_kv")
    if query is not None and key is not None and not input_first(query.owner) and not input_first(key.owner):
        widths = query.tensor.shape, key.tensor.shape
        if all(len(width) == 2 for width in widths) and widths[0][1] != widths[1][1]:
            return True
    found: bool | None = None
    for depth in range(len(leaf.above) - 1, -1, -1):
        name, module = leaf.above[depth]
        block = is_block(name, module)
        if block and found is not None:
            break
        if re.search(SELF, name):
            found = False
        elif re.search(CROSS, name) or re.search(CROSS, type(module).__name__):
            found = True
        elif name == "multihead_attn":  # of `nn.TransformerDecoderLayer`, which has a `self_attn` as well
            found = not depth or hasattr(leaf.above[depth - 1][1], "self_attn") or found
        if block:
            break
    return found is True
