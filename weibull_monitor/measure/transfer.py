"""Numbers on their way from a device to the host: copied to pinned memory without waiting, and read when they have arrived."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class PendingResult:
    """Rows of numbers that may still be on their way from a CUDA device; an event says when the copy is done.

    The copy is queued on the current stream of the device: behind the kernels that make the numbers, and before whatever
    changes them next. From other devices the numbers are copied when they are read.

    Args:
        values: Floating point, two dimensions.
    """

    _pinned: ClassVar[dict[tuple[torch.Size, torch.dtype], list[Tensor]]] = {}
    """Buffers that have been read: pinning memory takes time, and may wait for the device."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            kept = self._pinned.setdefault((values.shape, values.dtype), [])
            self._values = kept.pop() if kept else torch.empty_like(values, device="cpu", pin_memory=True)
            with torch.cuda.device(values.device):
                self._values.copy_(values, non_blocking=True)
                self._copied = torch.cuda.current_stream().record_event()

    def ready(self) -> bool:
        """Whether `numbers` would not wait; asking waits for nothing."""
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def numbers(self) -> npt.NDArray[np.float64]:
        """The numbers, waiting for them if need be. To be called once."""
        if self._copied is not None:
            self._copied.synchronize()
        out: npt.NDArray[np.float64] = self._values.to("cpu", torch.float64, copy=True).numpy()
        if self._copied is not None:
            self._pinned[self._values.shape, self._values.dtype].append(self._values)
        return out

    def rows(self) -> list[list[float]]:
        """`numbers` as lists."""
        out: list[list[float]] = self.numbers().tolist()
        return out


def to_host(values: Tensor) -> PendingResult:
    """Sends numbers to the host.

    Args:
        values: Floating point, two dimensions. On CUDA nothing is waited for, and what is written to ``values`` later changes
            nothing; elsewhere the wait is in `PendingResult.numbers`.
    """
    return PendingResult(values)


class LateNumber:
    """A single number that a CUDA device will write to again, as it is now.

    Args:
        number: One element, of any shape.
    """

    def __init__(self, number: Tensor) -> None:
        self._arriving = to_host(number.detach().reshape(1, 1))
        self._value: float | None = None

    def ready(self) -> bool:
        """Whether `value` would not wait."""
        return self._value is not None or self._arriving.ready()

    def value(self) -> float:
        """The number, waiting for it if need be."""
        if self._value is None:
            ((self._value,),) = self._arriving.rows()
        return self._value
