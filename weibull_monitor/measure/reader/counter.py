"""What counts a model, and the one that does it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from weibull_monitor.measure.reader.inventory import Inventory
from weibull_monitor.measure.reader.launches import LaunchSet, Solved, planned
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.reader.sums import CountedRows, Sums, count_components
from weibull_monitor.model.components import Component

Notes = Mapping[str, Sequence[float]]
"""Some numbers by parameter, `NOTE_NUMBERS` for each."""
NOTE_NUMBERS = 16
"""How many numbers a note holds; the first is NaN where there is no note."""

if TYPE_CHECKING:
    from weibull_monitor.model.sharding.division import Agreement


@dataclass(frozen=True)
class CountResult:
    """What counting gave.

    Attributes:
        rows: The rows of all components, by their place among those asked for; to be gone through once.
        problems: Why components have no row of their own, or a wrong one, by their place.
        notes: What the ranks noted about each parameter.
        solved: Components that have been counted and solved on their device already.
    """

    rows: Iterable[CountedRows] = ()
    problems: Mapping[int, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)
    solved: Solved = ()


class Counter(Protocol):
    """Counts the components of a model."""

    is_main: bool

    def agree(self, table: Inventory, holdings: LocalWeights) -> tuple[Inventory, Agreement]:
        """What is measured on all ranks together, and who counts what of it."""

    def count(
        self, components: Sequence[Component], holdings: LocalWeights, settled: bool, step: int, notes: Notes
    ) -> CountResult | None:
        """Counts components, or says with None that what the ranks hold has changed and has to be agreed on again.

        Args:
            components: The same on all ranks.
            holdings: What this rank holds.
            settled: Whether that is what was agreed on.
            step: The optimizer step.
            notes: What this rank knows of its parameters.
        """


class LocalCounter:
    """Counts a model of one process."""

    is_main = True

    def __init__(self) -> None:
        self._planned: LaunchSet | None = None

    def agree(self, table: Inventory, holdings: LocalWeights) -> tuple[Inventory, Agreement]:
        """This process counts everything."""
        from weibull_monitor.model.sharding.division import alone

        return table, alone(holdings.held.values())

    def count(
        self, components: Sequence[Component], holdings: LocalWeights, settled: bool, step: int, notes: Notes
    ) -> CountResult | None:
        """Counts components."""
        if not settled:
            return None
        plan = self._planned
        if plan is None or not plan.holds(components, holdings):
            self._planned = None  # its memory is for the next
            sums = Sums(components)
            pieces, problems = readable(components, sums.read, holdings)
            plan = self._planned = planned(components, sums, pieces, problems, holdings)
            if plan is None:
                return CountResult(sums.complete(count_components(pieces)), problems, notes)
        pieces, problems = readable(components, plan.left, holdings)
        rows = plan.sums.complete(count_components(pieces))
        return CountResult(rows, {**plan.problems, **problems}, notes, plan.run())


def readable(
    components: Sequence[Component], indices: Iterable[int], holdings: LocalWeights
) -> tuple[dict[int, Sequence[Tensor]], dict[int, str]]:
    """The elements of components that can be read now, by their place, and why others cannot."""
    pieces: dict[int, Sequence[Tensor]] = {}
    problems: dict[int, str] = {}
    for index in indices:
        here = holdings.pieces(components[index])
        if isinstance(here, str):
            problems[index] = here
        else:
            pieces[index] = here
    return pieces, problems
