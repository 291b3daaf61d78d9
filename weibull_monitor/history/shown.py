"""A sample, or two of one run, as one row for each kind: for `repr` and notebooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Protocol

from weibull_monitor.errors import counted
from weibull_monitor.measure.shown import table
from weibull_monitor.model.components import Component, representatives


class AtStep(Protocol):
    """Something about the components at one step."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""

    @property
    def components(self) -> tuple[Component, ...]:
        """What was measured."""


class Sampled(AtStep, Protocol):
    """A sample: a `Snapshot` or a `RecordedSnapshot`."""

    def values(self, column: str) -> dict[str, float]:
        """A column, by the name of the component."""


def in_words(sample: AtStep) -> str:
    """The class, the step and the number of matrices."""
    return f"{type(sample).__name__}(step {sample.step:,}, {counted(len(sample.components), 'matrix', 'matrices')})"


def kinds_html(title: str, samples: Sequence[Sampled]) -> str:
    """k and λ of each kind, the median over its matrices, in each of the samples.

    Args:
        title: The title of the table.
        samples: One sample, or the first and the last of a run.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for component in representatives(samples[-1].components):
        names[component.label].append(component.name)
    at = [f" at step {sample.step:,}" for sample in samples] if len(samples) > 1 else [""]
    values = [sample.values(column) for column in ("k", "lambda") for sample in samples]
    head = ["kind", "matrices", *("k" + when for when in at), *("λ" + when for when in at)]
    rows = [[kind, len(of), *(_median(column, of) for column in values)] for kind, of in names.items()]
    return table(title, head, rows)


def _median(column: dict[str, float], names: Sequence[str]) -> str:
    found = [column[name] for name in names if name in column]
    return f"{median(found):.4g}" if found else "–"
