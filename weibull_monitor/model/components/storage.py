"""Decides whether a tensor's values can be read as plain floats. Quantised storage is named and skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from weibull_monitor.model.sharding.dtensor import is_dtensor

MANTISSA: Final[dict[torch.dtype, int]] = {
    torch.float64: 52,
    torch.float32: 23,
    torch.float16: 10,
    torch.bfloat16: 7,
    torch.float8_e4m3fn: 3,
    torch.float8_e4m3fnuz: 3,
    torch.float8_e5m2: 2,
    torch.float8_e5m2fnuz: 2,
}
"""Mantissa bits of every dtype that can be counted."""


def unsupported(tensor: Tensor, ignore_values: bool = False) -> str:
    """Why a tensor cannot be measured; empty if it can.

    Args:
        tensor: Any tensor. None of its values is read.
        ignore_values: Whether to accept a tensor without values, on the meta device or empty.

    >>> unsupported(torch.zeros(2, dtype=torch.int8))
    'its dtype is int8, not a float type'
    """
    if tensor.is_nested:
        return "it is a nested tensor; its parts (tensor.unbind()) can be measured"
    if is_dtensor(tensor):
        return "it is a DTensor; its local part (tensor.to_local()) can be measured"
    if tensor.is_meta and not ignore_values:
        return "it is on the meta device and has no values yet"
    if tensor.layout != torch.strided:
        return f"its layout is {str(tensor.layout).removeprefix('torch.')}"
    if tensor.dtype not in MANTISSA:
        return f"its dtype is {str(tensor.dtype).removeprefix('torch.')}, not a float type"
    if tensor.numel() == 0 and not ignore_values:
        return "it has no elements"
    return ""


def ordinary(tensor: Tensor) -> bool:
    """Whether a tensor's elements lie in memory as torch's own do: its class does not handle operations itself."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


_TENSOR_LIBRARIES: Final = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "hqq": "HQQ",
    "optimum": "optimum-quanto",
    "fbgemm_gpu": "FBGEMM",
}
"""Packages whose tensor classes hold quantised values."""
_MODULE_LIBRARIES: Final = {
    "gptqmodel": "GPTQ",
    "auto_gptq": "GPTQ",
    "awq": "AWQ",
    "autoawq": "AWQ",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "compressed_tensors": "compressed-tensors",
}
"""Packages whose modules hold a packed matrix in buffers."""
_BITS: Final = {"Params4bit": "4-bit", "Int8Params": "8-bit"}


def storage_problem(tensor: Tensor) -> str | None:
    """Why the values of a parameter are not plain floats, by the class of its tensor; None if they may be."""
    module, name = type(tensor).__module__, type(tensor).__name__
    library = _TENSOR_LIBRARIES.get(module.partition(".")[0])
    if library is None and name in _BITS:
        library = "bitsandbytes"
    if library is not None:
        bits = f" {_BITS[name]}" if name in _BITS else ""
        return f"its storage is quantised ({library}{bits}, {name})"
    return None


def unreadable(tensor: Tensor) -> str:
    """Why a parameter's values cannot be counted as floats; empty if they can. Reads no values.

    >>> import torch
    >>> unreadable(torch.zeros(2, 2, dtype=torch.int8)), unreadable(torch.zeros(2, 2, device="meta"))
    ('its dtype is int8, not a float type', '')
    """
    if tensor.is_quantized:
        return "its storage is quantised (torch)"
    return unsupported(tensor, ignore_values=True)


def packed_buffers(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """(name, reason, elements) of every matrix that a module keeps packed in a buffer, as GPTQ and AWQ do."""
    for path, module in model.named_modules():
        packed = module._buffers.get("qweight", module._buffers.get("weight_packed"))
        if packed is None:
            continue
        library = next(
            (label for package, label in _MODULE_LIBRARIES.items() if type(module).__module__.startswith(package)), ""
        )
        name = type(module).__name__
        if not library:
            known = ("AWQ", "GPTQ", "HQQ", "AQLM")
            library = next((label for label in known if label.lower() in name.lower()), "packed integers")
        rows, columns = getattr(module, "in_features", None), getattr(module, "out_features", None)
        numel = rows * columns if isinstance(rows, int) and isinstance(columns, int) else packed.numel()
        yield f"{path}.qweight", f"its storage is quantised ({library}, {name})", numel
