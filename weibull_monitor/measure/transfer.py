"""Results on their way from a device to the host: copied to pinned memory without waiting, and read when they have arrived."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor


class PendingResult(Protocol):
    """Numbers that may still be on their way."""

    def ready(self) -> bool:
        """Whether `rows` would not wait; asking waits for nothing."""

    def rows(self) -> list[list[float]]:
        """The numbers, waiting for them if need be. To be called once."""


class HostResult:
    """Numbers that have only to be read: on the CPU, and on devices whose copies are waited for anyway."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def ready(self) -> bool:
        """They are here."""
        return True

    def rows(self) -> list[list[float]]:
        """The numbers."""
        out: list[list[float]] = self._values.tolist()
        return out


class CudaResult:
    """Numbers on their way from a CUDA device: an event says when the copy is done.

    The copy is queued on the stream that is current on the device, behind the kernels that make the numbers and before
    whatever changes their sources next.
    """

    _pinned: ClassVar[dict[tuple[torch.Size, torch.dtype], list[Tensor]]] = {}
    """Buffers that have been read: pinning memory takes time, and may wait for the device."""

    def __init__(self, values: Tensor) -> None:
        kept = self._pinned.setdefault((values.shape, values.dtype), [])
        self._buffer = kept.pop() if kept else torch.empty_like(values, device="cpu", pin_memory=True)
        with torch.cuda.device(values.device):
            self._buffer.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def ready(self) -> bool:
        """Whether the copy is done."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def rows(self) -> list[list[float]]:
        """The numbers."""
        self._event.synchronize()
        out: list[list[float]] = self._buffer.tolist()
        self._pinned[self._buffer.shape, self._buffer.dtype].append(self._buffer)
        return out


def to_host(values: Tensor) -> PendingResult:
    """Sends numbers to the host.

    Args:
        values: Floating point, of two dimensions. On CUDA nothing is waited for, and what is written to ``values`` later changes
            nothing; elsewhere the wait is in `PendingResult.rows`.
    """
    return CudaResult(values) if values.device.type == "cuda" else HostResult(values)


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
