"""What the low-rank adapters of a checkpoint add to weights: A and B from its files, the factor from ``adapter_config.json``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from weibull_monitor.checkpoint.formats.files import open_regular, read_json
from weibull_monitor.checkpoint.formats.tensors import StoredTensor
from weibull_monitor.checkpoint.layout import CheckpointLayout
from weibull_monitor.errors import CheckpointError
from weibull_monitor.history.deltas import base_of, delta_of, described
from weibull_monitor.history.snapshot import Delta
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.product import queue_products
from weibull_monitor.model.adapters import Adapter

CONFIG: Final = "adapter_config.json"
LARGEST: Final = 256 << 20
"""Bytes of an A or a B that is read into memory."""
MAX_CONFIG: Final = 4 << 20
NO_SCALING: Final = "no adapter_config.json was found: ΔW is B·A without the factor s"
_A: Final = re.compile(
    r"^(?P<target>.*)\.lora_(?P<embedding>embedding_)?A(?:\.(?!weight$)(?P<adapter>\w+))?(?P<end>\.weight)?$"
)


@dataclass(frozen=True)
class AdaptersFound:
    """The adapters of a checkpoint.

    Attributes:
        deltas: What each adds, by the name of its A.
        record: What the history says of each, by the name of its A.
        notes: Remarks for the user.
    """

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    record: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def adapters_in(
    folder: Path, layout: CheckpointLayout, every: Mapping[str, StoredTensor], fits: Mapping[str, WeibullFit]
) -> AdaptersFound:
    """The adapters of a checkpoint, and what they add.

    Args:
        folder: Where its ``adapter_config.json`` may be.
        layout: What is measured in it.
        every: All of its tensors by name, vectors included.
        fits: The fits of its matrices, by name.
    """
    by_parameter = {c.parameter: c for c in layout.discovery.components if c.part is None}
    if not any(c.kind == "adapter_a" for c in by_parameter.values()):
        return AdaptersFound()
    config = _config(folder)
    pairs = [one for name in by_parameter if (one := _pair(name, layout.stored, every, config)) is not None]
    if not pairs:
        return AdaptersFound()
    bases = [base_of(one.target, by_parameter) for one in pairs]
    products = queue_products([(one.a, one.b, one.scaling) for one in pairs]).fits()
    names = [by_parameter[one.name].name for one in pairs]
    return AdaptersFound(
        {n: delta_of(fit, rms, base, fits) for n, base, (fit, rms) in zip(names, bases, products, strict=True)},
        {n: described(one, base) for n, one, base in zip(names, pairs, bases, strict=True)},
        () if config else (NO_SCALING,),
    )


def _config(folder: Path) -> dict[str, Any]:
    """The settings of the adapters; empty without them."""
    file = folder / CONFIG
    try:
        return read_json(file, MAX_CONFIG) if file.is_file() else {}
    except CheckpointError:
        return {}


def _pair(
    name: str, stored: Mapping[str, StoredTensor], every: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> Adapter | None:
    found = _A.match(name)
    if found is None:
        return None
    start = found.end("target")
    other = name[:start] + name[start:].replace("A", "B", 1)
    both = [stored.get(name), stored.get(other)]
    tensors = [_read(one) for one in both if one is not None]
    if len(tensors) < 2 or tensors[0] is None or tensors[1] is None:
        return None
    a, b = tensors[0], tensors[1]
    if math.prod(b.shape[1:]) != a.shape[0]:
        return None
    target = found["target"]
    adapter = found["adapter"] or ""
    magnitude = f"{target}.lora_magnitude_vector" + (f".{adapter}" if adapter else "")
    dora = any(n in (magnitude, f"{magnitude}.weight") for n in every)
    return Adapter(name, target, adapter, a, b, scaling_of(target, a.shape[0], config), dora)


def scaling_of(target: str, rank: int, config: Mapping[str, Any]) -> float:
    """s of an adapter, as PEFT makes it: α/r, or α/√r with ``use_rslora``; α may be given by patterns of names.

    >>> scaling_of("model.q_proj", 4, {"lora_alpha": 8}), scaling_of("model.q_proj", 4, {"lora_alpha": 8, "use_rslora": True})
    (2.0, 4.0)
    >>> scaling_of("model.q_proj", 4, {"lora_alpha": 8, "alpha_pattern": {"q_proj": 16}}), scaling_of("model.q_proj", 4, {})
    (4.0, 1.0)
    """
    alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern")
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        plain = str(pattern).lstrip("^")  # names or simple patterns: nothing of a file is run as a regular expression
        if target == plain or target.endswith(f".{plain}"):
            alpha = value
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha):
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read(stored: StoredTensor) -> Tensor | None:
    """A tensor in memory; None if it is too large or not stored row by row."""
    if stored.dtype is None or stored.numel * stored.dtype.itemsize > LARGEST or len(stored.shape) < 2:
        return None
    out = torch.empty(stored.shape, dtype=stored.dtype, device="cpu")
    for piece in stored.pieces:
        if piece.strides is not None:
            return None
        with open(open_regular(piece.file), "rb") as file:
            file.seek(piece.offset)
            data = bytearray(file.read(piece.numel * stored.dtype.itemsize))
        if len(data) < piece.numel * stored.dtype.itemsize:
            return None  # the scan itself says that the file is truncated
        where = tuple(slice(at, at + n) for at, n in zip(piece.at, piece.sizes, strict=True))
        out[where] = torch.frombuffer(data, dtype=stored.dtype).view(piece.sizes)
    return out.float()


def folder_of(path: Path) -> Path:
    """The folder of a checkpoint: itself, or that of a file."""
    return path if path.is_dir() else path.parent
