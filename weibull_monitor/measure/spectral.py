"""The largest singular value of W_qᵀW_k of each attention head: how far the logits of two inputs of unit norm can be apart.

It needs the matrices themselves, not their counts, so the monitor does not take it. Call it where you want to compare the scale
of attention, which comes from the fits, with what the matrices can really do together.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import torch
from torch import Tensor, nn

from weibull_monitor.model.components import Component, discover
from weibull_monitor.model.components.attention_pairs import head_of

ITERATIONS: Final = 40
"""Power iterations, on matrices of the size of a head. The value is then within 1 % for random matrices, whose largest singular
values lie close together, and much closer for trained ones."""


@torch.no_grad()
def largest_singular_values(queries: Tensor, keys: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """The largest singular value of W_qᵀW_k for each query head.

    The squares of the singular values are the eigenvalues of (W_qW_qᵀ)(W_kW_kᵀ), which has the size of a head. So the weights are
    read once, and the iterations cost next to nothing.

    Args:
        queries: W_q of each head, (heads, size, inputs), of any float dtype.
        keys: W_k of each head, (key heads, size, inputs); query heads share them in order, as grouped queries do.
        iterations: Power iterations. Too few give too low a value.

    Returns:
        float32, (heads,), on the device of the weights.

    Raises:
        ValueError: If the heads cannot be shared evenly.

    >>> generator = torch.Generator().manual_seed(0)
    >>> q, k = torch.randn(4, 8, 32, generator=generator), torch.randn(2, 8, 32, generator=generator)
    >>> exact = torch.linalg.matrix_norm(q.transpose(1, 2) @ k.repeat_interleave(2, dim=0), ord=2)
    >>> bool((largest_singular_values(q, k, 200) / exact - 1).abs().max() < 1e-3)
    True
    """
    if len(queries) % len(keys):
        raise ValueError(f"{len(queries)} query heads cannot share {len(keys)} key heads evenly")
    of_queries, of_keys = (w.float() @ w.float().transpose(1, 2) for w in (queries, keys))  # (…, size, size)
    of_keys = of_keys.repeat_interleave(len(queries) // len(keys), dim=0)
    product = of_queries @ of_keys
    # Any start will do that is not orthogonal to what is looked for; the global random state is left alone.
    start = torch.linspace(0.5, 1.5, queries.shape[1], device=queries.device)
    vector = start.expand(len(queries), -1).unsqueeze(2)  # (heads, size, 1)
    for _ in range(iterations):
        vector = product @ vector
        vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    # The product is symmetric in the inner product of `of_keys`: its Rayleigh quotient converges twice as fast as the vector.
    weighted = of_keys @ vector
    above = (weighted * (product @ vector)).sum(dim=(1, 2))
    below = (weighted * vector).sum(dim=(1, 2))
    return torch.where(below > 0, above / below, torch.zeros_like(below)).clamp_min(0.0).sqrt()


def attention_singular_values(model: nn.Module, iterations: int = ITERATIONS) -> dict[str, list[float]]:
    """The largest singular value of W_qᵀW_k for each head of each attention of a model; waits for the device.

    Fused storage and grouped queries are taken apart as the monitor does it. RoPE, QK-norm, biases and the factor 1/√(head size)
    are left out. Multi-head latent attention, and attention whose heads are not known, is absent.

    Args:
        model: The model, whole on this process.
        iterations: As for `largest_singular_values`.

    Returns:
        For the name of each matrix W_q one value per query head.

    Raises:
        ValueError: If a parameter is only a shard.

    >>> values = attention_singular_values(nn.MultiheadAttention(64, 4))
    >>> {name: len(of_heads) for name, of_heads in values.items()}
    {'in_proj_weight[q]': 4}
    """
    parameters = dict(model.named_parameters())
    found = [
        c for c in discover(model, resolution="head").components if c.kind in ("attn_q", "attn_k") and c.expert is None
    ]
    wholes: dict[tuple[str, int | None, bool, str], Component] = {}
    heads: dict[tuple[str, int | None, bool, str], list[Component]] = defaultdict(list)
    for c in found:
        key = (c.tower, c.block, c.cross, c.kind)
        if head_of(c) is not None:
            heads[key].append(c)
        else:
            wholes[key] = c
    out = {}
    for (tower, block, cross, kind), whole in wholes.items():
        other = (tower, block, cross, "attn_k")
        if kind != "attn_q" or other not in wholes:
            continue
        query = _stacked(whole, heads[tower, block, cross, kind], parameters)
        key_heads = _stacked(wholes[other], heads[other], parameters)
        same = query is not None and key_heads is not None and query.shape[1:] == key_heads.shape[1:]
        if query is not None and key_heads is not None and same and len(query) % len(key_heads) == 0:
            out[whole.name] = largest_singular_values(query, key_heads, iterations).tolist()
    return out


def _stacked(whole: Component, heads: list[Component], parameters: dict[str, nn.Parameter]) -> Tensor | None:
    """The heads of a matrix as (heads, size, inputs); None for a matrix of other dimensions."""
    parts = heads or [whole]  # a single head has no part of its own
    if len(whole.shape) != 2:
        return None
    # A head has all inputs, and some of the outputs: they are the rows of nn.Linear, and the columns of Conv1D.
    by_columns = parts[0].shape[0] == whole.shape[0] and parts[0].shape[1] < whole.shape[1]
    views = [
        (p.part.select(w) if p.part else w.detach()).reshape(p.shape) for p in parts for w in [parameters[p.parameter]]
    ]
    return torch.stack([view.t() if by_columns else view for view in views])
