"""Says what is worth a look in one checkpoint, in sentences, from the fits alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from weibull_monitor.analysis.classify import ONE_POPULATION
from weibull_monitor.errors import counted
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component

DEAD_RATIO: Final = 0.01
"""An expert is dead if its RMS is below this share of the median RMS of the experts beside it."""
_NOT_BODY: Final = ("embedding", "lm_head", "other", "adapter", "adapter_a", "adapter_b")
MAX_NAMED: Final = 3


@dataclass(frozen=True)
class CheckpointFinding:
    """Something worth a look.

    Attributes:
        rule: The rule that found it: ``nonfinite``, ``zero``, ``copied``, ``faint_expert``, ``no_single_shape``.
        severity: ``error`` if the weights cannot be intended, else ``warning``.
        names: The components.
        text: What was found, and what it means, in a sentence.
    """

    rule: str
    severity: Literal["error", "warning"]
    names: tuple[str, ...]
    text: str


def findings_of(components: Sequence[Component], fits: Mapping[str, WeibullFit]) -> tuple[CheckpointFinding, ...]:
    """The findings, the most serious first.

    Args:
        components: The components that were measured.
        fits: The fit of each, by name.
    """
    stored = [c for c in components if c.part is None and c.name in fits]
    parts = [c for c in components if c.expert is not None and c.name in fits]
    found = [*_nonfinite(stored, fits), *_zero(stored, fits), *_copied(stored, fits)]
    return (*found, *_experts(parts, fits), *_shapeless(components, fits))


def _nonfinite(stored: Sequence[Component], fits: Mapping[str, WeibullFit]) -> Iterator[CheckpointFinding]:
    if names := tuple(c.name for c in stored if fits[c.name].nonfinite):
        total = sum(fits[name].nonfinite for name in names)
        text = f"{counted(total, 'value is', 'values are')} Inf or NaN, in {_listed(names)}: the model's outputs will be NaN"
        yield CheckpointFinding("nonfinite", "error", names, text)


def _zero(stored: Sequence[Component], fits: Mapping[str, WeibullFit]) -> Iterator[CheckpointFinding]:
    dead = (c for c in stored if fits[c.name].n == 0 and fits[c.name].zeros and not c.kind.startswith("adapter"))
    if names := tuple(c.name for c in dead):
        text = f"{_listed(names)} {_are(names)} all zero: not trained, not saved, or meant to add nothing at the start"
        yield CheckpointFinding("zero", "warning", names, text)


def _copied(stored: Sequence[Component], fits: Mapping[str, WeibullFit]) -> Iterator[CheckpointFinding]:
    """Matrices with equal counts. Two trained matrices of a thousand values or more never have them."""
    groups: dict[tuple[object, ...], list[Component]] = defaultdict(list)
    for c in stored:
        fit = fits[c.name]
        if fit.available and fit.n >= 1000:
            groups[fit.checksum, fit.n, c.shape, c.kind, c.dtype].append(c)
    pairs: dict[tuple[str, tuple[int | None, ...]], list[Component]] = defaultdict(list)
    for members in groups.values():
        if len(members) < 2:
            continue
        blocks = tuple(c.block for c in members)
        if None not in blocks and len(set(blocks)) == len(blocks):
            pairs[members[0].tower, blocks].append(members[0])
        else:
            names = [c.name for c in members]
            text = f"{_listed(names)} have the same values: one was copied from another"
            yield CheckpointFinding("copied", "warning", tuple(names), text)
    for (tower, blocks), kinds in pairs.items():
        where = f" of {tower}" if tower else ""
        words = ", ".join(dict.fromkeys(c.label for c in kinds))
        numbers = ", ".join(str(block) for block in blocks[:8]) + ", …" * (len(blocks) > 8)
        text = f"blocks {numbers}{where} have the same values in {words}: one was copied from another, or saved twice"
        yield CheckpointFinding("copied", "warning", tuple(c.name for c in kinds), text)


def _experts(parts: Sequence[Component], fits: Mapping[str, WeibullFit]) -> Iterator[CheckpointFinding]:
    beside: dict[tuple[object, ...], list[Component]] = defaultdict(list)
    for c in parts:
        beside[c.tower, c.block, c.label, c.shape].append(c)
    faint: list[str] = []
    for members in beside.values():
        usual = median(fits[c.name].rms for c in members)
        faint += [c.name for c in members if len(members) > 2 and fits[c.name].rms < DEAD_RATIO * usual]
    if faint:
        text = f"{_listed(faint)} {_are(faint)} below 1 % of the RMS of the other experts: dead, or never trained"
        yield CheckpointFinding("faint_expert", "warning", tuple(faint), text)


def _shapeless(components: Sequence[Component], fits: Mapping[str, WeibullFit]) -> Iterator[CheckpointFinding]:
    measured = [c for c in components if c.name in fits and c.kind not in _NOT_BODY]
    low = [c.name for c in measured if fits[c.name].available and fits[c.name].r2 < ONE_POPULATION]
    if names := tuple(sorted(low, key=lambda name: fits[name].r2)):
        text = (
            f"{_listed(names)} {_are(names)} not described by one shape (R² below {ONE_POPULATION}, lowest "
            f"{fits[names[0]].r2:.3f}): two populations of weights, such as a pruned part or a few far larger rows"
        )
        yield CheckpointFinding("no_single_shape", "warning", names, text)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
