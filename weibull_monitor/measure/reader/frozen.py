"""Finds out whether matrices that need no gradient have changed, without reading them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.transfer import PendingResult, to_host
from weibull_monitor.model.components.storage import ordinary, unsupported

LOOKED_AT = 64
"""How many elements of each matrix are compared."""


class FrozenWatch:
    """Compares frozen parameters with what they were: their version, their address, and `LOOKED_AT` of their elements.

    torch raises the version at every operation in place, but not for those through ``parameter.data``; hence the elements. On an
    accelerator these are compared when the next sample is taken, so that nothing waits.
    """

    def __init__(self) -> None:
        self._marks: dict[str, tuple[int, int]] = {}
        self._values: dict[str, list[float]] = {}
        self._arriving: list[tuple[list[str], PendingResult]] = []

    def moved(self, weights: LocalWeights, parameters: Iterable[str]) -> list[str]:
        """The parameters that have changed since the last call, of those that both calls name.

        Args:
            weights: What this rank holds.
            parameters: Names of parameters that need no gradient.
        """
        here = {name: local for name in parameters if (local := _readable(weights, name)) is not None}
        marks = {name: (local.data_ptr(), local._version) for name, local in here.items()}
        moved = {name for name, mark in marks.items() if self._marks.get(name, mark) != mark}
        self._marks = marks
        late = self._compared()
        groups: dict[torch.device, dict[str, Tensor]] = {}
        for name, local in here.items():
            groups.setdefault(local.device, {})[name] = local
        for device, members in groups.items():
            values = torch.stack([_some(local) for local in members.values()])
            self._arriving.append((list(members), to_host(values)))
            if device.type == "cpu":
                late |= self._compared()
        self._values = {name: values for name, values in self._values.items() if name in here}
        return sorted((moved | late) & here.keys())

    def _compared(self) -> set[str]:
        """Parameters whose elements, as they have arrived, are not those that arrived before."""
        different = set()
        for names, result in self._arriving:
            for name, values in zip(names, result.rows(), strict=True):
                if self._values.setdefault(name, values) != values:
                    different.add(name)
                    self._values[name] = values
        self._arriving = []
        return different


def _readable(weights: LocalWeights, name: str) -> Tensor | None:
    held = weights.held.get(name)
    if held is None or held.problem or held.sources:
        return None
    try:
        local = held.read()
        return local if ordinary(local) and not unsupported(local) else None
    except Exception:  # a tensor of another library: the reading says what is wrong
        return None


def _some(local: Tensor) -> Tensor:
    """Evenly spaced elements of a tensor as float64, shape (LOOKED_AT,): 0 where it has fewer."""
    flat = local.view(-1) if local.is_contiguous() else local.as_strided((_stretch(local),), (1,))
    step = max(1, len(flat) // LOOKED_AT)
    some = torch.nan_to_num(flat[::step][:LOOKED_AT].double(), nan=-1e300)  # NaN is not equal to itself
    return torch.nn.functional.pad(some, (0, LOOKED_AT - len(some)))


def _stretch(local: Tensor) -> int:
    """Number of elements of the stretch of memory that a tensor's elements lie in."""
    return 1 + sum((size - 1) * stride for size, stride in zip(local.shape, local.stride(), strict=True))
