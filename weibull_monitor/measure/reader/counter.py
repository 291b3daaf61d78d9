"""Counting a model of one process.

What kernels can measure is prepared once: as long as nothing has moved in memory, a sample is a few launches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import torch
from torch import Tensor

from weibull_monitor.measure.bins import Bins
from weibull_monitor.measure.choose import queued_on
from weibull_monitor.measure.grid import on_grid
from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.kernels.plan import Plan
from weibull_monitor.measure.kernels.table import ROWS
from weibull_monitor.measure.reader.inventory import Inventory, without
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums, count_components
from weibull_monitor.measure.transfer import PendingResult, to_host
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding.division import Agreement, alone

Notes = Mapping[str, Sequence[float]]
"""Some numbers by parameter, `NOTE_NUMBERS` for each."""
NOTE_NUMBERS = 18
"""How many numbers a note holds. The first is not zero."""


@dataclass(frozen=True)
class CountResult:
    """What counting gave.

    Attributes:
        rows: The rows of all components, by their place among those asked for; to be gone through once.
        problems: Why components have no row, by their place; complete when the rows have been gone through.
        notes: What the ranks noted about each parameter.
        solved: Results of `weibull_monitor.measure.solve` for components that were counted and solved on their device already,
            with the places that their rows belong to.
    """

    rows: Iterable[CountedRows] = ()
    problems: Mapping[int, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)
    solved: Sequence[tuple[Sequence[int], Tensor]] = ()


class LocalCounter:
    """Counts the components of a model of one process; `DistributedCounter` does so for many."""

    is_main = True

    def __init__(self) -> None:
        self._launches: LaunchSet | None = None

    def agree(self, table: Inventory, weights: LocalWeights) -> tuple[Inventory, Agreement]:
        """This process counts everything that it has whole."""
        return without(table, weights.elsewhere()), alone(weights.held.values())

    def count(
        self, components: Sequence[Component], weights: LocalWeights, step: int, notes: Notes, moved: bool = False
    ) -> CountResult | None:
        """Counts components; None if the parameters of the model have changed, so that there has to be another agreement.

        Args:
            components: Those that are due.
            weights: What this process holds.
            step: The optimizer step, which many ranks compare.
            notes: What this process knows of its parameters.
            moved: Whether a matrix that was to be read once has changed, so that there has to be another agreement too.
        """
        if not weights.refresh() or moved:
            return None
        key = (components, weights.addresses(components))
        before, self._launches = self._launches, None
        if before is None or before.key != key:
            del before  # frees its memory for the next one
            launches, solved = _first(key, weights)
        else:
            launches = launches_now(before, weights)
            solved = launches.run()
        self._launches = launches
        problems: dict[int, str] = {}

        def some(index: int) -> Tensor:
            return weights.some(components[index]).values()

        def rows() -> Iterator[CountedRows]:
            for pieces in readable(components, launches.left, weights, problems):
                yield from count_components(pieces, ROWS_AT_ONCE, problems, some, launches.grids)

        return CountResult(launches.sums.complete(rows()), problems, notes, solved)


Solved = list[tuple[Sequence[int], Tensor]]
"""As `CountResult.solved`."""


@dataclass(frozen=True)
class LaunchSet:
    """What kernels measure of some components, and what is left to plain torch.

    Attributes:
        key: The components, and where their parameters lie in memory: it is of use as long as these are the same.
        sums: Which components are read, and which are sums of those.
        plans: The launches, for each device and dtype.
        left: The components of `Sums.read` that are not in any plan, by their place.
        apart: Those that are not because they lie on a grid.
        grids: Which components lie on a grid, as far as it is known; None if that is found when they are counted.
    """

    key: tuple[Sequence[Component], tuple[int, ...]]
    sums: Sums
    plans: tuple[Plan, ...]
    left: tuple[int, ...]
    apart: frozenset[int]
    grids: GridWatch | None

    def run(self) -> Solved:
        """Queues the launches."""
        solved: Solved = []
        for plan in self.plans:
            solved.append((plan.indices, plan.run()))
            if self.grids is not None:
                self.grids.note(plan.read, plan.bins, plan.evidence())
        return solved


class GridWatch:
    """Which components lay on a grid a sample ago, and what tells it now, on its way to the host.

    Where work is queued, nothing waits for it: so the values of a sample say how those of the next are measured.

    Args:
        known: The components that lay on a grid; None if it is not known.
    """

    def __init__(self, known: frozenset[int] | None = None) -> None:
        self.known = known
        self._arriving: list[tuple[tuple[int, ...], Bins, PendingResult]] = []
        self._found = frozenset[int]()

    def note(self, indices: Sequence[int], bins: Bins, found: Tensor) -> None:
        """Takes what `weibull_monitor.measure.grid.on_grid` judges by, for some components."""
        self._arriving.append((tuple(indices), bins, to_host(found.double())))

    def ready(self) -> bool:
        """Whether `on_grid` would not wait."""
        return all(result.ready() for _, _, result in self._arriving)

    def on_grid(self) -> frozenset[int]:
        """The components that lie on a grid, by what was noted."""
        for indices, bins, result in self._arriving:
            self._found |= frozenset(compress(indices, on_grid(result.numbers(), bins)))
        self._arriving = []
        return self._found


def _first(key: tuple[Sequence[Component], tuple[int, ...]], weights: LocalWeights) -> tuple[LaunchSet, Solved]:
    """The launches for components that were not measured before, for which a device is waited for; and their results."""
    launches = _launches(key, weights, frozenset())
    solved = launches.run()
    if launches.plans and launches.grids is not None and (found := launches.grids.on_grid()):
        launches = _launches(key, weights, found)
        solved = launches.run()
    if launches.grids is not None:
        launches.grids.known = None  # those that are left are looked at when they are counted
    return launches, solved


def launches_now(launches: LaunchSet, weights: LocalWeights) -> LaunchSet:
    """The launches for the values as they were a sample ago."""
    if (before := launches.grids) is None:
        return launches
    known = before.on_grid() if before.ready() else before.known
    if known is None or known == launches.apart:
        return replace(launches, grids=GridWatch(known))
    return _launches(launches.key, weights, known)


def _launches(
    key: tuple[Sequence[Component], tuple[int, ...]], weights: LocalWeights, found: frozenset[int]
) -> LaunchSet:
    """Prepares what the kernels can measure; nothing where parameters have no addresses.

    Args:
        key: As `LaunchSet.key`.
        weights: What this process holds.
        found: Components that have values on a grid.
    """
    components, _ = key
    sums = Sums(components)
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Sequence[Tensor]]] = {}
    for index in sums.read:
        here = weights.pieces(components[index]) if weights.stays(components[index]) else ()
        if here and not isinstance(here, str):
            groups.setdefault((here[0].device, here[0].dtype), {})[index] = here
    plans = []
    # What lies on a grid is counted beside the kernels, and so is all that makes up a whole with it.
    wholes = {whole for index in found for whole in sums.makes_up.get(index, ())}
    for (device, dtype), all_members in groups.items():
        kernels = kernels_for(device, dtype)
        members = {
            index: here
            for index, here in all_members.items()
            if index not in found and wholes.isdisjoint(sums.makes_up.get(index, ()))
        }
        if members and kernels is not None and all(len(sums.makes_up.get(index, ())) < ROWS for index in members):
            plans.append(
                Plan(kernels, dtype, members, sums.makes_up, some=lambda index: weights.some(components[index]))
            )
    planned = {index for plan in plans for index in plan.read}
    left = tuple(index for index in sums.read if index not in planned)
    queued = bool(plans) or any(queued_on(device) for device, _ in groups)
    return LaunchSet(key, sums, tuple(plans), left, found, GridWatch(found) if queued else None)


def readable(
    components: Sequence[Component], indices: Iterable[int], weights: LocalWeights, problems: dict[int, str]
) -> Iterator[dict[int, Sequence[Tensor]]]:
    """The elements of components that can be read now, by their place.

    First those of all that lie in memory; then those of one at a time that is made to be read, so that its memory can be freed.

    Args:
        components: The components.
        indices: The places of those to read.
        weights: What this process holds.
        problems: Receives why others cannot be read.
    """
    apart: list[int] = []
    pieces: dict[int, Sequence[Tensor]] = {}
    for index in indices:
        if weights.made(components[index]):
            apart.append(index)
        elif not isinstance(here := weights.pieces(components[index]), str):
            pieces[index] = here
        else:
            problems[index] = here
    yield pieces
    for index in apart:
        if not isinstance(here := weights.pieces(components[index]), str):
            yield {index: here}
        else:
            problems[index] = here
