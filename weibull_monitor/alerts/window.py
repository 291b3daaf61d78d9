"""The last samples of a run as arrays: what every rule reads, live and replayed alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from weibull_monitor.alerts.component_arrays import ComponentArrays
from weibull_monitor.alerts.statistics import Bools, Floats, quiet
from weibull_monitor.history.snapshot import NO_SCALING, Snapshot
from weibull_monitor.model.components import Component

READ: Final = (
    *("k", "lambda", "r2", "k_se", "rms", "zeros", "nonfinite"),
    *("eta", "weight_decay", "eta_sum", "update_max"),
)
"""The recorded columns that rules read."""
DERIVED: Final = ("work", "budget", "decay")
"""What follows from them: of the interval before a sample its `work`, and I and S of the scaling law (`scaling.py`)."""
_NO_FIT: Final = (math.nan,) * 7
CAPACITY: Final = 32
"""Samples that are kept. 2,000 components take 14 MB."""
WARMING: Final = 2.0
"""Movement is taken to grow with η up to twice the highest η before, as in a warm-up, and not beyond."""


class Sample(Protocol):
    """A sample: a `Snapshot`, or one that was read from a history."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""

    @property
    def components(self) -> tuple[Component, ...]:
        """What was measured."""


class SampleWindow:
    """The last samples, a column of arrays for every column of the history, NaN where there is no value.

    Args:
        attention: Kinds of attention of the model, as the history's ``run`` line has them.

    Attributes:
        facts: What is known of the components.
        baseline: The columns of the sample at step 0, each of shape (components,); NaN if there was none.
        peak: Highest η of each component at the samples before the last one, shape (components,); 0 before the first. It follows
            a jump by a factor of two a sample.
        settled: Whether η of each component has ever been past its warm-up before the last sample, shape (components,).
        samples: Samples taken so far, those that are no longer kept included.
        reset: Number of components whose optimizer's state was reset in mid-run, at the last two samples.
        memo: What several rules make of the latest sample alike; emptied at the next.
        kept: What rules make of the components and the baseline; emptied when these change.
    """

    def __init__(self, attention: Iterable[Mapping[str, Any]] = ()) -> None:
        self._attention = tuple(attention)
        self._buffer: dict[str, Floats] = {}
        self._steps: list[int] = []
        self._end = 0
        self._components: tuple[Component, ...] = ()
        self.facts = ComponentArrays.of(())
        self.baseline: dict[str, Floats] = {}
        self.peak: Floats = np.zeros(0)
        self.settled: Bools = np.zeros(0, dtype=bool)
        self.samples = 0
        self.reset = (0, 0)
        self.memo: dict[Any, Any] = {}
        self.kept: dict[Any, Any] = {}
        self._adopt(())

    def push(self, sample: Sample) -> None:
        """Takes in one more sample; components that come or go are matched by name."""
        if sample.components is not self._components and sample.components != self._components:
            self._adopt(sample.components)
        self._components = sample.components
        self.reset = (self.reset[1], int(getattr(sample, "withheld", {}).get("optimizer_reset", 0)))
        self.memo.clear()
        columns = columns_of(sample)
        if self._end == 2 * CAPACITY:
            for values in self._buffer.values():
                values[:CAPACITY] = values[CAPACITY:]
            self._end = CAPACITY
        for name in READ:
            self._buffer[name][self._end] = columns[name]
        self._steps = [*self._steps[1 - CAPACITY :], sample.step]
        self.samples += 1
        self._end += 1
        self._derive()
        if sample.step == 0:
            self.baseline = {name: self.now(name).copy() for name in READ}
            self.kept.clear()

    def __getitem__(self, column: str) -> Floats:
        """A column of the last samples, the latest last: a view of shape (samples, components)."""
        values: Floats = self._buffer[column][self._end - len(self._steps) : self._end]
        return values

    def now(self, column: str) -> Floats:
        """A column of the latest sample, shape (components,)."""
        values: Floats = self._buffer[column][self._end - 1]
        return values

    def before(self, column: str) -> Floats:
        """A column of the sample before the latest; NaN if there was none."""
        if len(self._steps) < 2:
            return np.full(len(self.facts), np.nan)
        values: Floats = self._buffer[column][self._end - 2]
        return values

    @property
    def steps(self) -> Sequence[int]:
        """Optimizer steps of the samples that are kept."""
        return self._steps

    @property
    def step(self) -> int:
        """Optimizer step of the latest sample."""
        return self._steps[-1]

    @property
    def moving(self) -> Bools:
        """Components that ought to move: η is above 0, and the run's, by the median, a tenth of its peak or more."""
        with quiet():
            eta = self.now("eta")
            share = eta / np.maximum(self.peak, eta)
            known = share[self.facts.trainable & np.isfinite(share)]
            at_work = bool(len(known)) and float(np.median(known)) >= 0.1
            return np.asarray(self.facts.trainable & (eta > 0) & at_work, dtype=bool)

    @property
    def warm(self) -> Bools:
        """Components past the warm-up: η is no longer above all that came before; shape (components,)."""
        with quiet():
            settled = np.nan_to_num(self.now("eta"), nan=0.0) <= 1.001 * self.peak
        return np.asarray((settled | self.settled) & (self.samples > 4), dtype=bool)

    @property
    def sprung(self) -> Bools:
        """Components whose η is past the warm-up and now above twice all that came before; shape (components,)."""
        with quiet():
            return np.asarray(self.settled & (self.now("eta") > WARMING * self.peak), dtype=bool)

    def _derive(self) -> None:
        """Fills the derived columns of the latest sample, and moves the peak on to the sample before."""
        path = self.now("eta_sum")
        known = len(self._steps) > 1
        steps = float(self._steps[-1] - self._steps[-2]) if known else 0.0
        last = self._end - 2
        with quiet():
            if known:
                reached = np.nan_to_num(self._buffer["eta"][last], nan=0.0)
                most = np.where(self.peak > 0, WARMING * self.peak, np.inf)
                self.settled = self.settled | ((reached <= 1.001 * self.peak) & (reached > 0) & (self.samples > 5))
                self.peak = np.maximum(self.peak, np.minimum(reached, most))
            passed = (
                path - np.nan_to_num(self._buffer["eta_sum"][last], nan=0.0)
                if known
                else np.full(len(self.facts), np.nan)
            )
            passed = np.where(passed > 0, passed, np.nan)
            mean = passed / steps if steps else passed
            allowed = np.where(self.peak > 0, np.minimum(1.0, WARMING * self.peak / mean), 1.0)
            work = np.where(np.isfinite(passed), passed * allowed, steps)
            spent = np.nan_to_num(mean * np.nan_to_num(self.now("weight_decay"), nan=0.0) * steps)
            fed = np.nan_to_num(2.0 * mean * mean * steps)
            budget, decay = (
                np.nan_to_num(self._buffer[name][last]) if known else np.zeros(len(self.facts))
                for name in ("budget", "decay")
            )
            self._buffer["work"][self._end - 1] = work
            self._buffer["budget"][self._end - 1] = budget * np.exp(-2.0 * spent) + fed
            self._buffer["decay"][self._end - 1] = decay + spent

    def _adopt(self, components: tuple[Component, ...]) -> None:
        """Makes room for these components, and carries over what is known of them."""
        before = {c.name: i for i, c in enumerate(self._components)}
        kept = [(before[c.name], i) for i, c in enumerate(components) if c.name in before]
        source, target = [a for a, _ in kept], [b for _, b in kept]

        def carried(old: Floats | None, shape: tuple[int, ...], fill: float) -> Floats:
            new = np.full(shape, fill)
            if old is not None and kept:
                new[..., target] = old[..., source]
            return new

        size = len(components)
        self._buffer = {
            name: carried(self._buffer.get(name), (2 * CAPACITY, size), np.nan) for name in (*READ, *DERIVED)
        }
        self.baseline = {name: carried(self.baseline.get(name), (size,), np.nan) for name in READ}
        self.peak = carried(self.peak, (size,), 0.0)
        self.settled = carried(self.settled.astype(float), (size,), 0.0) > 0
        self._components = components
        self.facts = ComponentArrays.of(components, self._attention)
        self.kept.clear()


def columns_of(sample: Any) -> dict[str, Floats]:
    """The columns of a sample, rounded as the history rounds them, so that live and replayed values are the same.

    Args:
        sample: A `Snapshot`, or a sample read from a history.
    """
    if isinstance(sample, Snapshot):
        return _columns_of_snapshot(sample)
    return {
        name: rounded(np.array([math.nan if v is None else v for v in sample.columns[name]], dtype=float))
        for name in READ
    }


def _columns_of_snapshot(snapshot: Snapshot) -> dict[str, Floats]:
    rows = []
    for component in snapshot.components:
        fit = snapshot.fits.get(component.name)
        s = snapshot.scaling.get(component.name, NO_SCALING)
        measured = (
            (fit.k, fit.lambda_, fit.r2, fit.k_se, fit.rms, fit.zeros, fit.nonfinite) if fit is not None else _NO_FIT
        )
        rows.append((*measured, s.eta, s.weight_decay, s.eta_sum, s.update_max))
    values = np.array(rows, dtype=float).reshape(len(rows), len(READ)).T  # None becomes NaN
    return dict(zip(READ, rounded(np.where(np.isfinite(values), values, np.nan)), strict=True))


def rounded(values: Floats) -> Floats:
    """Nine significant digits, as the history has them; what is rounded already stays as it is.

    >>> rounded(np.array([0.0123456789012, 0.0, np.nan])).tolist()
    [0.0123456789, 0.0, nan]
    """
    with quiet():
        exponent = 8 - np.floor(np.log10(np.abs(values)))
        scale = np.power(10.0, np.clip(exponent, -290, 290))
        result = np.round(values * scale) / scale
    return np.where(np.isfinite(result), result, values)
