"""A device whose clock is a fake, in place of `weibull_monitor.measure.transfer.to_host`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from weibull_monitor.measure.rows import Numbers


@dataclass
class Device:
    """The clock of a device that runs ``lag`` ticks behind the host."""

    lag: float
    now: float = 0.0
    waits: int = 0
    sent: int = 0
    under_way: int = 0
    most_under_way: int = 0
    broken: bool = False

    def tick(self) -> None:
        self.now += 1

    def to_host(self, values: Tensor) -> OnItsWay:
        self.sent += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        # The stream's order: what was queued sees no later write.
        return OnItsWay(self, values.clone().as_subclass(Tensor), self.now + self.lag)


class OnItsWay:
    """Numbers that arrive when the clock comes to a time; waiting for them puts it there."""

    def __init__(self, device: Device, values: Tensor, due: float) -> None:
        self._device, self._values, self._due = device, values, due

    def ready(self) -> bool:
        return self._device.now >= self._due

    def numbers(self) -> Numbers:
        if not self.ready():
            self._device.waits += 1
            self._device.now = self._due
        self._device.under_way -= 1
        if self._device.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        numbers: Numbers = self._values.double().numpy()
        return numbers

    def rows(self) -> list[list[float]]:
        rows: list[list[float]] = self.numbers().tolist()
        return rows
