"""Reads a model: which of its matrices are due, and the fit of each, on one rank or on many together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from weibull_monitor.errors import say, text_of
from weibull_monitor.measure.choose import solve
from weibull_monitor.measure.fit import WeibullFit
from weibull_monitor.measure.fit_rows import FitRows
from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS
from weibull_monitor.measure.reader.counter import CountResult, LocalCounter, Notes
from weibull_monitor.measure.reader.distributed import DistributedCounter
from weibull_monitor.measure.reader.frozen import FrozenWatch
from weibull_monitor.measure.reader.inventory import Inventory, inventory_of
from weibull_monitor.measure.reader.local_weights import LocalWeights
from weibull_monitor.measure.rows import Numbers
from weibull_monitor.measure.transfer import PendingResult, to_host
from weibull_monitor.model.components import Component, Discovery
from weibull_monitor.model.components.finder import Finder
from weibull_monitor.model.components.kept import names_of
from weibull_monitor.model.dataflow import Inputs
from weibull_monitor.model.sharding import Ranks

Frozen = Literal["read", "once"]
ATTEMPTS = 3
"""How often the ranks try to agree on what to measure before they give up a sample."""


class PendingMeasurement:
    """A reading of a model whose numbers may still be on their way from a device.

    Args:
        queued: The places that the rows of each result belong to, and that result.
        finish: Makes the measurement of such places and their rows, float64 (places, RESULT_COLUMNS).
    """

    def __init__(
        self,
        queued: Sequence[tuple[Sequence[int], PendingResult]],
        finish: Callable[[Sequence[tuple[Sequence[int], Numbers]]], Measurement],
    ) -> None:
        self._queued, self._finish = queued, finish

    def ready(self) -> bool:
        """Whether `measurement` would not wait."""
        return all(result.ready() for _, result in self._queued)

    def measurement(self) -> Measurement:
        """What the reading gave, waiting for it if need be. To be called once, and in the order of the readings."""
        return self._finish([(places, result.numbers()) for places, result in self._queued])


@dataclass(frozen=True)
class Measurement:
    """What one reading of a model gave. Only the main rank has fits.

    Attributes:
        fits: The fit of each component that could be read, by name.
        problems: Why others could not be read or fitted, by name.
        notes: What the ranks noted about each parameter.
    """

    fits: Mapping[str, WeibullFit] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)


class ModelReader:
    """Fits the components of a model, again and again.

    Each element is counted by one rank; the counts are summed over the ranks, and the main rank makes the fits. Parameters that
    come, go or change their shape or dtype are noticed.

    Args:
        model: The model. Not modified.
        find: Finds the components of the model.
        ranks: The ranks that read the model together, all of which make a reader and call `read` at the same steps; None
            for one process alone.
        frozen: Whether parameters that need no gradient are read each time, or ``"once"``: then they are read again only when
            `FrozenWatch` sees that they have changed.

    Attributes:
        model: The model.
        table: What is measured, on all ranks together.
        weights: What this rank holds of it.
        different: Parameters whose values differ between ranks that have them whole: those of the lowest rank are read.
        is_main: Whether this rank has the fits.
        moved: Parameters that were to be read once, and were found to have changed on this rank.
    """

    def __init__(
        self,
        model: nn.Module,
        find: Callable[[nn.Module], Discovery],
        ranks: Ranks | None = None,
        frozen: Frozen = "read",
    ) -> None:
        self.model, self._find = model, find
        self._counter = LocalCounter() if ranks is None else DistributedCounter(ranks)
        self.weights = LocalWeights(model)
        self._watch = FrozenWatch() if frozen == "once" else None
        self._read_once: set[str] = set()
        self.moved: tuple[str, ...] = ()
        self._frozen: dict[str, Numbers] = {}  # the rows of those
        self.is_main = self._counter.is_main
        self.table = inventory_of(model, self.weights.held, find)
        self.different: tuple[str, ...] = ()

    @property
    def discovery(self) -> Discovery:
        """What is measured and what is not."""
        return self.table.discovery

    def agree(self) -> None:
        """Agrees with the other ranks on who counts what: to be called on all of them, before the first `read`."""
        self.table, agreement = self._counter.agree(self.table, self.weights)
        self.weights.settle(agreement)
        self._read_once = set()  # they may be other matrices now
        self.different = agreement.different

    def prepare(self) -> None:
        """Compiles the kernels that the first reading needs: seconds, unless they are in Triton's cache."""
        held = [self.weights.held[name] for name in self.table.parameters if name in self.weights.held]
        for device, dtype in sorted({(h.optimized.device, h.dtype) for h in held}, key=str):
            kernels_for(device, dtype)

    def read(self, step: int = 0, notes: Notes | None = None) -> PendingMeasurement:
        """Reads every matrix once. On an accelerator the work is queued; with many ranks this waits for their sums.

        Args:
            step: The optimizer step, which has to be the same on all ranks.
            notes: What this rank knows of its parameters, for the main rank.

        Raises:
            RuntimeError: If the ranks are not at the same step, or cannot agree on what there is to measure; while a CUDA graph
                is being captured, which would record the measurement instead of running it.
        """
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
            raise RuntimeError(
                "a CUDA graph is being captured: call step() outside of the capture, after each replay of the graph"
            )
        moved = self._moved()
        self.moved = (*self.moved, *(name for name in moved if name not in self.moved))
        for attempt in range(ATTEMPTS):
            due: Sequence[Component] = self.discovery.components
            if self._read_once:
                due = [c for c in due if c.trainable or c.name not in self._read_once]
            counted = self._counter.count(due, self.weights, step, notes or {}, bool(moved) and not attempt)
            if counted is not None:
                return self._reading(due, counted)
            self._find_anew()
        raise RuntimeError("the parameters of the model change while they are read")

    def relearn(self, find: Finder, module: nn.Module, inputs: Inputs) -> bool:
        """Finds the components again after a forward pass was followed; returns whether any of them is now another.

        Args:
            find: The finder of this reader.
            module: The model, or a module in it.
            inputs: The arguments of the module's ``forward``.
        """
        before = self.discovery.components
        if not find.learn(self.model, module, inputs):
            return False
        self._find_anew()
        return self.discovery.components != before

    def trainable(self) -> frozenset[str]:
        """Names of the components that are being trained."""
        return frozenset(c.name for c in self.discovery.components if c.trainable)

    def optimized(self) -> Mapping[str, Tensor]:
        """The tensor that an optimizer holds for each parameter that is here, by the parameter's name."""
        return self.weights.optimized()

    def _moved(self) -> list[str]:
        """Parameters that were read once, and have changed since then."""
        if self._watch is None:
            return []
        self.weights.refresh()
        return self._watch.moved(
            self.weights, dict.fromkeys(c.parameter for c in self.discovery.components if not c.trainable)
        )

    def _find_anew(self) -> None:
        try:
            self.table = inventory_of(self.model, self.weights.held, self._find)
        except Exception as error:
            if isinstance(self._counter, LocalCounter):
                raise
            # The other ranks wait for the agreement: this one takes part without matrices of its own.
            what = f"{type(error).__name__}: {text_of(error)}"
            say(logging.WARNING, f"weibull_monitor: this rank cannot list its matrices ({what})")
            self.table = Inventory(Discovery((), (), 0, 0), (), ())
        self.agree()

    def _reading(self, due: Sequence[Component], counted: CountResult) -> PendingMeasurement:
        queued = self._queued(counted)
        problems = {due[index].name: problem for index, problem in counted.problems.items()}
        spoiled = {due[index].parameter for index in counted.problems}
        once = [c.name for c in due if not c.trainable and c.parameter not in spoiled] if self._watch else []
        self._read_once.update(once)
        names, places = self._placed(due)

        def finish(arrived: Sequence[tuple[Sequence[int], Numbers]]) -> Measurement:
            if not self.is_main:
                return Measurement(problems=problems)
            numbers, here = np.full((RESULT_COLUMNS, len(names)), np.nan), np.zeros(len(names), dtype=bool)
            for indices, rows in arrived:
                at = places[list(indices)]
                numbers[:, at], here[at] = rows.T, True
            if self._watch is not None:
                place = {name: n for n, name in enumerate(names)}
                fresh = {name: numbers[:, place[name]] for name in once if here[place[name]]}
                self._frozen = {n: row for n, row in self._frozen.items() if n in self._read_once} | fresh
                for name, row in self._frozen.items():
                    if name in place and not here[place[name]]:
                        numbers[:, place[name]], here[place[name]] = row, True
            fits = FitRows(names, numbers, here)
            for n in places[~fits.available[places]].tolist():
                if not here[n]:
                    problems.setdefault(names[n], "some of its parts could not be read")
                else:
                    problems[names[n]] = fits[names[n]].reason
            return Measurement(fits, problems, counted.notes)

        return PendingMeasurement(queued, finish)

    def _placed(self, due: Sequence[Component]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
        """The names of all components, and the places of those that are due among them."""
        components = self.discovery.components
        names = names_of(components)
        if len(due) == len(names):
            return names, np.arange(len(names))
        place = {name: n for n, name in enumerate(names)}
        return names, np.array([place[c.name] for c in due], dtype=np.int64)

    def _queued(self, counted: CountResult) -> list[tuple[Sequence[int], PendingResult]]:
        """The results of what was counted and of what was solved already, on their way to the host."""
        rows = iter(counted.rows)
        try:
            queued = [(batch.indices, to_host(solve(batch.counts, batch.bins, batch.offsets))) for batch in rows]
        finally:
            for _ in rows:  # after a failure too: the other ranks wait where the rest is summed
                pass
        return [*queued, *((indices, to_host(result)) for indices, result in counted.solved)]
