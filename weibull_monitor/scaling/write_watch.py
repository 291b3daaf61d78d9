"""How far steps move weights, and what is written to weights between two steps: by loading, resetting, merging, averaging.

A few elements of each matrix are read before and after each step of an optimizer. The difference across a step is what the step
did; the difference from the end of one step to the beginning of the next is what something else did. Nothing is waited for: the
differences are summed up where the weights are, and sent to the host with the next sample.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weibull_monitor.errors import Guard
from weibull_monitor.history.snapshot import Writes
from weibull_monitor.measure.kernels.table import ELEMENTS
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import Sums
from weibull_monitor.measure.rows import Numbers, Rows
from weibull_monitor.measure.transfer import PendingResult, to_host
from weibull_monitor.model.components import Component
from weibull_monitor.model.components.kept import names_of
from weibull_monitor.model.sharding import Grid, Ranks
from weibull_monitor.scaling.elements import LOCAL, PACKED, ElementRows, Spec, here, rows_of, some_of
from weibull_monitor.scaling.tracking import BudgetTracker
from weibull_monitor.scaling.versions import VersionWatch

PIECES: Final = 8
"""Of how many pieces of one matrix elements are compared, at most: a head, or every third row, may lie in several."""
MOST: Final = 4096
"""A model of more pieces than this is not watched: each of them takes time at each step."""


@dataclass(frozen=True)
class PendingWrites:
    """What was written since the sample before, which may still be on its way from a device.

    Attributes:
        components: The components.
        makes_up: The wholes that each part makes up, by its place.
        sums: `PACKED` sums of each component, from each device.
        raised: Before how many steps the version of each component's parameter was raised, and that of what its optimizer keeps
            of it; and the steps taken before that was last so, (3, components).
    """

    components: tuple[Component, ...]
    makes_up: Mapping[int, Sequence[int]]
    sums: Sequence[PendingResult]
    raised: Numbers


class WriteRows(Rows[Writes]):
    """What was written to matrices, by name.

    Args:
        names: The names of all matrices.
        columns: The attributes of `Writes`, float64 (matrices,) each; NaN where there is none.
    """

    def __init__(self, names: tuple[str, ...], columns: Mapping[str, Numbers]) -> None:
        super().__init__(names, ~np.isnan(columns["times"]))
        self.columns = columns

    def column(self, path: str) -> Numbers:
        """An attribute of each, float64 (matrices,); NaN where there is none."""
        return self.columns[path]

    def _make(self, row: int) -> Writes:
        values: Any = {n: None if math.isnan(of[row]) else float(of[row]) for n, of in self.columns.items()}
        return Writes(**values)


@dataclass
class _Part:
    """What one optimizer steps.

    Attributes:
        groups: Elements of its components.
        versions: Those of its parameters.
        components: The components that it steps, by their place.
        of: The place of each one's parameter in `versions`.
        inside: Whether a step is under way.
    """

    groups: list[ElementRows]
    versions: VersionWatch
    components: npt.NDArray[np.intp]
    of: npt.NDArray[np.intp]
    inside: bool = False

    def compare(self, step: int, before: bool) -> None:
        """Compares everything with what it was after the last step: before the next one, or for a sample."""
        if self.inside and not before:
            return
        if not self.inside:
            self.versions.compare(step)
        for group in self.groups:
            if before:
                group.before(step)
            else:
                group.compare(step)
                group.let_go()
        self.inside = before

    def after(self) -> None:
        """Compares everything with what it was before the step."""
        for group in self.groups:
            group.after()
        self.versions.note()
        self.inside = False


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


class WriteWatch:
    """Follows what is written to the weights of a model, by hooks on its optimizers.

    Watched are ordinary parameters and DTensors (FSDP2, tensor parallel), each shard on its rank; not what FSDP1 has flattened
    or ZeRO-3 has partitioned. And steps of a ``torch.optim.Optimizer``. What runs under ``torch.compile``, or is captured in a
    CUDA graph, is not seen.

    Args:
        reader: Reads the model. It has to have read it once.
        budgets: Follows its optimizers.
        ranks: The processes that measure together; None for this one alone.
        guard: Reports problems once.
        step: Returns the number of optimizer steps taken.
    """

    def __init__(
        self,
        reader: ModelReader,
        budgets: BudgetTracker,
        ranks: Ranks | None,
        guard: Guard,
        step: Callable[[], int],
    ) -> None:
        self._reader, self._budgets, self._ranks, self._guard, self._step = reader, budgets, ranks, guard, step
        self._optimizers: tuple[Any, ...] = ()
        self._handles: list[Any] = []
        self._components: tuple[Component, ...] = ()
        self._makes_up: Mapping[int, Sequence[int]] = {}
        self._held: list[Tensor] = []
        self._owners: list[int] = []
        self._parts: dict[int, _Part] = {}  # by the optimizer's place
        self._ended = False  # whether the watch of some optimizer has ended, and begins anew at the next look
        weakref.finalize(self, _remove, self._handles)

    def follow(self) -> None:
        """Looks at the weights from now on, and follows the optimizers that there are now."""
        optimizers = self._budgets.optimizers
        if len(optimizers) != len(self._optimizers) or any(
            a is not b for a, b in zip(optimizers, self._optimizers, strict=True)
        ):
            self.close()
            self._optimizers = tuple(optimizers)
            for place, optimizer in enumerate(optimizers):
                if isinstance(optimizer, torch.optim.Optimizer):
                    self._handles.append(optimizer.register_step_pre_hook(_Hook(self, "before_step", place)))
                    self._handles.append(optimizer.register_step_post_hook(_Hook(self, "after_step", place)))
        self._look()

    def close(self) -> None:
        """Takes the hooks off."""
        _remove(self._handles)
        self._optimizers, self._parts, self._components = (), {}, ()

    def before_step(self, place: int) -> None:
        """Compares the weights that an optimizer steps, by its place, with those after its last step."""
        part = self._parts.get(place)
        if part is not None:
            try:
                with torch.no_grad():
                    part.compare(self._step(), before=True)
            except Exception as error:
                self._failed(place, error)

    def after_step(self, place: int) -> None:
        """Compares them with those before the step."""
        part = self._parts.get(place)
        if part is not None:
            try:
                with torch.no_grad():
                    part.after()
            except Exception as error:
                self._failed(place, error)

    def _failed(self, place: int, error: Exception) -> None:
        """Ends the watch of one optimizer up to the next sample: a parameter is elsewhere, or has another shape."""
        self._parts.pop(place, None)
        self._ended = True
        self._guard.once(
            f"what is written to weights between two steps is not watched up to the next sample ({error})",
            key="watching writes",
            level=logging.INFO,
        )

    @torch.no_grad()
    def collect(self, keep: bool = False) -> PendingWrites:
        """What was written since the last call. Every rank has to call it, even if another one failed.

        Args:
            keep: Whether to keep it for the next call, too.
        """
        components, makes_up = self._components, self._makes_up
        sums = self._guard("reading what was written to weights", self._summed, keep)
        if sums is None:  # half of it may be done: begin anew
            self._parts, self._ended, sums = {}, True, []
        if self._ranks is not None:
            total = torch.zeros(len(components), PACKED, dtype=torch.float32, device=self._ranks.device)
            for one in sums:
                total += one.to(total.device)
            sums = [self._ranks.sum_(total)]
        raised = np.zeros((3, len(components)))
        for part in self._parts.values():
            raised[:, part.components] = part.versions.raised[:, part.of]
            if not keep:
                part.versions.clear()
        return PendingWrites(components, makes_up, [to_host(one) for one in sums], raised)

    def _summed(self, keep: bool) -> list[Tensor]:
        """The sums of the components on each device, (components, PACKED), with what was written after the last step."""
        for part in self._parts.values():
            part.compare(self._step(), before=False)
        sums: list[Tensor] = []
        for group in (group for part in self._parts.values() for group in part.groups):
            out = next((one for one in sums if one.device == group.last.device), None)
            if out is None:
                out = torch.zeros(len(self._components), PACKED, dtype=torch.float32, device=group.last.device)
                sums.append(out)
            group.packed(out)
            if not keep:
                group.clear()
        return sums

    def writes(self, pending: PendingWrites) -> Mapping[str, Writes]:
        """What was written to each component, by name; waits for the sums if they have not arrived."""
        total = np.zeros((len(pending.components), PACKED))
        for one in pending.sums:
            total += one.numbers()
        raised, of_state, raised_after = pending.raised
        for place, parents in pending.makes_up.items():
            for parent in parents:
                total[parent] += total[place]
        weight, squares, times, after, moved, steps = total.T
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = {
                "times": np.where(weight > 0, np.maximum(times / weight, raised), np.nan),
                "rms": np.sqrt(squares / weight),
                "after": np.where(
                    squares > 0, np.rint(after / squares), np.where(raised + of_state > 0, raised_after, np.nan)
                ),
                "state_times": np.where(weight > 0, of_state, np.nan),
                "step_rms": np.sqrt(moved / steps),
            }
        return WriteRows(names_of(pending.components), columns)

    def _look(self) -> None:
        """Looks at the weights anew if they are others than before, or if the watch has ended."""
        components, weights = self._reader.discovery.components, self._reader.weights
        names = {c.parameter: None for c in components if c.parameter in weights.held}
        held = [weights.held[name].optimized for name in names]
        place_of = {id(o): n for n, o in enumerate(self._optimizers) if isinstance(o, torch.optim.Optimizer)}
        stepped = {p: place_of.get(id(optimizer), -1) for p, (_, optimizer) in self._budgets.owners().items()}
        owners = [stepped.get(id(p), -1) for p in held]
        same = components is self._components and owners == self._owners and all(map(is_, held, self._held))
        if same and not self._ended:
            for place, part in self._parts.items():
                part.versions.find_states(self._optimizers[place])
            return
        sums = Sums(components)
        self._components, self._makes_up, self._held, self._owners = components, sums.makes_up, held, owners
        self._ended = False
        at = {name: place for place, name in enumerate(names)}
        found: dict[int, dict[tuple[object, ...], tuple[list[int], list[Spec]]]] = {}
        for index in sums.read:
            place = owners[at[components[index].parameter]] if components[index].parameter in at else -1
            for spec in self._specs(components[index]) if place >= 0 else ():
                p, _, size, *_ = spec
                places, specs = found.setdefault(place, {}).setdefault((p.device, p.dtype, size), ([], []))
                places.append(index)
                specs.append(spec)
        self._parts = {}
        if sum(len(places) for groups in found.values() for places, _ in groups.values()) > MOST:
            return
        for place, groups in found.items():
            own = {id(p): n for n, p in enumerate(p for p, owner in zip(held, owners, strict=True) if owner == place)}
            of = [(i, own.get(id(held[at[c.parameter]]), -1)) for i, c in enumerate(components) if c.parameter in at]
            chosen = np.array([pair for pair in of if pair[1] >= 0], dtype=np.intp).reshape(-1, 2)
            versions = VersionWatch([p for p, owner in zip(held, owners, strict=True) if owner == place])
            versions.find_states(self._optimizers[place])
            rows = [rows_of(places, specs) for places, specs in groups.values()]
            self._parts[place] = _Part(rows, versions, chosen[:, 0], chosen[:, 1])

    def _specs(self, component: Component) -> Iterator[Spec]:
        """Where the elements of a component that are compared are; none of one that is not watched."""
        weights = self._reader.weights
        held = weights.held.get(component.parameter)
        if held is None or held.problem or not isinstance(held.layout, Grid):
            return
        if not weights.stays(component) and not hasattr(held.optimized, LOCAL):
            return
        pieces = weights.pieces(component)
        if isinstance(pieces, str) or not pieces:
            return
        p, chosen = held.optimized, pieces[:: math.ceil(len(pieces) / PIECES)]
        for piece in chosen:
            some = some_of(piece, ELEMENTS // len(chosen)).unsqueeze(0)
            local = here(p)
            yield (
                p,
                local.stride(),
                tuple(some.shape),
                some.stride(),
                int(some.storage_offset() - local.storage_offset()),
            )


class _Hook:
    """Calls a method of a watch around the steps of an optimizer, as long as there is the watch.

    It can be copied and pickled with an optimizer that pickles its hooks, and does nothing then.
    """

    def __init__(self, watch: WriteWatch | None, name: str, place: int) -> None:
        self._watch, self._name, self._place = weakref.ref(watch) if watch is not None else None, name, place

    def __call__(self, *_: object) -> None:
        if torch.compiler.is_compiling() or self._watch is None:
            return
        watch = self._watch()
        if watch is None or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):  # type: ignore[no-untyped-call]
            return
        getattr(watch, self._name)(self._place)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (None, self._name, self._place)
