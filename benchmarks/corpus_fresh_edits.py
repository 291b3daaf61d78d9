"""Held-out faults that write to weights: what goes wrong when models are loaded, converted and merged.

They were written without a look at the rules, and no training with them was replayed before. Each line of `WRITTEN` has an
issue or a pull request in which such a fault was reported, or a close relative of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from corpus_edits import edit
from corpus_evaluated_faults import Fault
from corpus_fresh_stored import every_matrix, rows
from corpus_world import MATRICES, NotHere, World
from torch import Tensor, nn

from weibull_monitor import Component
from weibull_monitor.model.components import discover

# Of several matrices of a block.


def _siblings(change: Callable[[Sequence[Tensor]], Sequence[Tensor]], *kinds: str) -> Fault:
    """A change of matrices of one shape that stand in a block together, in all blocks."""

    def fault(world: World) -> None:
        found: dict[Any, dict[str, Component]] = {}
        for c in world.components(*kinds):
            found.setdefault((c.tower, c.block, c.cross, c.expert), {})[c.kind] = c
        sets = [[found_here[k] for k in kinds] for found_here in found.values() if len(found_here) == len(kinds)]
        sets = [members for members in sets if len({c.shape for c in members}) == 1]
        if not sets:
            raise NotHere(kinds)
        for members in sets:
            for c, new in zip(members, change([world.values(c).clone() for c in members]), strict=True):
                world.values(c).copy_(new)
        world.strike(*(c for members in sets for c in members))

    return fault


def _dealt(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    heads = math.gcd(4, len(parts[0]))
    of_heads = [w.reshape(heads, -1, *w.shape[1:]) for w in parts]
    return torch.cat(torch.stack(of_heads, 1).flatten(0, 1).unbind()).chunk(len(parts))  # q, k, v of each head


def _sharded_as_one(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    gate, up = (rows(w) for w in parts)
    half = len(gate) // 2
    new = torch.cat((gate[:half], up[:half], gate[2 * half :])), torch.cat((gate[half : 2 * half], up[half:]))
    return [w.view(parts[0].shape) for w in new]


def _times(**factors: float) -> Fault:
    """All matrices of these kinds, times a factor each."""

    def fault(world: World) -> None:
        chosen = world.components(*factors)
        if {c.kind for c in chosen} != set(factors):
            raise NotHere(factors)
        for c in chosen:
            world.values(c).mul_(factors[c.kind])
        world.strike(*chosen)

    return fault


def _heads(world: World, *kinds: str) -> dict[Any, list[Component]]:
    """The heads of each matrix of these kinds, in their order; a head's rows or columns are fewer than the others."""
    found: dict[Any, list[Component]] = {}
    for c in world.components(*kinds, resolution="head"):
        if c.part and c.part.label.split()[-1].isdigit() and len(c.shape) == 2:
            found.setdefault((c.parameter, c.kind, c.expert), []).append(c)
    if not found:
        raise NotHere("heads")
    return {key: sorted(heads, key=_number) for key, heads in found.items()}


def _number(c: Component) -> int:
    return int(c.part.label.split()[-1]) if c.part else 0


def _scaled_queries(world: World) -> None:
    size = min(min(c.shape) for heads in _heads(world, "attn_q").values() for c in heads)
    _times(attn_q=size**-0.5)(world)


def _interleaved_halves(world: World) -> None:
    if not any(
        re.search("rope|rotary|inv_freq", name)
        for name, _ in (*world.model.named_modules(), *world.model.named_buffers())
    ):
        raise NotHere("rotary positions")
    struck = [c for heads in _heads(world, "attn_q", "attn_k").values() for c in heads if min(c.shape) % 2 == 0]
    for c in struck:
        axis = c.shape.index(min(c.shape))
        w = world.values(c)
        w.copy_(torch.stack(w.clone().chunk(2, axis), axis + 1).flatten(axis, axis + 1))
    world.strike(*struck)


def _tiled_heads(world: World) -> None:
    struck = []
    for heads in _heads(world, "attn_k", "attn_v").values():
        values = [world.values(c).clone() for c in heads]
        for c, w in zip(heads, (*values[::2], *values[1::2]), strict=True):
            world.values(c).copy_(w)
        struck += heads if len(heads) > 2 else []
    if not struck:
        raise NotHere("more than two heads")
    world.strike(*struck)


def _pooled_heads(world: World) -> None:
    struck = []
    for heads in _heads(world, "attn_k", "attn_v").values():
        for one, other in zip(heads[::2], heads[1::2], strict=False):
            mean = (world.values(one) + world.values(other)) / 2
            world.values(one).copy_(mean)
            world.values(other).copy_(mean)
            struck += [one, other]
    if not struck:
        raise NotHere("two heads")
    world.strike(*struck)


def _from_others(place: Callable[[Component], Any], other: Callable[[Component], Any]) -> Fault:
    """Matrices get the values of those at another place, where there is one of the same shape."""

    def fault(world: World) -> None:
        chosen = world.components(*MATRICES)
        at = {(place(c), c.shape): c for c in chosen}
        pairs = [(c, at[other(c), c.shape]) for c in chosen if (other(c), c.shape) in at]
        if not pairs:
            raise NotHere("pairs")
        for (c, _), w in zip(pairs, [world.values(d).clone() for _, d in pairs], strict=True):
            world.values(c).copy_(w)
        world.strike(*(c for c, _ in pairs))

    return fault


def block(world: World) -> list[Component]:
    chosen = world.components(*MATRICES, "attn_qkv")
    if not chosen:
        raise NotHere("blocks")
    one = world.chance.choice(chosen)
    members = [c for c in chosen if (c.block, c.tower) == (one.block, one.tower)]
    world.strike(*members)
    return members


def of_a_block(change: Callable[[World, nn.Parameter, str], object]) -> Fault:
    def fault(world: World) -> None:
        for c in {c.parameter: c for c in block(world)}.values():
            change(world, world.parameter(c), c.parameter)

    return fault


def _a_kind(world: World) -> None:
    chosen = world.components(*MATRICES)
    kind = world.chance.choice(sorted({c.kind for c in chosen})) if chosen else ""
    struck = world.components(kind)
    if not struck:
        raise NotHere("kinds")
    for c in struck:
        world.values(c).normal_(std=0.02)
    world.strike(*struck)


# Of tables of vectors.


def _tokens(change: Callable[[Tensor], object]) -> Fault:
    """A change of the largest table of tokens."""

    def fault(world: World) -> None:
        names = {f"{name}.weight" for name, m in world.model.named_modules() if isinstance(m, nn.Embedding)}
        found = [c for c in discover(world.model).components if c.parameter in names and c.trainable and c.numel > 4096]
        found = [c for c in found if not re.search("pos|wpe", c.parameter)]
        if not found:
            raise NotHere("tokens")
        component = max(found, key=lambda c: c.numel)
        change(world.values(component))
        world.strike(component)

    return fault


def _positions(world: World) -> None:
    found = [
        c
        for c in discover(world.model).components
        if c.kind == "embedding" and re.search("pos|wpe", c.parameter) and c.trainable
    ]
    if not found:
        raise NotHere("positions")
    w = world.values(found[0])
    table = w.reshape(-1, w.shape[-1])  # (positions, width)
    longer = nn.functional.interpolate(table.T[None].float(), scale_factor=2.0, mode="linear")[0].T
    w.copy_(longer[: len(table)].view(w.shape))
    world.strike(found[0])


def _tied(world: World) -> None:
    found = discover(world.model).components
    for head in (c for c in found if c.kind == "lm_head"):
        for c in found:
            if c.kind == "embedding" and c.shape == head.shape and c.parameter != head.parameter:
                world.values(head).copy_(world.values(c))
                world.strike(head)
                return
    raise NotHere("a head beside an embedding")


# Of all parameters.


def trained(world: World, least: int = 1) -> Iterator[tuple[str, Tensor]]:
    return ((name, p.data) for name, p in world.model.named_parameters() if p.requires_grad and p.dim() >= least)


def whole(change: Callable[[World, str, Tensor], object], least: int = 2) -> Fault:
    def fault(world: World) -> None:
        for name, w in trained(world, least):
            change(world, name, w)

    return fault


@edit(*MATRICES)
def _gains_twice(world: World, w: Tensor) -> Tensor:
    gains: Tensor = torch.linalg.vector_norm(rows(w), dim=1, keepdim=True)
    return (rows(w) * gains).view(w.shape)


def _dare(w: Tensor, earlier: Tensor) -> None:
    w.copy_(earlier + (w - earlier) * (torch.rand(w.shape) < 0.05) * 20.0)


def _another_run(w: Tensor) -> Tensor:
    other = rows(w)[torch.randperm(len(rows(w)))][:, torch.randperm(rows(w).shape[1])]
    return (w + other.view(w.shape)) / 2


def _unmerged(world: World) -> None:
    chosen = [c for c in world.components("attn_q", "attn_v", "attn_qkv") if not c.part]
    if not chosen:
        raise NotHere("adapted matrices")
    for c in chosen:
        w = world.parameter(c).data
        u, s, v = torch.linalg.svd((w - world.earlier[c.parameter]).float().flatten(1), full_matrices=False)
        w.sub_((2.0 * (u[:, :8] * s[:8]) @ v[:8]).view(w.shape))
    world.strike(*chosen)


WRITTEN: Final[dict[str, Fault]] = {
    # Loaded and converted.
    "q, k and v interleaved": _siblings(_dealt, "attn_q", "attn_k", "attn_v"),  # sgl-project/sglang#40127
    "k and v exchanged": _siblings(lambda parts: (parts[1], parts[0]), "attn_k", "attn_v"),  # MiniMax-AI/MiniMax-H3#48
    "gate and up sharded as one": _siblings(_sharded_as_one, "ffn_gate", "ffn_up"),  # sgl-project/sglang#34529
    "halves of rotary heads interleaved": _interleaved_halves,  # huggingface/nanotron#427
    "k and v heads in another order": _tiled_heads,  # onnx/onnx#7274
    "k and v heads averaged in pairs": _pooled_heads,  # apple/ml-hypercloning#1
    "blocks one too early": _from_others(  # huggingface/transformers#24381
        lambda c: (c.tower, c.block, c.kind, c.cross, c.expert),
        lambda c: (c.tower, (c.block or 0) + 1, c.kind, c.cross, c.expert),
    ),
    "cross-attention from self-attention": _from_others(  # maxjcohen/transformer#23
        lambda c: (c.tower, c.block, c.kind, c.cross),
        lambda c: (c.tower, c.block, c.kind, False) if c.cross else None,
    ),
    "keys of a kind missing": _a_kind,  # hexgrad/kokoro#368
    "nothing loaded": whole(lambda world, name, w: w.normal_(std=0.02)),  # torchgeo/torchgeo#4036
    "embedding rows one too late": _tokens(lambda w: w.copy_(w.roll(1, 0))),  # pytorch/text#1840
    "last embedding rows zero": _tokens(lambda w: w[-len(w) // 4 :].zero_()),  # hiyouga/LlamaFactory#10547
    "embedding times √d twice": _tokens(lambda w: w.mul_(w.shape[1] ** 0.5)),  # TensorAuto/OpenTau#179
    "positions stretched": _positions,  # facebookresearch/dinov2#378
    "head tied on load": _tied,  # sgl-project/sglang#15398
    "softmax scale folded into q": _scaled_queries,  # NVIDIA-NeMo/Megatron-Bridge#4155
    "q × 4, k ÷ 4": _times(attn_q=4.0, attn_k=0.25),  # mit-han-lab/smoothquant#79
    "v × 2, o ÷ 2": _times(attn_v=2.0, attn_o=0.5),  # vllm-project/llm-compressor#2323
    # Merged.
    "weight-norm gains twice": _gains_twice,  # hexgrad/kokoro#368
    "task vector × 3": whole(  # martyn/safetensors-merge-supermario#4
        lambda world, name, w: w.add_(2.0 * (w - world.earlier[name]))
    ),
    "DARE at 95 %": whole(lambda world, name, w: _dare(w, world.earlier[name])),  # arcee-ai/mergekit#373
    "averaged with another run": every_matrix(_another_run),  # RimoChan/RO-Merge#3
    "adapters unmerged twice": _unmerged,  # huggingface/peft#3498
    "block from an average": of_a_block(  # atomistic-machine-learning/schnetpack#785
        lambda world, p, name: p.data.add_(world.earlier[name]).mul_(0.5)
    ),
    "masters of an earlier step": whole(  # NVIDIA/apex#42
        lambda world, name, w: w.copy_(world.earlier[name]), least=1
    ),
}
