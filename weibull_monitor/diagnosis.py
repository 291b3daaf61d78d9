"""A whole model or run, diagnosed: per kind and per matrix, where it stands relative to its start and to the published models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal, cast

from torch import nn

from weibull_monitor.attribution import SigmaGrowth, attribute_sigma
from weibull_monitor.components import Component, attention_types, discover
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.reader import ModelReader
from weibull_monitor.reference import (
    Classification,
    Nearest,
    Reading,
    classify,
    initialisation_of,
    nearest,
    training_state,
)
from weibull_monitor.reference.classify import TrainingState
from weibull_monitor.reference.reading import KindMedian, KnownAttention, Recorded, Run, Source, reading, reading_at
from weibull_monitor.snapshot import Snapshot
from weibull_monitor.weibull import anchors

Verdict = Literal["as initialised", "as published", "near published", "not as published", "nothing published"]
SHALLOW: Final = (5, 0.70)
"""Feed-forward k below the second in blocks up to the first occur in published Qwen models of 3 B and above."""
FAR: Final = 5.0
"""A matrix this many robust standard deviations of its kind away from its kind's median is listed."""
APART: Final = 0.05
"""… if it is also further away than this."""


@dataclass(frozen=True)
class KindDiagnosis:
    """One kind of the main tower.

    Attributes:
        median: Its medians over the blocks.
        result: What the median k says; the drift is the median over the matrices.
        verdict: That in words. ``as initialised`` goes before all others: no drift, so nothing to compare with trained models.
        growth: Growth of σ since the baseline, over the kind's matrices; None without a baseline.
    """

    median: KindMedian
    result: Classification
    verdict: Verdict
    growth: SigmaGrowth | None = None


@dataclass(frozen=True)
class OddMatrix:
    """A matrix that one k does not describe, or whose k lies far from those of its kind.

    Attributes:
        name: Its name.
        kind: Its kind.
        block: Index of its block.
        k: Shape.
        r2: R² of the fit.
        why: What is odd about it.
        fit: Its whole fit, with heaviness that needs no model (`q90_q10`, `p999_p50`, `gini`); None from a history.
    """

    name: str
    kind: str
    block: int | None
    k: float
    r2: float
    why: str
    fit: WeibullFit | None = None


@dataclass(frozen=True)
class Diagnosis:
    """A whole model, diagnosed.

    Attributes:
        reading: What was diagnosed, its attention and clock.
        kinds: By kind, in the model's order.
        matrices: What each single shape says, by component name: heads, parts, experts and all towers included.
        odd: Matrices to look at, the worst first.
        training: How far training has come, by T/τ; None if that is not known.
        nearest: The published models by distance.
        notes: What to bear in mind, of the comparison and of this diagnosis.
    """

    reading: Reading
    kinds: tuple[KindDiagnosis, ...]
    matrices: Mapping[str, Classification]
    odd: tuple[OddMatrix, ...]
    training: TrainingState | None
    nearest: Nearest
    notes: tuple[str, ...]


def diagnose(source: nn.Module | Source, attention: KnownAttention = None, step: int | None = None) -> Diagnosis:
    """Diagnoses a model, a sample or a run.

    Args:
        source: A model, whose weights are read now; a `Snapshot` or `RecordedSnapshot`; or a history, which also knows the
            baseline, the attention and the learning rates.
        attention: What `weibull_monitor.components.attention_types` says of the model; only needed for a sample on its own.
        step: Of a history, the step whose sample is meant; the last by default.

    Raises:
        ConfigurationError: If there is nothing to diagnose: no samples, no sample of that step, no matrix with a fit.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> result = diagnose(torch.nn.TransformerEncoderLayer(256, 4, 1024))  # PyTorch's initialisation: uniform
    >>> {kind.median.kind: (kind.verdict, kind.result.against) for kind in result.kinds}["ffn_in"]
    ('as initialised', 'uniform')
    """
    fits: Mapping[str, WeibullFit] = {}
    if isinstance(source, nn.Module):
        source, attention = _measure(source, attention)
    if isinstance(source, Snapshot):
        fits = source.fits
    run = cast(Run, source) if hasattr(source, "snapshots") else None
    if step is not None and run is None:
        raise ConfigurationError("a step can be chosen of a history only; pass what read_history returns")
    sample = reading_at(run, step, attention) if run else reading(cast(Source, source), attention)
    if not sample.k:
        raise ConfigurationError("no matrix has a fit: there is nothing to diagnose")
    start = run.snapshots[0] if run and sample.baseline else None
    neighbours = nearest(sample)
    return Diagnosis(
        reading=sample,
        kinds=tuple(_kind(kind, sample, start) for kind in sample.medians()),
        matrices={c.name: _matrix(c, sample) for c in sample.components if c.name in sample.k},
        odd=_odd(sample, fits),
        training=training_state(sample.t_over_tau) if sample.t_over_tau else None,
        nearest=neighbours,
        notes=(*neighbours.notes, *_notes(sample)),
    )


def _measure(model: nn.Module, attention: KnownAttention) -> tuple[Snapshot, KnownAttention]:
    reader = ModelReader(model, discover)
    fits, _ = reader.read()
    components = reader.discovery.components
    known = attention if attention is not None else attention_types(model, components)
    return Snapshot(step=0, time=0.0, components=components, fits=fits), known


def _matrix(component: Component, sample: Reading) -> Classification:
    name = component.name
    return classify(
        sample.k[name],
        component.label,
        sample.attention,
        r2=sample.r2[name],
        k_se=sample.k_se.get(name),
        baseline=sample.baseline.get(name),
    )


def _kind(kind: KindMedian, sample: Reading, start: Recorded | None) -> KindDiagnosis:
    drifts = [sample.k[name] / sample.baseline[name] - 1.0 for name in kind.names if name in sample.baseline]
    baseline = kind.k / (1.0 + median(drifts)) if drifts else None
    r2 = median(sample.r2[name] for name in kind.names)
    result = classify(kind.k, kind.kind, sample.attention, r2=r2, k_se=kind.se, baseline=baseline)
    return KindDiagnosis(kind, result, _verdict(result), _growth(kind, sample, start))


def _verdict(result: Classification) -> Verdict:
    if result.severity == "none":
        return "as initialised"
    if result.position is None:
        return "nothing published"
    if result.position == "inside":
        return "as published"
    return "near published" if result.position.startswith("just") else "not as published"


def _growth(kind: KindMedian, sample: Reading, start: Recorded | None) -> SigmaGrowth | None:
    if start is None:
        return None
    scales = start.values("lambda")
    both = [name for name in kind.names if name in scales and name in sample.baseline]
    if not both:
        return None
    k = [[sample.baseline[name] for name in both], [sample.k[name] for name in both]]
    return attribute_sigma(k, [[scales[name] for name in both], [sample.lambda_[name] for name in both]])


def _odd(sample: Reading, fits: Mapping[str, WeibullFit]) -> tuple[OddMatrix, ...]:
    by_kind: dict[str, list[Component]] = {}
    for component in sample.comparable:
        by_kind.setdefault(component.label, []).append(component)
    found = []
    for members in by_kind.values():
        centre = median(sample.k[c.name] for c in members)
        scale = 1.4826 * median(abs(sample.k[c.name] - centre) for c in members)
        for component in members:
            name = component.name
            apart, noise = abs(sample.k[name] - centre), sample.k_se.get(name, 0.0)
            if why := _why_odd(component, sample, apart > max(APART, FAR * max(scale, noise)), centre):
                k, r2 = sample.k[name], sample.r2[name]
                found.append(OddMatrix(name, component.label, component.block, k, r2, why, fits.get(name)))
    return tuple(sorted(found, key=lambda odd: odd.k))


def _why_odd(component: Component, sample: Reading, far: bool, centre: float) -> str:
    k, r2, what = sample.k[component.name], sample.r2[component.name], []
    if r2 < 0.95:
        what.append(f"R² {r2:.3f}: not one population")
    if far:
        what.append(f"k far from the kind's median {centre:.3f}")
    shallow = component.block is not None and component.block <= SHALLOW[0] and k <= SHALLOW[1]
    if what and shallow and component.kind.startswith("ffn_"):
        what.append("published Qwen models of 3 B and above have such blocks among the first six")
    return "; ".join(what)


def _notes(sample: Reading) -> list[str]:
    notes = []
    starts = [sample.baseline[c.name] for c in sample.comparable if c.name in sample.baseline]
    if starts:
        shape = median(starts)
        likely = anchors()[initialisation_of(shape)].k
        if abs(shape / likely - 1.0) > max(0.01, 3.0 * 1.2533 * 1.132 / math.sqrt(_elements(sample))):
            notes.append(
                f"the baseline (median k {shape:.3f}) is no known initialisation: the model had been trained before, and drift is "
                "since this run began"
            )
    elif sample.baseline == {}:
        notes.append(
            "there is no baseline: drift is against the anchor of the initialisation that each kind's k looks like"
        )
    return notes


def _elements(sample: Reading) -> int:
    return max(1, sum(c.numel for c in sample.comparable))


def kinds_by_class(kinds: Sequence[KindDiagnosis]) -> dict[str, list[KindDiagnosis]]:
    """Kinds grouped by class, in the order of classes."""
    order = ("selection", "transmission", "mixed", "none")
    return {name: found for name in order if (found := [k for k in kinds if k.median.component_class == name])}
