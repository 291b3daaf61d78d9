"""Marks the tensors of a checkpoint that a model keeps beside its weights: masks, tables of positions, scales of quantisers.

Only tensors that are not parameters of a known model are looked at. `FLAT` is for those that only their counts show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from torch import Tensor

from weibull_monitor.checkpoint.formats.tensors import StoredTensor
from weibull_monitor.model.components import Component

_BUFFER: Final = re.compile(
    r"(?:^|\.)(?:(?:original_)?inv_freqs?|(?:cos|sin)_(?:cached?|table)|(?:cos_sin|rope|freqs?)_cache|freqs_(?:cis|cos|sin)|"
    r"position_ids|token_type_ids|(?:attn|attention|causal|padding)_mask|mask|tril|triu|masked_bias|(?:alibi_?)?slopes|alibi|"
    r"relative_position_(?:index|buckets?)|rel_pos_idx|mel_(?:filters?|basis|fb|filter_bank)|pe|embed_positions\.weights)$"
)
_SCALE: Final = re.compile(
    r"(?:^|[._])(?:weight|input|output|act|activation|[kqvo]|kv|prob)_(?:scales?(?:_inv|_2)?|global_scale|zero_points?|zeros?)$"
)
BUFFER: Final = "it is a buffer, such as a mask or a table of positions, not a matrix of weights"
IGNORED: Final = "its model ignores it when it loads a checkpoint"
SCALE: Final = "it is a scale or zero point of a quantiser, not a matrix of weights"
FLAT: Final = "it has one or two values only: a mask or a constant, not a matrix of weights"
MIN_FLAT: Final = 4
"""Elements from which on so few different values mean that a tensor is not a matrix of weights."""


def mark_buffers(tensors: Mapping[str, StoredTensor], ignored: Iterable[str] = ()) -> dict[str, StoredTensor]:
    """The tensors; those that are not weights have the reason as their problem.

    Args:
        tensors: Tensors that are not parameters of a known model, by name.
        ignored: Regular expressions for names that the model's class ignores when it loads a checkpoint. They are used for
            buffers only: some classes also ignore whole layers, such as those that predict several tokens.

    >>> import torch
    >>> mask = StoredTensor("h.0.attn.causal_mask", (1, 1, 8, 8), torch.float32)
    >>> mark_buffers({mask.name: mask})[mask.name].problem == BUFFER
    True
    """
    patterns = [re.compile(pattern) for pattern in ignored]

    def problem(tensor: StoredTensor) -> str:
        name = tensor.name
        if _SCALE.search(name):
            return SCALE
        if _BUFFER.search(name):
            return BUFFER
        weight = name.endswith("weight")
        return IGNORED if not weight and any(pattern.search(name) for pattern in patterns) else ""

    out = {}
    for name, tensor in tensors.items():
        why = problem(tensor) if len(tensor.shape) > 1 and not tensor.problem else ""
        out[name] = replace(tensor, problem=why) if why else tensor
    return out


def flat_rows(counts: Tensor, components: Iterable[Component]) -> list[bool]:
    """Whether the counts of components are those of a mask or a constant.

    A matrix that is all zero is one that was not trained, and one that is not finite at all has diverged: both are matrices.

    Args:
        counts: Counts, int64, shape (components, bins.columns).
        components: The component of each row.
    """
    filled = counts > 0  # (components, columns): zeros, finite bins, and what is not finite
    few = (filled.sum(1) <= 2).tolist()
    finite = filled[:, 1:-1].any(1).tolist()
    infinite = (filled[:, 0] & filled[:, -1]).tolist()  # zeros and -inf, as in an additive mask
    return [
        few[row] and c.numel >= MIN_FLAT and (finite[row] or (infinite[row] and not c.parameter.endswith("weight")))
        for row, c in enumerate(components)
    ]
