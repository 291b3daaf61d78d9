"""Marks the tensors of a checkpoint that are quantised. Their values alone are not the weights, so they are named and skipped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from weibull_monitor.checkpoint.formats.tensors import StoredTensor

_APART: Final = "with scales apart"
_COMPANIONS: Final = (
    (
        re.compile(r"\.(?:weight_scales?(?:_inv|_2)?|input_scale|weight_zero_point|weight_shape|weight_global_scale)$"),
        _APART,
    ),
    (re.compile(r"\.(?:qzeros|g_idx|scales)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(?:SCB|weight_format)$"), "bitsandbytes 8-bit"),
    (
        re.compile(r"\.weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$"),
        "bitsandbytes 4-bit",
    ),
    (re.compile(r"_(?:blocks|scales)$"), "MXFP4"),
    (re.compile(r"\.weight\._(?:scale|shift|zeropoint|zero_point)$"), _APART),
    (re.compile(r"\._weight_(?:scale|zero_point|scale_inv)$"), _APART),
    (re.compile(r"\.(?!weight$|bias$|lora_|qweight$|W_q$)\w+$"), _APART),
)
"""Names of the tensors beside a quantised matrix, such as its scales, and the format that they belong to.

The last is a rule: whatever lies in a module whose weight is packed, but its bias, belongs to how it is packed.
"""
_PACKED: Final[Mapping[str, str]] = {
    ".qweight": "",
    ".weight_packed": "",
    ".weight": "",
    "_blocks": "",
    ".W_q": "HQQ",
    ".weight._data": "quanto",
    ".weight._qdata": "torchao",
    "._weight_qdata": "torchao",
    ".q_weight": "EXL2",
    ".trellis": "EXL3",
    ".codes": "AQLM",
    ".indices": "VPTQ",
}
"""Suffixes of the packed matrix, and the format that they are of, if that is known from them."""


def mark_quantised(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors; quantised ones, and the matrices that belong to them, have that as their problem.

    >>> import torch
    >>> fp8 = StoredTensor("up.weight", (8, 8), torch.float8_e4m3fn)
    >>> scale = StoredTensor("up.weight_scale_inv", (1, 1), torch.float32)
    >>> found = mark_quantised({fp8.name: fp8, scale.name: scale})
    >>> [tensor.problem for tensor in found.values()]
    ['its storage is quantised (with scales apart)', 'its storage is quantised (with scales apart)']
    """
    formats: dict[str, str] = {}
    companions: dict[str, str] = {}
    for name in tensors:
        for pattern, label in _COMPANIONS:
            found = pattern.search(name)
            packed = _packed(name[: found.start()], tensors) if found else None
            if packed is None or packed[0] == name:
                continue
            if packed[0].endswith(".weight") and name.endswith((".scales", ".biases")):
                label = "MLX"
            if label != _APART or packed[0] not in formats:
                formats[packed[0]] = packed[1] or label
            companions[name] = packed[0]
            break
    out = {}
    for name, tensor in tensors.items():
        packed_name = name if name in formats else companions.get(name)
        if packed_name is None:
            out[name] = tensor
        elif name in formats or len(tensor.shape) > 1:  # vectors beside a matrix are not named, as biases are not
            out[name] = replace(tensor, problem=f"its storage is quantised ({formats[packed_name]})", dtype=None)
    return out


def _packed(base: str, tensors: Mapping[str, StoredTensor]) -> tuple[str, str] | None:
    """The name of the quantised matrix that a companion called ``base`` and a suffix belongs to, and its format."""
    for suffix, label in _PACKED.items():
        tensor = tensors.get(base + suffix)
        if tensor is not None and len(tensor.shape) > 0 and (tensor.dtype is None or tensor.dtype.itemsize == 1):
            return base + suffix, label
    return None
