"""Held-out faults of values that are quantised, sharded and stored wrongly.

They were written without a look at the rules, and no training with them was replayed before. Each line of `STORED` has an
issue or a pull request in which such a fault was reported, or a close relative of it;
for one, no report was found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from corpus_edits import edit
from corpus_evaluated_faults import Fault
from corpus_world import MATRICES, NotHere, World
from torch import Tensor

from weibull_monitor.model.components import discover

NF4: Final = (
    *(-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0),
    *(0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.723, 1.0),
)


def rows(w: Tensor) -> Tensor:
    """A matrix of shape (rows, columns), also of a kernel (rows, columns, …) and of an expert (1, rows, columns)."""
    return w.flatten(1) if len(w) > 1 else w.reshape(-1, w.shape[-1])


def in_groups(w: Tensor, size: int, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Changes groups of elements, shape (groups, size), by what is made of them and of their largest |w|, (groups, 1)."""
    flat, n = w.reshape(-1), w.numel() // size * size
    if not n:
        return w
    groups = flat[:n].view(-1, size).float()
    new = change(groups, groups.abs().amax(1, keepdim=True).clamp_min(1e-12))
    return torch.cat((new.reshape(-1).to(w.dtype), flat[n:])).view(w.shape)


def _int4(read: Callable[[Tensor, Tensor], Tensor]) -> Fault:
    """A matrix in 4 bits, groups of 32; read wrongly from codes −7 … 7 and scales."""
    return edit(*MATRICES)(lambda _, w: in_groups(w, 32, lambda groups, top: read((groups * 7 / top).round(), top / 7)))


def nf4(groups: Tensor, top: Tensor) -> Tensor:
    levels = torch.tensor(NF4)
    return levels[((groups / top).unsqueeze(-1) - levels).abs().argmin(-1)] * top


def _fnuz(w: Tensor) -> Tensor:
    scale = w.abs().amax().float().clamp_min(1e-12) / 448
    codes = (w.float() / scale).to(torch.float8_e4m3fn).view(torch.float8_e4m3fnuz)
    return (codes.float().nan_to_num(0.0) * scale).to(w.dtype)


@edit(*MATRICES)
def _saturated(world: World, w: Tensor) -> Tensor:
    scale = 0.5 * w.abs().amax().float() / 448
    return ((w.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale).to(w.dtype)


def _block_scales(world: World) -> None:
    square = [
        c
        for c in world.components(*MATRICES)
        if len(c.shape) == 2 and c.shape[0] == c.shape[1] and c.shape[0] % 16 == 0
    ]
    if not square:
        raise NotHere("square matrices")
    component = world.chance.choice(square)
    w = world.values(component)
    blocks = w.reshape(component.shape[0] // 16, 16, -1, 16)
    scales = blocks.abs().amax((1, 3), keepdim=True).clamp_min(1e-12)
    w.copy_((blocks / scales * scales.transpose(0, 2)).reshape(w.shape))
    world.strike(component)


@edit(*MATRICES)
def _half_bits(world: World, w: Tensor) -> Tensor:
    return w.to(torch.bfloat16).contiguous().view(torch.float16).to(w.dtype)


@edit(*MATRICES)
def _rotated(world: World, w: Tensor) -> Tensor:
    n = rows(w).shape[1]
    rotation: Tensor = torch.linalg.qr(torch.randn(n, n))[0]
    return (rows(w).float() @ rotation).view(w.shape).to(w.dtype)


@edit(*MATRICES)
def _no_outliers(world: World, w: Tensor) -> None:
    w[w.abs() > 3.0 * w.std()] = 0.0


@edit(*MATRICES)
def _divided_columns(world: World, w: Tensor) -> None:
    w[:, : w.shape[1] // 4] /= 4.0


def _neighbours(world: World, change: Callable[[Tensor, Tensor], object]) -> None:
    """Changes a matrix by the values of another parameter, both flat."""
    component = world.one(*MATRICES, "attn_qkv", whole=True)
    flat = world.parameter(component).data.view(-1)
    others = [
        p.data.flatten()
        for n, p in world.model.named_parameters()
        if n != component.parameter and p.dtype == flat.dtype
    ]
    others = [w for w in others if len(w) >= max(len(flat) // 4, 2048)]
    if not others:
        raise NotHere("another parameter")
    change(flat, world.chance.choice(others))
    world.strike(component)


def _boundary(flat: Tensor, other: Tensor) -> None:
    n = len(flat) // 4
    flat.copy_(torch.cat((flat[n:], other[:n])))


def _page(world: World) -> None:
    def change(flat: Tensor, other: Tensor) -> None:
        size = min(4096 // flat.element_size(), len(flat))
        at = world.chance.randrange(0, len(flat) - size + 1, size)
        flat[at : at + size] = other[:size]

    _neighbours(world, change)


def _stale_shard(world: World) -> None:
    names = [name for name, p in world.model.named_parameters() if p.requires_grad and p.dim() > 1]
    n = max(1, len(names) // 3)
    first = world.chance.randrange(len(names) - n + 1)
    chosen = [c for c in discover(world.model).components if c.parameter in names[first : first + n]]
    for c in chosen:
        world.parameter(c).data.copy_(world.earlier[c.parameter])
    world.strike(*chosen)


def _stale_rows(world: World) -> None:
    component = world.one(*MATRICES, "attn_qkv", whole=True)
    w = world.parameter(component).data
    w[len(w) // 2 :] = world.earlier[component.parameter][len(w) // 2 :]
    world.strike(component)


def every_matrix(change: Callable[[Tensor], Tensor]) -> Fault:
    """A change of all matrices of blocks."""

    def fault(world: World) -> None:
        chosen = world.components(*MATRICES)
        if not chosen:
            raise NotHere("matrices")
        for c in chosen:
            world.values(c).copy_(change(world.values(c)))

    return fault


STORED: Final[dict[str, Fault]] = {
    # Sharded and stored.
    "a third of an earlier step": _stale_shard,  # mflux-community/mflux#603
    "half of the rows of an earlier step": _stale_rows,  # NVIDIA-NeMo/Automodel#3822
    "a rank's columns averaged": _divided_columns,  # EleutherAI/gpt-neox#1259
    "shard boundary off": lambda world: _neighbours(world, _boundary),  # deepspeedai/DeepSpeed#1317
    "page of another tensor": _page,  # Comfy-Org/ComfyUI#10501
    "outliers lost": _no_outliers,  # no report found
    # Quantised.
    "4-bit neighbours exchanged": _int4(  # amd/Quark#30
        lambda codes, scales: codes.view(-1, 16, 2).flip(2).reshape(-1, 32) * scales
    ),
    "4-bit scales of the next group": _int4(  # 1bit-MONSTER/1bit-MONSTER#153
        lambda codes, scales: codes * scales.roll(1, 0)
    ),
    "zero point off by one": _int4(lambda codes, scales: (codes + 1) * scales),  # vllm-project/vllm#38966
    "offset codes read as two's complement": _int4(  # 1bit-MONSTER/1bit-MONSTER#572
        lambda codes, scales: torch.where(codes < 0, codes + 8, codes - 8) * scales
    ),
    "all in NF4": every_matrix(lambda w: in_groups(w, 64, nf4)),  # huggingface/transformers#31293
    "e4m3fn read as e4m3fnuz": every_matrix(_fnuz),  # ROCm/TransformerEngine#485
    "fp8 with a stale amax": _saturated,  # NVIDIA/TransformerEngine#567
    "fp8 block scales transposed": _block_scales,  # vllm-project/vllm#50204
    "bfloat16 read as float16": _half_bits,  # paiml/aprender#2189
    "rotated without the inverse": _rotated,  # spcl/QuaRot#4
}
