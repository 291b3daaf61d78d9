"""Storage whose values are not there as plain floats, because they are quantised. It is named and skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import Tensor, nn

from weibull_monitor.storage import unsupported

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
    """Why the values of a parameter are not all here as plain floats, or None."""
    module, name = type(tensor).__module__, type(tensor).__name__
    library = _TENSOR_LIBRARIES.get(module.partition(".")[0])
    if library is None and name in _BITS:
        library = "bitsandbytes"
    if library is not None:
        bits = f" {_BITS[name]}" if name in _BITS else ""
        return f"its storage is quantised ({library}{bits}, {name})"
    return None


def unreadable(tensor: Tensor) -> str:
    """Why a parameter's values are no floats that can be counted; empty if they are. Reads none of them.

    >>> import torch
    >>> unreadable(torch.zeros(2, 2, dtype=torch.int8)), unreadable(torch.zeros(2, 2, device="meta"))
    ('its dtype is int8, not a float that can be counted', '')
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
