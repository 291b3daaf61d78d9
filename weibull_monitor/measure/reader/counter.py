"""Counting a model of one process.

What kernels can measure is prepared once: as long as nothing has moved in memory, a sample is a few launches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import queued_on
from weibull_monitor.measure.grid import look, on_grid
from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.kernels.plan import Plan
from weibull_monitor.measure.kernels.table import ROWS
from weibull_monitor.measure.reader.inventory import Inventory
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums, count_components
from weibull_monitor.measure.transfer import to_host
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding.division import Agreement, alone

Notes = Mapping[str, Sequence[float]]
"""Some numbers by parameter, `NOTE_NUMBERS` for each."""
NOTE_NUMBERS = 16
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
        """This process counts everything."""
        return table, alone(weights.held.values())

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
        if self._launches is None or self._launches.key != key:
            self._launches = None  # frees its memory for the next one
            self._launches = _launches(key, weights)
        else:
            self._launches = launches_now(self._launches, weights)
        launches = self._launches
        problems: dict[int, str] = {}

        def rows() -> Iterator[CountedRows]:
            for pieces in readable(components, launches.left, weights, problems):
                yield from count_components(pieces, ROWS_AT_ONCE, problems, launches.on_grid)

        complete = launches.sums.complete(rows())
        return CountResult(complete, problems, notes, [(plan.indices, plan.run()) for plan in launches.plans])


@dataclass(frozen=True)
class LaunchSet:
    """What kernels measure of some components, and what is left to plain torch.

    Attributes:
        key: The components, and where their parameters lie in memory: it is of use as long as these are the same.
        sums: Which components are read, and which are sums of those.
        plans: The launches, for each device and dtype.
        left: The components of `Sums.read` that are not in any plan, by their place.
        on_grid: Those of them whose values lie on a grid; None if that is found when they are counted.
        watched: The components of which some values are on their way to the host, to see whether they lie on a grid.
    """

    key: tuple[Sequence[Component], tuple[int, ...]]
    sums: Sums
    plans: tuple[Plan, ...]
    left: tuple[int, ...]
    on_grid: frozenset[int] | None = None
    watched: tuple[GridWatch, ...] = ()


def launches_now(launches: LaunchSet, weights: LocalWeights) -> LaunchSet:
    """The launches for the values as they were a sample ago: a device is not waited for, so its values are looked at ahead."""
    if not launches.watched or not all(watch.ready() for watch in launches.watched):
        return launches
    on_grid = frozenset[int]().union(*(watch.on_grid() for watch in launches.watched))
    if on_grid != launches.on_grid:
        return _launches(launches.key, weights, on_grid)
    return replace(launches, watched=tuple(watch.again() for watch in launches.watched))


class GridWatch:
    """Some values of components of one dtype on a device, on their way to the host.

    Args:
        pieces: The elements of each component, by its place.
    """

    def __init__(self, pieces: Mapping[int, Sequence[Tensor]]) -> None:
        self._pieces = pieces
        self._places = [index for index, here in pieces.items() for _ in here]
        tensors = [piece.detach() for here in pieces.values() for piece in here]
        self._bins = bins_of(tensors[0].dtype)
        self._looked = to_host(look(tensors, self._bins))

    def ready(self) -> bool:
        """Whether the values have arrived."""
        return self._looked.ready()

    def on_grid(self) -> frozenset[int]:
        """The components that have values on a grid, waiting for the values if need be. To be called once."""
        found = on_grid(self._looked.rows(), self._bins)
        return frozenset(index for index, grid in zip(self._places, found, strict=True) if grid)

    def again(self) -> GridWatch:
        """Looks at the values as they are now."""
        return GridWatch(self._pieces)


def _launches(
    key: tuple[Sequence[Component], tuple[int, ...]], weights: LocalWeights, found: frozenset[int] | None = None
) -> LaunchSet:
    """Prepares what the kernels can measure; nothing where parameters have no addresses.

    Args:
        key: As `LaunchSet.key`.
        weights: What this process holds.
        found: Components that have values on a grid; None to look, for which a device is waited for.
    """
    components, _ = key
    sums = Sums(components)
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Sequence[Tensor]]] = {}
    for index in sums.read:
        here = weights.pieces(components[index]) if weights.stays(components[index]) else ()
        if here and not isinstance(here, str):
            groups.setdefault((here[0].device, here[0].dtype), {})[index] = here
    plans = []
    ahead = any(queued_on(device) for device, _ in groups)
    watched = [GridWatch(members) for (_, dtype), members in groups.items() if ahead and bins_of(dtype).shift]
    if watched and found is None:
        found = frozenset[int]().union(*(watch.on_grid() for watch in watched))
        watched = [watch.again() for watch in watched]
    # What lies on a grid is counted beside the kernels, and so is all that makes up a whole with it.
    wholes = {whole for index in found or () for whole in sums.makes_up.get(index, ())}
    for (device, dtype), all_members in groups.items():
        kernels = kernels_for(device, dtype)
        members = {
            index: here
            for index, here in all_members.items()
            if index not in (found or ()) and wholes.isdisjoint(sums.makes_up.get(index, ()))
        }
        if members and kernels is not None and all(len(sums.makes_up.get(index, ())) < ROWS for index in members):
            plans.append((Plan(kernels, dtype, members, sums.makes_up), members))
    planned = {index for _, members in plans for index in members}
    left = tuple(index for index in sums.read if index not in planned)
    return LaunchSet(key, sums, tuple(plan for plan, _ in plans), left, found, tuple(watched))


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
