"""Marks the tensors of a checkpoint that are quantised. Their values alone are not the weights, so they are named and skipped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from weibull_monitor.checkpoint.formats.tensors import StoredTensor

_COMPANIONS: Final = (
    (re.compile(r"\.(?:weight_scale(?:_inv|_2)?|input_scale|weight_zero_point|weight_shape)$"), "with scales apart"),
    (re.compile(r"\.(?:qzeros|g_idx|scales)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(?:SCB|weight_format)$"), "bitsandbytes 8-bit"),
    (
        re.compile(r"\.weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$"),
        "bitsandbytes 4-bit",
    ),
    (re.compile(r"_(?:blocks|scales)$"), "MXFP4"),
)
"""Names of the tensors beside a quantised matrix, such as its scales, and the format that they belong to."""


def mark_quantised(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors without those that only belong to a quantised matrix; quantised ones have that as their problem.

    >>> import torch
    >>> fp8 = StoredTensor("up.weight", (8, 8), torch.float8_e4m3fn)
    >>> scale = StoredTensor("up.weight_scale_inv", (1, 1), torch.float32)
    >>> found = mark_quantised({fp8.name: fp8, scale.name: scale})
    >>> found["up.weight"].problem, len(found)
    ('its storage is quantised (with scales apart)', 1)
    """
    formats: dict[str, str] = {}
    companions = set()
    for name in tensors:
        for pattern, label in _COMPANIONS:
            found = pattern.search(name)
            if found is None:
                continue
            base = name[: found.start()]
            packed = _packed(base, tensors)
            if packed is None or packed == name:
                continue
            formats[packed] = label
            companions.add(name)
            break
    out = {}
    for name, tensor in tensors.items():
        if name in formats:
            out[name] = replace(tensor, problem=f"its storage is quantised ({formats[name]})", dtype=None)
        elif name not in companions:
            out[name] = tensor
    return out


def _packed(base: str, tensors: Mapping[str, StoredTensor]) -> str | None:
    """The name of the quantised matrix that a companion called ``base`` and a suffix belongs to."""
    for suffix in (".qweight", ".weight_packed", ".weight", "_blocks"):
        tensor = tensors.get(base + suffix)
        if tensor is not None and (tensor.dtype is None or tensor.dtype.itemsize == 1):
            return base + suffix
    return None
