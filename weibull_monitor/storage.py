"""Which tensors hold values that can be read where they are."""

from __future__ import annotations

import torch
from torch import Tensor

MANTISSA: dict[torch.dtype, int] = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10, torch.float64: 52}
"""Mantissa bits of every dtype that can be counted."""
for _name, _bits in (("e4m3fn", 3), ("e5m2", 2), ("e4m3fnuz", 3), ("e5m2fnuz", 2)):
    if _fp8 := getattr(torch, f"float8_{_name}", None):
        MANTISSA[_fp8] = _bits


def unsupported(tensor: Tensor, ignore_values: bool = False) -> str:
    """Why a tensor cannot be measured; empty if it can.

    Args:
        tensor: Any tensor. None of its values is read.
        ignore_values: Whether a tensor that could be measured will do, though it has no values now: on the meta device, or empty.

    >>> unsupported(torch.zeros(2, dtype=torch.int8))
    'its dtype is int8, not a float that can be counted'
    """
    if tensor.is_meta and not ignore_values:
        return "it is on the meta device and has no values yet"
    if tensor.layout != torch.strided:
        return f"its layout is {str(tensor.layout).removeprefix('torch.')}"
    if tensor.dtype not in MANTISSA:
        return f"its dtype is {str(tensor.dtype).removeprefix('torch.')}, not a float that can be counted"
    if tensor.numel() == 0 and not ignore_values:
        return "it has no elements"
    return ""
