"""Which tensors of a checkpoint are quantised: their values alone are not the weights. They are named and skipped."""

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
"""Names of what lies beside a quantised matrix, and the format that it is of."""


def marked(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors, those that are quantised with that as their problem, and without what lies beside them.

    >>> import torch
    >>> fp8 = StoredTensor("up.weight", (8, 8), torch.float8_e4m3fn)
    >>> found = marked({"up.weight": fp8, "up.weight_scale_inv": StoredTensor("up.weight_scale_inv", (1, 1), torch.float32)})
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
    """The quantised matrix that something called after ``base`` lies beside."""
    for suffix in (".qweight", ".weight_packed", ".weight", "_blocks"):
        tensor = tensors.get(base + suffix)
        if tensor is not None and (tensor.dtype is None or tensor.dtype.itemsize == 1):
            return base + suffix
    return None
