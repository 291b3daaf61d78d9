"""The last samples of a run as arrays: the input of every rule, live and in a replay."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from weibull_monitor.alerts.common_movement import OF_ALL, common_movement
from weibull_monitor.alerts.component_arrays import ComponentArrays
from weibull_monitor.alerts.place import Place, Withheld
from weibull_monitor.alerts.samples import READ, Sample, values_of
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, or_zero, quiet, rates_of
from weibull_monitor.model.components import AttentionPair, Component, attention_pairs

Made = TypeVar("Made")
DERIVED: Final = ("work", "budget", "decay", "speed")
"""Columns computed from those of `READ`: the `work` of the interval before a sample, I and S of the scaling law at the sample,
and the speed in the interval before it: the root of the growth of RMS² beyond weight decay, over what steps of size η in random
directions make of it. It is 0 in the first steps, and for what has shrunk."""
SHAPES: Final = ("log lambda", "log rms", "k", "r2")
"""Columns whose movements are kept, one after the other, for `SampleWindow.furthest`."""
SCALES: Final = ("lambda", "rms")
"""Columns that move together where the scale of a matrix does."""
CAPACITY: Final = 32
"""Number of samples kept. 2,000 components take 14 MB."""
MAX_ETA_GROWTH: Final = 2.0
"""η may double from sample to sample, as in a warm-up. Above twice the highest η before, it excuses no larger movement. Where
samples are denser for a while, it may double in the time between the others, so that a jump is not forgotten sooner."""
EARLY: Final = 64
"""Up to this step, samples are denser than later anyway."""
JUMP: Final = 1.5
"""After the warm-up, a mean η of an interval this many times as high as everything before is a jump."""
FIRST_STEPS: Final = 10
"""The first steps of Adam all go one way, those of RMSprop are ten times as large: they say nothing of later ones."""
LATER: Final = 3
"""Intervals after the first steps from which on these no longer count for how far a matrix has moved."""
MIN_SPEED: Final = 0.1
"""Below this `speed`, most matrices stand still."""
LATELY: Final = 8
"""Intervals before a movement that say how a matrix moves at present."""
SETTLED_TOLERANCE: Final = 1.001
"""The warm-up is over when η is no longer above its peak by more than rounding."""
MIN_MOVING_SHARE: Final = 0.1
"""Below this share of the peak η (median over matrices), matrices may stand still."""


class SampleWindow:
    """The last samples, one array per column of the history; NaN where there is no value.

    Args:
        attention: The model's types of attention, as in the history's ``run`` line.
        initial: The standard deviation that the model's configuration initialises matrices with, if known.
        ahead: For how many samples there is room beside those kept: so many can be taken in before `at` goes back to the first.

    Attributes:
        components: The properties of the components.
        pairs: Which W_q meets which W_k.
        baseline: The columns of the sample at step 0, each of shape (components,); NaN if there was none.
        loaded: The columns of the first sample of the run, at step 0 or at its resumption, each of shape (components,).
        loaded_at: The step of that sample.
        peak: Highest η of each component before the latest sample, shape (components,); 0 before the first. A jump raises it
            by a factor of two per sample at most, and less where samples are denser than before.
        settled: Whether the warm-up of each component's η ended before the latest sample, shape (components,).
        plateau: η of each component when its warm-up ended, shape (components,); NaN before.
        steps: Optimizer steps of the samples kept, the latest last.
        samples: Number of samples so far, including those no longer kept.
        reset: Number of components whose optimizer state was reset during the run, at the last two samples.
        speed: Median of the column ``speed`` over attention and feed-forward matrices. NaN if unknown.
        fastest: The highest `speed` before; 0 before there was any.
        moving_intervals: Number of intervals that `fastest` is from.
        withheld: What the optimizers say of how they step, at the latest sample.
        memo: Results about the latest sample that several rules share; emptied at the next sample.
        kept: Results about the components and the baseline; emptied when these change.
    """

    def __init__(
        self, attention: Iterable[Mapping[str, Any]] = (), initial: float | None = None, ahead: int = CAPACITY
    ) -> None:
        self._attention, self.initial, self._room = tuple(attention), initial, CAPACITY + ahead
        self._buffer: dict[str, Any] = {}
        self._levels: Floats | None = None
        self.steps: list[int] = []
        self._end = self.samples = self.loaded_at = 0
        self._components: tuple[Component, ...] = ()
        self.components = ComponentArrays.of(())
        self.pairs: tuple[AttentionPair, ...] = ()
        self.baseline: dict[str, Floats] = {}
        self.loaded: dict[str, Floats] = {}
        self.peak: Floats = np.zeros(0)
        self.settled: Bools = np.zeros(0, dtype=bool)
        self.plateau: Floats = np.zeros(0)
        self.reset = (0, 0)
        self.speed: Any = math.nan
        self.fastest: Any = 0.0
        self.moving_intervals: Any = 0
        self.withheld = Withheld()
        self.memo: dict[Any, Any] = {}
        self.kept: dict[Any, Any] = {}
        self._adopt(())

    @property
    def known(self) -> tuple[Component, ...]:
        """The components of the latest sample."""
        return self._components

    def push(self, sample: Sample) -> None:
        """Takes in one more sample. Components that come or go are matched by name."""
        if sample.components is not self._components and sample.components != self._components:
            self._adopt(sample.components)
        self._components = sample.components
        self.reset = (self.reset[1], sample.withheld.get("optimizer_reset", 0))
        self.withheld = Withheld.of(sample.withheld, len(sample.components))
        self.memo.clear()
        values = values_of(sample)  # (columns, components)
        if self._end == self._room:
            self.move_down()
        for name, row in zip(READ, values, strict=True):
            self._buffer[name][self._end] = row
        self.steps = [*self.steps[1 - CAPACITY :], sample.step]
        self.samples += 1
        self._end += 1
        self._derive()
        if sample.step == 0:
            self.baseline = {name: self.now(name).copy() for name in READ}
        if sample.step == 0 or self.samples == 1:
            self.loaded, self.loaded_at = {name: self.now(name).copy() for name in READ}, sample.step
            self.kept.clear()

    def move_down(self) -> None:
        """Moves the last samples to the start of the buffer, which has more room, so that they are always one slice."""
        first = max(0, self._end - CAPACITY)
        for column in self._buffer.values():
            column[: self._end - first] = column[first : self._end].copy()
        self._end -= first

    def place(self) -> Place:
        """Where the window stands: after its latest sample."""
        past = self._end, self.steps, self.samples, self.reset, self.peak, self.settled, self.plateau
        return Place(*past, self.speed, self.fastest, self.moving_intervals, self.withheld)

    def go_to(self, place: Place) -> None:
        """Goes back or forward to where the window stood, among samples that were taken in since `move_down`."""
        self._end, self.steps, self.samples, self.reset, self.peak, self.settled, self.plateau = place[:7]
        self.speed, self.fastest, self.moving_intervals, self.withheld = place[7:]
        self.memo.clear()

    def slices(self, places: Sequence[Place]) -> dict[str, Floats]:
        """The columns of the last samples at several places in a row: views, each (samples, places, components)."""
        first = places[0].end - CAPACITY
        return {
            name: np.moveaxis(sliding_window_view(values[first : places[-1].end], CAPACITY, axis=0), -1, 0)
            for name, values in self._buffer.items()
        }

    def __getitem__(self, column: str) -> Floats:
        """A column of the last samples, the latest last: a view, shape (samples, components)."""
        values: Floats = self._buffer[column][self._end - len(self.steps) : self._end]
        return values

    def now(self, column: str) -> Floats:
        """A column of the latest sample, shape (components,)."""
        values: Floats = self._buffer[column][self._end - 1]
        return values

    def before(self, column: str) -> Floats:
        """A column of the sample before the latest, shape (components,); NaN if there was none."""
        if len(self.steps) < 2:
            return np.full(len(self.components), np.nan)
        values: Floats = self._buffer[column][self._end - 2]
        return values

    def log_change(self, column: str) -> Floats:
        """ln of the factor by which a column changed since the sample before, shape (components,)."""
        return self.once(f"log change of {column}", lambda: np.log(self.now(column) / self.before(column)))

    def furthest(self, column: str, end: int = -1) -> Floats:
        """The largest |movement| of a column of `SHAPES` between the samples kept before the latest one, shape (components,).

        Each is brought to the length of the last interval by the square root of `work`, if that is longer, as steps in random
        directions go further. Intervals without a step do not count, nor do the first steps where there are enough later ones.
        With an ``end`` of -2, the same as it was at the sample before.
        """
        if ("furthest", end) not in self.memo:
            kept = self["moved"][:end]  # (intervals, 2, columns, components)
            if np.any(self.steps[0] <= FIRST_STEPS):
                late = np.array(self.steps)[:end].reshape(kept.shape[: kept.ndim - 3]) > FIRST_STEPS  # (intervals,)
                late |= late.sum(axis=0) < LATER
                kept = np.where(late[..., None, None, None], kept, 0.0)
            with quiet():
                most = np.maximum.reduce(kept, axis=0) if len(kept) else np.zeros(self["moved"].shape[1:])
                root = np.sqrt(self["work"][end])[..., None, :]
                self.memo["furthest", end] = np.maximum(most[..., 0, :, :], most[..., 1, :, :] * root)
        found: Floats = self.memo["furthest", end][..., SHAPES.index(column), :]
        return found

    def lately(self, column: str, until: int = -1) -> Floats:
        """As `furthest`, of the `LATELY` intervals before the one that ends with sample ``until``, shape (components,)."""
        kept = self["moved"][:until][-LATELY:][..., SHAPES.index(column), :]  # (intervals, 2, components)
        raw, by_root = (kept[..., way, :].max(axis=0, initial=0.0) for way in (0, 1))
        most: Floats = np.maximum(raw, by_root * np.sqrt(self["work"][until]))
        return most

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What several rules ask about the latest sample, made once."""
        return _made(self.memo, name, make)

    def always(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What follows from the components and the baseline, made once while these stay."""
        return _made(self.kept, name, make)

    @property
    def path(self) -> Floats:
        """Largest Σ η that the last interval can have had, shape (components,); NaN where no step is known.

        A script that steps its scheduler before the monitor shows, at each step, the η of the next one. The sum of an interval
        is then too low by η before it less η after it: all between is only moved by one step.
        """
        return self.once("path", self._path)

    def _path(self) -> Floats:
        seen = self.now("eta_sum") - or_zero(self.before("eta_sum"))
        late = or_zero(np.fmax(self.before("eta") - self.now("eta"), 0.0))
        return np.where(seen >= 0, np.where(seen + late > 0, seen + late, np.nan), np.nan)

    @property
    def moving(self) -> Bools:
        """Components that should move, shape (components,): η is above 0, and the run is not at the end of its schedule.

        The end of the schedule is where η, by the median over matrices, is below a tenth of its peak.
        """
        return self.once("moving", self._moving)

    def _moving(self) -> Bools:
        eta = self.now("eta")
        share = eta / np.maximum(self.peak, eta)
        known = np.where(self.components.trainable & np.isfinite(share), share, np.nan)
        at_work = median_along(known) >= MIN_MOVING_SHARE  # (1,)
        return self.components.trainable & (eta > 0) & at_work

    @property
    def warm(self) -> Bools:
        """Components past the warm-up, where η is no longer above all earlier values; shape (components,).

        Where no η was ever known, it may last as long as the samples get further apart, up to step `EARLY`.
        """
        return self.once("warm", self._warm)

    def _warm(self) -> Bools:
        eta = or_zero(self.now("eta"))
        late = np.asarray(self.steps[-1]) > EARLY
        settled = (eta <= SETTLED_TOLERANCE * self.peak) & ((eta > 0.0) | (self.peak > 0.0) | late)
        return (settled | self.settled) & (self.samples > 4)

    @property
    def jumped(self) -> Bools:
        """Components past the warm-up whose η is now above twice all earlier values; shape (components,).

        Or was, between the last two samples: the mean η of that interval is above `JUMP` times everything before.
        """
        return self.once("jumped", self._jumped)

    def _jumped(self) -> Bools:
        rates = rates_of(self["eta_sum"], self.steps)  # (intervals, components)
        eta = self["eta"]  # (samples, components)
        jumped: Bools = eta[-1] > MAX_ETA_GROWTH * self.peak
        if len(eta) > 2:  # a jump may come at the end of an interval, so that only the next one shows what it does
            late = np.minimum(eta[-1], eta[-2]) > MAX_ETA_GROWTH * np.fmax.reduce(eta[:-2], axis=0)
            jumped = jumped | (eta[-1] > self.peak) & late
        if len(rates) > 1:
            jumped = jumped | (rates[-1] > JUMP * np.fmax(np.fmax.reduce(rates[:-1], axis=0), self.peak))
        found: Bools = self.settled & jumped & (self.withheld.own_rate == 0)
        return found

    def _derive(self) -> None:
        """Fills the derived columns of the latest sample, and raises the peak to the sample before. All arrays (components,)."""
        now, last = self._end - 1, self._end - 2
        size = len(self.components)
        buffer, path = self._buffer, self.now("eta_sum")
        known = len(self.steps) > 1
        steps = float(self.steps[-1] - self.steps[-2]) if known else 0.0
        passed = np.full(size, np.nan)  # Σ η over the interval
        budget, decay = np.zeros(size), np.zeros(size)
        with quiet():
            if known:
                eta = or_zero(buffer["eta"][last])
                most = np.where(self.peak > 0, MAX_ETA_GROWTH ** self._share() * self.peak, np.inf)
                self.settled = self.settled | (eta <= SETTLED_TOLERANCE * self.peak) & (eta > 0) & (self.samples > 5)
                self.peak = np.maximum(self.peak, np.minimum(eta, most))
                self.plateau = np.where(self.settled & np.isnan(self.plateau), self.peak, self.plateau)
                passed = path - or_zero(buffer["eta_sum"][last])
                budget, decay = or_zero(buffer["budget"][last]), or_zero(buffer["decay"][last])
            passed = np.where(passed > 0, passed, np.nan)
            mean = passed / steps if steps else passed
            # Work: how far the interval can have moved a matrix. It is Σ η, with η capped at twice its peak, so that a wrong
            # rate does not explain its own effects (D-Adaptation: as it is); the number of steps where η is not known.
            most = np.where(self.withheld.own_rate > 0, np.inf, MAX_ETA_GROWTH * self.peak)
            allowed = np.where(self.peak > 0, np.minimum(1.0, most / mean), 1.0)
            # After intervals of known η, those steps count as much as the last ones did, so that all are in one unit.
            length = self.steps[-2] - self.steps[-3] if len(self.steps) > 2 else 0
            rate = buffer["work"][last] / length if length else np.nan
            per_step = np.where(np.isnan(path) & (rate > 0.0), rate, 1.0)
            buffer["work"][now] = np.where(np.isfinite(passed), passed * allowed, steps * per_step)
            # S and I of the scaling law as `weibull_monitor.scaling.budget` has them, with the mean η of the interval.
            spent = or_zero(mean * or_zero(self.now("weight_decay")) * steps)
            buffer["budget"][now] = budget * np.exp(-2.0 * spent) + or_zero(2.0 * mean * mean * steps)
            buffer["decay"][now] = decay + spent
            self._note_movement(known, steps, spent)

    def _share(self) -> float:
        """Length of the interval before the last one, as a share of the longest up to then."""
        lengths = [b - a for a, b in pairwise(self.steps[:-1])]
        return lengths[-1] / max(lengths) if lengths and self.steps[-2] > EARLY else 1.0

    def _note_movement(self, known: bool, steps: float, spent: Floats) -> None:
        """Keeps how far the columns `SHAPES` have moved, as it is and over the root of the work, and the model's speed."""
        now, last, work = self._end - 1, self._end - 2, self.now("work")
        levels = np.stack(
            [*np.log([self.now("lambda"), self.now("rms")]), self.now("k"), self.now("r2")]
        )  # (columns, components)
        moved = np.abs(levels - self._levels)
        counts = np.isfinite(moved)
        if known:
            counts &= self.now("eta_sum") != self._buffer["eta_sum"][last]
        moved = np.where(counts, moved, 0.0)
        self._buffer["moved"][now] = moved, np.where(work > 0, moved / np.sqrt(work), 0.0)
        stepped = counts[0] & np.isfinite(self.now("eta"))
        self._buffer["together"][now] = common_movement(self.components, stepped, moved, work)
        self._levels = levels
        if not known:
            return
        if self.speed >= MIN_SPEED:
            self.fastest, self.moving_intervals = max(self.fastest, self.speed), self.moving_intervals + 1
        grown = self.now("rms") ** 2 - (self._buffer["rms"][last] * np.exp(-spent)) ** 2
        late = steps > 0 and self.steps[-1] > FIRST_STEPS
        speed = np.sqrt(np.fmax(or_zero(grown / (work**2 / steps)), 0.0)) if late else np.zeros(len(work))
        self._buffer["speed"][now] = speed
        body = speed[self.components.body & self.components.trainable]
        self.speed = float(median_along(body)[0]) if len(body) else math.nan

    def _adopt(self, components: tuple[Component, ...]) -> None:
        """Makes room for these components, and keeps the values of those that were there before."""
        before = {c.name: i for i, c in enumerate(self._components)}
        target = [i for i, c in enumerate(components) if c.name in before]
        source = [before[components[i].name] for i in target]

        def carried(old: Floats | None, shape: tuple[int, ...], fill: float) -> Floats:
            new = np.full(shape, fill)  # (..., components)
            if old is not None and target:
                new[..., target] = old[..., source]
            return new

        size = len(components)
        moved, levels = self._buffer.get("moved"), self._levels
        self._buffer = {name: carried(self._buffer.get(name), (self._room, size), np.nan) for name in (*READ, *DERIVED)}
        self.baseline = {name: carried(self.baseline.get(name), (size,), np.nan) for name in READ}
        self.loaded = {name: carried(self.loaded.get(name), (size,), np.nan) for name in READ}
        self._buffer["moved"] = carried(moved, (self._room, 2, len(SHAPES), size), 0.0).astype(np.float32)
        self._buffer["together"] = np.full((self._room, OF_ALL), np.nan)
        self._levels = carried(levels, (len(SHAPES), size), np.nan)
        self.peak = carried(self.peak, (size,), 0.0)
        self.settled = carried(self.settled.astype(float), (size,), 0.0) > 0
        self.plateau = carried(self.plateau, (size,), np.nan)
        self._components = components
        self.components = ComponentArrays.of(components, self._attention)
        self.pairs = attention_pairs(components, self._attention)
        self.kept.clear()


def _made(known: dict[Any, Any], name: Hashable, make: Callable[[], Made]) -> Made:
    if name not in known:
        with quiet():
            known[name] = make()
    made: Made = known[name]
    return made
