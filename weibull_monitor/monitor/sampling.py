"""What a sample consists of: it is queued right after an optimizer step, and finished when its numbers have arrived."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import nn

from weibull_monitor.errors import Guard
from weibull_monitor.history import RunRecord
from weibull_monitor.history.metrics import groups_of
from weibull_monitor.history.snapshot import Expected, Reference, Scaling, Snapshot
from weibull_monitor.history.values import aligned
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.bins import MANTISSA_BITS
from weibull_monitor.measure.plain.solve import MIN_VALUES
from weibull_monitor.measure.reader.reader import ModelReader, PendingMeasurement
from weibull_monitor.model.architecture import facts_of
from weibull_monitor.model.components import AttentionPair, Component, attention_pairs, by_reason, moved
from weibull_monitor.model.components.kept import Kept, names_of
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.monitor.deltas import DeltaReader, PendingDeltas
from weibull_monitor.monitor.options import MonitorOptions

if TYPE_CHECKING:
    from weibull_monitor.scaling.budget import StepInfo
    from weibull_monitor.scaling.force_reader import ForceReader, PendingForces
    from weibull_monitor.scaling.law import Outlook, ScalingLaw
    from weibull_monitor.scaling.tracking import BudgetTracker
    from weibull_monitor.scaling.update_reader import PendingUpdates, UpdateReader
    from weibull_monitor.scaling.write_watch import PendingWrites, WriteWatch

EARLY: Final = re.compile("finite values are zero|lies in [0-9]+ bins")
"""Why a matrix that begins at zero or at one constant has no fit: before its first step, and after it, when all values are near
±η."""

ZERO: Final = re.compile("finite values are zero")
"""Why a matrix that no step has moved away from zero has no fit."""

MOVED_BY: Final = 10
"""Steps after which a matrix that begins at zero is warned about if it is still zero."""


@dataclass(frozen=True)
class QueuedSample:
    """A sample whose numbers may still be on their way from an accelerator.

    Attributes:
        step: Number of optimizer steps taken.
        time: Unix time in seconds.
        components: The measured components.
        pending: The measurement of the weights.
        stepped: How each parameter of this process was stepped.
        outlook: The future learning rates, as planned at this step.
        forces: The sums for the forces; None without forces.
        updates: The fits of the updates; None without updates.
        deltas: What adapters add to weights; None without adapters.
        writes: What was written to weights between steps; None if that could not be watched.
        expected: The changes that were announced, by component.
        seconds: Time spent on queueing, in seconds.
    """

    step: int
    time: float
    components: tuple[Component, ...]
    pending: PendingMeasurement
    stepped: dict[str, StepInfo]
    outlook: Outlook
    forces: PendingForces | None
    updates: PendingUpdates | None
    deltas: PendingDeltas | None
    writes: PendingWrites | None
    expected: Mapping[str, Expected]
    seconds: float


def optional_readers(
    given: MonitorOptions,
    reader: ModelReader,
    budgets: BudgetTracker,
    ranks: Ranks | None,
    guard: Guard,
    step: Callable[[], int],
) -> tuple[ForceReader | None, UpdateReader | None, WriteWatch | None]:
    """What reads for ``forces``, ``updates`` and ``writes``; None for what is not asked for."""
    forces = updates = writes = None
    if given.forces:
        from weibull_monitor.scaling.force_reader import ForceReader

        forces = ForceReader(reader, budgets, ranks)
    if given.updates:
        from weibull_monitor.scaling.update_reader import UpdateReader

        updates = UpdateReader(reader, budgets, ranks)
    if given.writes:
        from weibull_monitor.scaling.write_watch import WriteWatch

        writes = WriteWatch(reader, budgets, ranks, guard, step)
    return forces, updates, writes


def _small(fit: WeibullFit | None) -> bool:
    """Whether a matrix has too few values for a fit, such as a class token of 64, and none of them is Inf or NaN."""
    return fit is not None and not fit.nonfinite and fit.n + fit.zeros < MIN_VALUES


@Kept
def _adapters_of(components: tuple[Component, ...]) -> frozenset[str]:
    return frozenset(c.name for c in components if c.kind.startswith("adapter"))


class Sampler:
    """Takes samples of a model: the fits of its weights, and the values of the scaling law that belong to them.

    Args:
        model: The model.
        reader: Reads its weights.
        budgets: Follows its optimizers.
        law: Computes the values of the scaling law.
        forces: Reads the forces; None for no forces.
        updates: Reads the updates; None for no updates.
        writes: Watches what is written to weights between steps; None for no watch.
        ranks: The processes that measure together; None for this one alone.
        guard: Reports problems once.

    Attributes:
        name: Name of the model among several in one run; None if it has none.
        expected: After how many steps a change of each parameter was announced, by name. Whoever takes samples
            empties it.
    """

    name: str | None = None
    expected: Mapping[str, int]

    def __init__(
        self,
        model: nn.Module,
        reader: ModelReader,
        budgets: BudgetTracker,
        law: ScalingLaw,
        forces: ForceReader | None,
        updates: UpdateReader | None,
        writes: WriteWatch | None,
        ranks: Ranks | None,
        guard: Guard,
    ) -> None:
        self._reader, self._budgets, self._law = reader, budgets, law
        self._forces, self._updates, self._writes, self._ranks, self._guard = forces, updates, writes, ranks, guard
        self._facts_of_model = guard("reading the configuration", facts_of, model) or {"class": type(model).__name__}
        self._deltas = DeltaReader(model)
        self.expected = {}
        self._begun: set[str] = set()  # matrices that have had a fit
        self._first: int | None = None  # step of the first sample of this process
        self._paired: tuple[tuple[Component, ...], tuple[AttentionPair, ...]] | None = None

    def queue(self, step: int, aside: bool = False) -> QueuedSample:
        """Reads everything that belongs to the step just taken. Work on an accelerator is queued and not waited for.

        Args:
            step: Number of optimizer steps taken.
            aside: Whether the sample is taken beside the schedule and not logged. The writes that it reports are then reported by
                the next sample, too.
        """
        from weibull_monitor.scaling.wire import pack

        started = time.perf_counter()
        # A failure here must not keep this rank from the sum in `read`, where the other ranks wait.
        stepped = self._guard("reading the optimizer's parameter groups", self._stepped) or {}
        forces = None
        if self._forces is not None and step > 0:
            forces = self._forces.collect()
            self._report(self._forces.reasons, "have no forces")
        notes = self._guard("packing what was stepped", pack, stepped) if self._ranks is not None else None
        pending = self._reader.read(step, notes)
        updates = None
        if self._updates is not None and step > 0:
            updates = self._guard("reading the updates", self._updates.collect)
            self._report(self._updates.reasons, "have an update that cannot be read")
        writes = None
        if self._writes is not None:
            writes = self._guard("reading what was written to weights", self._writes.collect, aside)
        self.watch_writes()
        components = self._reader.discovery.components
        deltas = None
        if self._ranks is None or self._ranks.is_main:
            deltas = self._guard("reading what adapters add", self._deltas.collect, components)
            self._report(self._deltas.reasons, "have no ΔW")
        if self._reader.moved:
            self._guard.once(moved(self._reader.moved), key="frozen matrices moved")
        return QueuedSample(
            step=step,
            time=time.time(),
            components=components,
            pending=pending,
            stepped=stepped,
            outlook=self._law.look(step, stepped),
            forces=forces,
            updates=updates,
            deltas=deltas,
            writes=writes,
            expected=self._expected(components),
            seconds=time.perf_counter() - started,
        )

    def _expected(self, components: tuple[Component, ...]) -> dict[str, Expected]:
        """The changes that were announced, by component."""
        after = self.expected
        return {c.name: Expected(after[c.parameter]) for c in components if c.parameter in after} if after else {}

    def finish(self, queued: QueuedSample, baseline: Mapping[str, Reference], last: Snapshot | None) -> Snapshot | None:
        """Waits for the numbers of a sample and returns it. Samples must be finished in the order they were queued.

        Args:
            queued: The sample.
            baseline: k and λ of each component at step 0.
            last: The last logged sample.

        Returns:
            The sample; None on other processes than the main one.
        """
        from weibull_monitor.scaling.wire import unpack

        started = time.perf_counter()
        measured = queued.pending.measurement()
        self._report_problems(queued.step, measured.problems, queued.components, measured.fits)
        if self._ranks is not None and not self._ranks.is_main:
            return None
        step, components, fits = queued.step, queued.components, measured.fits
        stepped = unpack(measured.notes) | queued.stepped
        scaling = self._law.at(step, components, fits, baseline, stepped, queued.outlook)
        return Snapshot(
            step=step,
            time=queued.time,
            components=components,
            fits=fits,
            scaling=scaling,
            baseline=baseline,
            forces=self._forces.forces(queued.forces, stepped) if self._forces and queued.forces else {},
            updates=self._updates.updates(queued.updates, fits, stepped) if self._updates and queued.updates else {},
            deltas=self._deltas.deltas(queued.deltas, fits) if queued.deltas else {},
            writes=self._writes.writes(queued.writes) if self._writes and queued.writes else {},
            expected=queued.expected,
            unchanged=None if last is None or last.step == step else self.count_unchanged(fits, scaling, last),
            seconds=queued.seconds + time.perf_counter() - started,
            name=self.name,
            model=self._facts(),
            pairs=self._pairs_of(components),
        )

    def _pairs_of(self, components: tuple[Component, ...]) -> tuple[AttentionPair, ...]:
        """Which W_q meets which W_k; found once for the same components."""
        if self._paired is None or self._paired[0] is not components:
            found = self._guard("pairing queries and keys", attention_pairs, components, self._reader.table.attention)
            self._paired = components, found or ()
        return self._paired[1]

    def count_unchanged(self, fits: Mapping[str, WeibullFit], scaling: Mapping[str, Scaling], last: Snapshot) -> int:
        """Number of trainable components with η > 0 that were stepped since the sample ``last`` and have not changed."""
        components = self._reader.discovery.components
        names, trained = names_of(components), ~groups_of(components).still
        now, before = (aligned(held, "checksum", names) for held in (fits, last.fits))
        spent, spent_before = (aligned(held, "eta_sum", names) for held in (scaling, last.scaling))
        stepped = (aligned(scaling, "eta", names) > 0.0) & (np.isnan(spent) | (spent != spent_before))
        return int((trained & stepped & (now == before)).sum())

    def watch_writes(self) -> None:
        """Watches from now on what is written to weights between steps, if it is not watched yet."""
        if self._writes is not None:
            self._guard("watching weights between steps", self._writes.follow)

    def close(self) -> None:
        """Takes the hooks off the optimizers."""
        if self._writes is not None:
            self._writes.close()

    def attention(self) -> list[dict[str, Any]]:
        """The kinds of attention in the model, as JSON can hold them."""
        return [asdict(kind) for kind in self._reader.table.attention]

    def initial(self) -> float | None:
        """The standard deviation that the model's configuration initialises matrices with, if it says."""
        sigma: float | None = self._facts_of_model.get("initializer_range")
        return sigma

    def run_record(self, components: tuple[Component, ...], resumed_from: int | None) -> RunRecord:
        """Describes the run for the history.

        Args:
            components: The components of the samples that follow.
            resumed_from: Step that the run was resumed from, or at which its components changed; None for a new run.
        """
        discovery = self._reader.discovery
        return RunRecord(
            started=round(time.time(), 3),
            resumed_from=resumed_from,
            model=self._facts() | (self._guard("describing adapters", self._adapters, components) or {}),
            world_size=self._ranks.size if self._ranks else 1,
            protocol={
                "fit": "middle-80 % probability plot from bit-pattern counts",
                "bins_per_octave": 2**MANTISSA_BITS,
            },
            optimizers=self._guard("describing the optimizers", self._budgets.describe) or (),
            total_steps=self._law.total_steps,
            attention=self.attention(),
            components=components,
            skipped={skipped.name: skipped.reason for skipped in discovery.skipped},
            name=self.name,
        )

    def _adapters(self, components: Sequence[Component]) -> dict[str, Any]:
        found = self._deltas.record(components)
        return {"adapters": found} if found else {}

    def _facts(self) -> dict[str, Any]:
        return {**self._facts_of_model, "parameters": self._reader.discovery.elements}

    def _stepped(self) -> dict[str, StepInfo]:
        return self._budgets.by_parameter(self._reader.optimized())

    def _report_problems(
        self, step: int, problems: Mapping[str, str], components: tuple[Component, ...], fits: Mapping[str, WeibullFit]
    ) -> None:
        """Warns of matrices without a fit.

        What a model is made with needs no warning: too few values, and a start at zero or at one constant (scales, output
        projections, the B of LoRA). A matrix that is not an adapter and still zero after `MOVED_BY` steps is warned about.
        """
        adapters = _adapters_of(components)
        self._first = step if self._first is None else self._first
        self._begun |= fits.keys() - problems.keys()
        small = {n: why for n, why in problems.items() if _small(fits.get(n))}
        young = {
            n: why
            for n, why in problems.items()
            if n not in small
            and n not in self._begun
            and EARLY.search(why)
            and (n in adapters or step < self._first + MOVED_BY or not ZERO.search(why))
        }
        self._report({n: why for n, why in problems.items() if n not in young and n not in small}, "have no fit")
        self._report(small, "have no fit", logging.INFO)
        self._report(young, "have no fit yet", logging.INFO)

    def _report(self, problems: Mapping[str, str], what: str, level: int = logging.WARNING) -> None:
        for key, message in by_reason(problems, what).items():
            self._guard.once(message, key=f"{level} {what} {key}", level=level)
