"""The forces on every matrix of a model, from the optimizers' state, on one rank or on many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weibull_monitor.errors import text_of
from weibull_monitor.history.snapshot import Forces
from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import CountedRows, Sums
from weibull_monitor.measure.transfer import PendingResult, to_host
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.scaling.budget import StepInfo
from weibull_monitor.scaling.forces import SUMS, AdamState, adam_state, forces_of, squared_norm, sums_after
from weibull_monitor.scaling.tracking import BudgetTracker

_LOST = SUMS
"""The column after the sums: the number of ranks that could not take them."""


@dataclass(frozen=True)
class PendingForces:
    """The sums of one step, which may still be on their way from a device.

    Attributes:
        components: The components.
        sums: Which components are read, and how these add up to the others.
        packed: float64, shape (read components, SUMS + 1), on the host: the sums, and the number of ranks that have none.
        arriving: Rows of ``packed``, and their sums, which are on their way; None if all are there.
    """

    components: Sequence[Component]
    sums: Sums
    packed: Tensor
    arriving: tuple[Sequence[int], PendingResult] | None


class ForceReader:
    """Measures what a step did to the squared norm of every matrix: `before` the step, `collect` after it, then `forces`.

    The sums over a matrix are added over its parts, and over the ranks in one all-reduce. One process does not wait for the
    device before `forces`.

    Args:
        reader: Reads the model.
        budgets: Follows its optimizers.
        ranks: The ranks that share the model; None for one process.

    Attributes:
        reasons: Why this rank could not take the sums of some components, by name.
    """

    def __init__(self, reader: ModelReader, budgets: BudgetTracker, ranks: Ranks | None) -> None:
        self._reader, self._budgets, self._ranks = reader, budgets, ranks
        self._norms: dict[str, Tensor] = {}
        self.reasons: dict[str, str] = {}

    def before(self) -> None:
        """Measures the norms before the next step."""
        components = self._components()
        self._norms = {}
        for i in Sums(components).read:
            here = self._reader.weights.pieces(components[i])
            if here and not isinstance(here, str):
                self._norms[components[i].name] = squared_norm(here)

    def collect(self) -> PendingForces:
        """Takes the sums after the step and adds those of all ranks. Every rank has to call it, even if another one failed."""
        arriving = None
        components, sums = self._components(), Sums(self._components())
        packed = torch.zeros(len(sums.read), SUMS + 1, dtype=torch.float64, device="cpu")
        self.reasons = {}
        try:
            owners = self._budgets.owners()
            rows = {place: self._row(components[i], owners) for place, i in enumerate(sums.read)}
            here = {place: row for place, row in rows.items() if isinstance(row, Tensor)}
            if here:
                taken = torch.stack(list(here.values())).double()  # (rows that this rank counts, SUMS), on the device
                if self._ranks is None:
                    arriving = (list(here), to_host(taken))
                else:
                    packed[list(here), :SUMS] = taken.cpu()
            lost = {place: row for place, row in rows.items() if isinstance(row, str)}
        except Exception as error:  # the other ranks wait at the sum
            packed.zero_()
            lost = dict.fromkeys(
                range(len(packed)), f"taking the sums failed ({type(error).__name__}: {text_of(error)})"
            )
        for place, reason in lost.items():
            packed[place, _LOST] = 1.0
            self.reasons[components[sums.read[place]].name] = reason
        if self._ranks is not None:
            packed = self._ranks.sum_(packed.to(self._ranks.device)).cpu()
        self._norms = {}
        return PendingForces(components, sums, packed, arriving)

    def forces(self, collected: PendingForces, stepped: Mapping[str, StepInfo]) -> dict[str, Forces]:
        """The forces on each component, by name; waits for the sums if they have not arrived.

        Args:
            collected: The result of `collect` after the step.
            stepped: What each parameter was stepped with.
        """
        components, sums, packed = collected.components, collected.sums, collected.packed
        if collected.arriving is not None:
            places, numbers = collected.arriving
            packed[list(places), :SUMS] = torch.tensor(numbers.rows(), dtype=torch.float64, device="cpu")
        # The sums add up over parts like counts of bins do; `_LOST` does too, so that a whole with a lost part is lost.
        batch = CountedRows(sums.read, packed, bins_of(torch.float32))
        out: dict[str, Forces] = {}
        for complete in sums.complete([batch]):
            for index, row in zip(complete.indices, complete.counts.tolist(), strict=True):
                how = stepped.get(components[index].parameter)
                if how is not None and not row[_LOST]:
                    found = forces_of(row[:SUMS], how.used.eta, how.used.weight_decay)
                    if found is not None:
                        out[components[index].name] = found
        return out

    def _components(self) -> Sequence[Component]:
        return [c for c in self._reader.discovery.components if c.trainable]

    def _row(self, component: Component, owners: Mapping[int, tuple[Mapping[str, Any], Any]]) -> Tensor | str | None:
        """The sums over the elements of a component that this rank counts, shape (SUMS,), on the device.

        Or the reason why it has none; or None if it counts no element of it.
        """
        local = self._reader.weights
        weights = local.pieces(component)
        if isinstance(weights, str):
            return weights
        if not weights:
            return None
        held = local.held[component.parameter]
        if id(held.optimized) not in owners:
            return "no tracked optimizer holds it in the form in which it is stored"
        state = adam_state(held.optimized, *owners[id(held.optimized)])
        if not isinstance(state, AdamState):
            return state
        means, squares = local.pieces(component, state.mean), local.pieces(component, state.square)
        if isinstance(means, str) or isinstance(squares, str):
            return f"the optimizer's state cannot be read: {means if isinstance(means, str) else squares}"
        after = sums_after(weights, means, squares, state)  # (3,)
        before = self._norms.get(component.name, after.new_full((), torch.nan))
        return torch.cat([after, before.to(after).reshape(1)])
