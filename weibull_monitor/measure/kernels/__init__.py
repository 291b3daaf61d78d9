"""Triton kernels that count and fit all matrices of an accelerator in a few launches, and whether they can be used there.

They are used on CUDA devices, for bfloat16, float16 and float32, where Triton is installed (torch brings it on Linux) and
compiles them. Everywhere else, and if compiling fails, the same integers come from plain torch. ``WEIBULL_MONITOR_KERNELS=0``
in the environment turns them off.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch

from weibull_monitor.errors import say, text_of

if TYPE_CHECKING:
    from weibull_monitor.measure.kernels.launch import Kernels


SWITCH = "WEIBULL_MONITOR_KERNELS"
"""The environment variable that turns the kernels off with ``0``."""

COUNTED = (torch.bfloat16, torch.float16, torch.float32)
"""The dtypes that the kernels count."""

_found: dict[torch.device, Kernels | None] = {}


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels | None:
    """The kernels of a device, compiled for a dtype; None where there are none.

    Compiling takes seconds, or less from Triton's cache on disk; it happens at the first call for a dtype. A failure is logged
    once, and the device goes without kernels from then on.

    Args:
        device: Any device.
        dtype: The dtype that will be counted there.
    """
    if device.type != "cuda" or dtype not in COUNTED or os.environ.get(SWITCH) == "0":
        return None
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    try:
        if device not in _found:
            _found[device] = _kernels(device)
        if (kernels := _found[device]) is not None:
            kernels.prepare(dtype)
    except Exception as error:  # whatever a compiler may raise: no Triton, no C compiler, a full disk
        _found[device] = None
        _warn(device, error)
    return _found[device]


def _kernels(device: torch.device) -> Kernels:
    from weibull_monitor.measure.kernels.launch import Kernels

    return Kernels(device)


def _warn(device: torch.device, error: Exception) -> None:
    lines = text_of(error).strip().splitlines() or ["no message"]
    say(
        logging.WARNING,
        f"weibull_monitor: the Triton kernels cannot be used on {device} ({type(error).__name__}: {lines[-1]}); plain torch "
        "counts instead: the same numbers, but a sample takes longer. "
        f"{SWITCH}=0 in the environment leaves them out without this message",
        error,
    )
