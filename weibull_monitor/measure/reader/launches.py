"""The matrices of one process that kernels measure, prepared once: as long as nothing has moved, a sample is a few launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.kernels.plan import Plan
from weibull_monitor.measure.kernels.table import ROWS
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.sums import Sums
from weibull_monitor.model.components import Component

Solved = Sequence[tuple[Sequence[int], Tensor]]
"""Results of `weibull_monitor.measure.solve`, and the places of the components that their rows belong to."""


@dataclass(frozen=True)
class LaunchSet:
    """What kernels measure of some components, and what is left to plain torch.

    Attributes:
        components: The components.
        addresses: Where each of their parameters lies.
        plans: The launches, for each device and dtype (`weibull_monitor.measure.kernels.plan.Plan`).
        left: The components that are not in them, by their place; of those to be read, as `Sums.read`.
        sums: How parts make up wholes.
        problems: Why components cannot be read, by their place.
    """

    components: Sequence[Component]
    addresses: tuple[tuple[str, int], ...]
    plans: tuple[Plan, ...]
    left: tuple[int, ...]
    sums: Sums
    problems: Mapping[int, str]

    def holds(self, components: Sequence[Component], holdings: LocalWeights) -> bool:
        """Whether this is still the plan for some components: the same, where they were."""
        return self.components == components and self.addresses == holdings.addresses(components)

    def run(self) -> Solved:
        """Queues the measurement; nothing is waited for."""
        return [(plan.indices, plan.run()) for plan in self.plans]


def planned(
    components: Sequence[Component],
    sums: Sums,
    pieces: Mapping[int, Sequence[Tensor]],
    problems: Mapping[int, str],
    holdings: LocalWeights,
) -> LaunchSet | None:
    """Prepares what the kernels can measure; None if that is nothing.

    Args:
        components: The components.
        sums: How parts make up wholes.
        pieces: The elements of those that are read, by their place.
        problems: Why others cannot be read.
        holdings: What is held of the model.
    """
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Sequence[Tensor]]] = {}
    for index, here in pieces.items():
        if here:
            groups.setdefault((here[0].device, here[0].dtype), {})[index] = here
    usable = []
    for (device, dtype), members in groups.items():
        kernels = kernels_for(device, dtype)
        if kernels is not None and all(len(sums.makes_up.get(index, ())) < ROWS for index in members):
            usable.append((kernels, dtype, members))
    addresses = holdings.addresses(components) if usable else ()
    if not addresses:
        return None
    left = pieces.keys() - {index for _, _, members in usable for index in members}
    plans = tuple(Plan(kernels, dtype, members, sums.makes_up) for kernels, dtype, members in usable)
    return LaunchSet(components, addresses, plans, tuple(sorted(left)), sums, problems)
