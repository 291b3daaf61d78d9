"""The last updates of all matrices of a model: counted and fitted as the weights are, on one rank or on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor

from weibull_monitor.errors import text_of
from weibull_monitor.history.snapshot import Update
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_magnitudes, queued_on, solve
from weibull_monitor.measure.fit import delivered
from weibull_monitor.measure.grid import TALLIES
from weibull_monitor.measure.reader.local_weights import box_of
from weibull_monitor.measure.reader.packing import ABOVE, BELOW, MISSING, Bucket, buckets
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import ROWS_AT_ONCE, CountedRows, Sums
from weibull_monitor.measure.transfer import PendingResult, to_host
from weibull_monitor.model.components import Component
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.model.sharding.layout import Flat
from weibull_monitor.scaling.budget import StepInfo
from weibull_monitor.scaling.deepspeed import partition_of
from weibull_monitor.scaling.forces import CHUNK
from weibull_monitor.scaling.tracking import BudgetTracker
from weibull_monitor.scaling.updates import UpdateState, step_rms, update_state, with_corrections

AT_ONCE: Final = 1 << 21
"""Elements of updates that are made before they are counted together: 8 MiB, and as much for what they are made from."""
ON_DEVICE: Final = 4 * AT_ONCE
"""The same where work is queued and each launch costs the host time; made half as many at a time, so 64 MiB in all."""
_BINS: Final = bins_of(torch.float32)

Owners = Mapping[int, tuple[Mapping[str, Any], Any]]
"""The parameter group and the optimizer of each tensor, by its id."""


P = ParamSpec("P")
T = TypeVar("T")


def _failed(error: Exception) -> str:
    return f"counting it failed ({type(error).__name__}: {text_of(error)})"


def _says_why(function: Callable[P, T]) -> Callable[P, T | str]:
    """The same, but for a failure it returns why: a tensor's class, or that of its state, may refuse any operation."""

    @wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T | str:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            return _failed(error)

    return tried


@dataclass(frozen=True)
class PendingUpdates:
    """The fits of the updates of one step, which may still be on their way from a device.

    Attributes:
        components: The components.
        queued: The places of components, and their fits.
    """

    components: Sequence[Component]
    queued: Sequence[tuple[Sequence[int], PendingResult]]


class UpdateReader:
    """Fits the last update of every matrix: `collect` after a step, then `updates`.

    The state is read once, in chunks, where it lies; each rank reads the elements that it owns, and their counts are summed. One
    process does not wait for a device before `updates`.

    Args:
        reader: Reads the model.
        budgets: Follows its optimizers.
        ranks: The ranks that share the model; None for one process.

    Attributes:
        reasons: Why this rank could not read the update of some components, by name.
    """

    def __init__(self, reader: ModelReader, budgets: BudgetTracker, ranks: Ranks | None) -> None:
        self._reader, self._budgets = reader, budgets
        self._ranks = ranks
        self._whole: set[str] = set()  # components with values outside of the bins that are usually sent
        self._engines: dict[int, Any] = {}
        self._divided: dict[int, frozenset[int]] = {}
        self.reasons: dict[str, str] = {}

    def collect(self) -> PendingUpdates:
        """Counts the updates of the step just taken, and adds the counts of all ranks.

        To be called after the weights were read: then all ranks have agreed on the components. Every rank has to call it, even
        if another one failed.
        """
        components = [replace(c, dtype=torch.float32) for c in self._reader.discovery.components if c.trainable]
        sums, problems = Sums(components), dict[int, str]()
        rows = (
            self._rows(components, sums.read, problems)
            if self._ranks is None
            else self._summed(components, sums, problems)
        )
        complete = sums.complete(rows)
        try:
            queued = [(batch.indices, to_host(solve(batch.counts, batch.bins))) for batch in complete]
        finally:
            for _ in complete:  # after a failure too: the other ranks wait where the rest is summed
                pass
        self.reasons = {components[place].name: reason for place, reason in problems.items()}
        return PendingUpdates(components, queued)

    def updates(
        self, collected: PendingUpdates, fits: Mapping[str, WeibullFit], stepped: Mapping[str, StepInfo]
    ) -> dict[str, Update]:
        """The update of each component, by name; waits for the fits if they have not arrived.

        Args:
            collected: The result of `collect`.
            fits: The fits of the weights after the same step.
            stepped: What each parameter was stepped with.
        """
        out: dict[str, Update] = {}
        for place, fit in sorted(delivered(collected.queued).items()):
            component = collected.components[place]
            if not math.isfinite(fit.rms):
                continue
            weight, how = fits.get(component.name), stepped.get(component.parameter)
            ratio = None
            if weight is not None and weight.rms > 0 and how is not None:
                rms = step_rms(how.form, fit, how.scale)
                ratio = None if rms is None or math.isnan(how.used.eta) else rms * how.used.eta / weight.rms
            out[component.name] = Update(fit.k, fit.lambda_, fit.rms, ratio)
        return out

    def _summed(self, components: Sequence[Component], sums: Sums, problems: dict[int, str]) -> Iterator[CountedRows]:
        """The rows of all ranks together, as `weibull_monitor.measure.reader.distributed` adds up those of the weights.

        Only the main rank gets them, but every rank has to go through them.
        """
        assert self._ranks is not None
        due: Sequence[int] = sums.read
        while due:
            outside: list[int] = []
            for bucket in buckets(components, due, self._whole):
                packed, sent = self._ranks.sum_(self._packed(bucket, components, problems)), bucket.sent
                complete = []
                for row, (missing, below, above) in enumerate(packed[:, [MISSING, BELOW, ABOVE]].tolist()):
                    place = bucket.indices[row]
                    if missing:
                        why = f"it could not be read on {missing} of {self._ranks.size} ranks; their logs say why"
                        problems.setdefault(place, why)
                    elif below or above:
                        outside.append(place)
                    else:
                        complete.append(row)
                if self._ranks.is_main:
                    for start in range(0, len(complete), ROWS_AT_ONCE):
                        chosen = complete[start : start + ROWS_AT_ONCE]
                        yield CountedRows(
                            tuple(bucket.indices[row] for row in chosen), sent.unpack(packed[chosen]), _BINS
                        )
            # Every rank sees the same sums, so all of them send the same components again.
            self._whole.update(components[place].name for place in outside)
            due = outside

    def _packed(self, bucket: Bucket, components: Sequence[Component], problems: dict[int, str]) -> Tensor:
        """This rank's counts, (rows, width). Whatever goes wrong is noted in them, so that this rank can go on to the sum."""
        assert self._ranks is not None
        out = torch.zeros(len(bucket.indices), bucket.sent.width, dtype=bucket.dtype, device=self._ranks.device)
        row_of = {place: row for row, place in enumerate(bucket.indices)}
        unread: dict[int, str] = {}
        try:
            for batch in self._rows(components, bucket.indices, unread):
                no_tallies = torch.zeros(len(batch.indices), TALLIES, dtype=torch.int64, device=batch.counts.device)
                out[[row_of[place] for place in batch.indices]] = bucket.sent.pack(batch.counts, no_tallies).to(out)
        except Exception as error:  # whatever it is, the other ranks wait at the sum
            out.zero_()
            unread = dict.fromkeys(bucket.indices, _failed(error))
        out[[row_of[place] for place in unread], MISSING] = 1
        problems.update(unread)
        return out

    def _rows(
        self, components: Sequence[Component], places: Sequence[int], problems: dict[int, str]
    ) -> Iterator[CountedRows]:
        """The rows of the elements of some components that this rank counts.

        Their updates are made chunk by chunk, and counted together when there are `AT_ONCE` elements of them.

        Args:
            components: All components.
            places: Those to count.
            problems: Receives why others cannot be read.
        """
        owners, self._engines, self._divided = self._budgets.owners(), self._budgets.engines(), self._budgets.divided()
        for start in range(0, len(places), ROWS_AT_ONCE):
            kept = self._all_kept(components, places[start : start + ROWS_AT_ONCE], owners, problems)
            counts = _Counts()
            for place, (state, pieces) in kept.items():
                if problem := counts.read(place, state, pieces):
                    problems[place] = problem
            yield from counts.rows(problems)

    def _all_kept(
        self, components: Sequence[Component], places: Sequence[int], owners: Owners, problems: dict[int, str]
    ) -> dict[int, tuple[UpdateState, list[Sequence[Tensor]]]]:
        """What `_kept` finds of some components, by place."""
        out = {}
        for place in places:
            found = self._kept(components[place], owners)
            if isinstance(found, str):
                problems[place] = found
            elif found is not None:
                out[place] = found
        states = with_corrections([state for state, _ in out.values()])
        return {place: (state, pieces) for (place, (_, pieces)), state in zip(out.items(), states, strict=True)}

    @_says_why
    def _kept(self, component: Component, owners: Owners) -> tuple[UpdateState, list[Sequence[Tensor]]] | str | None:
        """What is kept of a component's update, and views of the elements of it that this rank counts, for each tensor.

        Or the reason why it cannot be read; or None if this rank counts no element of it.
        """
        local = self._reader.weights
        held = local.held.get(component.parameter)
        group, optimizer = owners.get(id(held.optimized), (None, None)) if held is not None else (None, None)
        engine = None if group is None else self._engines.get(id(optimizer))
        box = box_of(component)
        mine = self._divided.get(id(optimizer))
        if held is not None and group is not None and mine is not None:
            # The rank that steps it has the whole state, whoever counts the weights.
            if id(held.optimized) not in mine or held.problem:
                return None
            state = update_state(held.optimized, group, optimizer)
            if isinstance(state, str):
                return state
            return state, [held.layout.select(held.like(kept), box) for kept in state.kept]
        if held is not None and group is not None and engine is not None:
            # Each rank has the state of its own partition of the elements, whoever counts the weights.
            here = partition_of(engine, held.optimized)
            if here is None or isinstance(here, str):
                return here
            state = update_state(here.flat, group, optimizer)
            if isinstance(state, str):
                return state
            layout, number = Flat(held.shape, here.start, here.stop), here.stop - here.start
            return state, [layout.select(kept.flatten().narrow(0, here.at, number), box) for kept in state.kept]
        weights = local.pieces(component)
        if isinstance(weights, str):
            return weights
        if not weights:
            return None
        if held is None or group is None:
            return "no tracked optimizer holds it in the form in which it is stored"
        state = update_state(held.optimized, group, optimizer)
        if isinstance(state, str):
            return state
        pieces: list[Sequence[Tensor]] = []
        for kept in state.kept:
            views = local.pieces(component, kept)
            if isinstance(views, str):
                return f"the optimizer's state cannot be read: {views}"
            pieces.append(views)
        return state, pieces


class _Counts:
    """Rows of counts of some components, to which chunks are added: those of one component one after the other."""

    def __init__(self) -> None:
        self._rows: dict[torch.device, dict[int, Tensor]] = {}
        self._waiting: list[Tensor] = []
        self._places: list[int] = []
        self._elements = 0

    @_says_why
    @torch.no_grad()
    def read(self, place: int, state: UpdateState, pieces: Sequence[Sequence[Tensor]]) -> None:
        """Makes the update of the component with this place; its chunks are counted when there are enough of them."""
        queued = queued_on(state.kept[0].device)  # there, fewer and larger pieces of work
        for chunk in state.chunks(*pieces, size=ON_DEVICE // 2 if queued else CHUNK):
            if self._waiting and self._waiting[0].device != chunk.device:
                self._count()
            self._waiting.append(chunk)
            self._places.append(place)
            self._elements += chunk.numel()
            if self._elements >= (ON_DEVICE if queued else AT_ONCE):
                self._count()

    def rows(self, without: Container[int]) -> Iterator[CountedRows]:
        """The rows of all components, but of those ``without``."""
        self._count()
        for rows in self._rows.values():
            if chosen := [place for place in rows if place not in without]:
                yield CountedRows(tuple(chosen), torch.stack([rows[place] for place in chosen]), _BINS)

    def _count(self) -> None:
        if self._waiting:
            rows = self._rows.setdefault(self._waiting[0].device, {})
            here = {place: row for row, place in enumerate(dict.fromkeys(self._places))}
            found = count_magnitudes(self._waiting, _BINS, [here[place] for place in self._places])
            for place, row in here.items():
                rows[place] = rows[place] + found[row] if place in rows else found[row]
        self._waiting, self._places, self._elements = [], [], 0
