"""A whole model or run, diagnosed: per kind and per matrix, where it stands relative to its start and to the published models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal, cast

from torch import nn

from weibull_monitor.analysis import (
    Classification,
    ComparedSample,
    Nearest,
    classify,
    expected_range,
    initialisation_of,
    nearest,
    training_state,
)
from weibull_monitor.analysis.classify import MILD_DRIFT, ONE_POPULATION, TrainingState
from weibull_monitor.analysis.sample import KindMedian, KnownAttention, Run, Source, compared_sample, compared_sample_at
from weibull_monitor.analysis.sigma import SigmaGrowth, attribute_sigma
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.weibull import anchors
from weibull_monitor.model.components import Component, attention_types, discover

Verdict = Literal[
    "k as initialised", "short of published", "as published", "near published", "not as published", "nothing published"
]
SHALLOW: Final = (5, 0.70)
"""Feed-forward k below the second in blocks up to the first occur in published Qwen models of 3 B and above."""
FAR: Final = 5.0
"""A matrix this many robust standard deviations of its kind away from its kind's median is listed."""
MIN_SEPARATION: Final = 0.05
"""… if it is also further away than this."""

EARLY_TRAINING: Final = (
    "T/τ is below 0.25, so k and λ are still on their way; what was published of most models is of T/τ above 1, and W_q and W_k "
    "move furthest"
)


@dataclass(frozen=True)
class KindDiagnosis:
    """One kind of the main tower.

    Attributes:
        median: Its medians over the blocks.
        result: What the median k says; the drift is the median over the matrices.
        verdict: That in words. ``k as initialised``: no drift from an initialisation, and either no other kind has drifted or k
            is not as published. Feed-forward k of trained models is within about 3 % of the initialisation's, so by itself
            it does not tell one from the other. ``short of published``: between where it started and what is published, as in a
            young model.
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
        sample: What was diagnosed, its attention and clock.
        kinds: By kind, in the model's order.
        classes: The same over all W_q and W_k (``selection``) and over all feed-forward matrices (``feed-forward``).
        matrices: What each single shape says, by component name: heads, parts, experts and all towers included, of which those
            that published models do not have come without an expected range.
        odd: Matrices to look at, the worst first.
        training: How far training has come, by T/τ; None if that is not known.
        nearest: The published models by distance.
        notes: What to bear in mind, of the comparison and of this diagnosis.
    """

    sample: ComparedSample
    kinds: tuple[KindDiagnosis, ...]
    classes: tuple[KindDiagnosis, ...]
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
        attention: What `weibull_monitor.model.components.attention_types` says of the model; only needed for a sample on its own.
        step: Of a history, the step whose sample is meant; the last by default.

    Raises:
        ConfigurationError: If there is nothing to diagnose: no samples, no sample of that step, no matrix with a fit.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> result = diagnose(torch.nn.TransformerEncoderLayer(256, 4, 1024))  # PyTorch's initialisation: uniform
    >>> {kind.median.kind: (kind.verdict, kind.result.against) for kind in result.kinds}["ffn_in"]
    ('k as initialised', 'uniform')
    """
    fits: Mapping[str, WeibullFit] = {}
    if isinstance(source, nn.Module):
        source, attention = _measure(source, attention)
    if isinstance(source, Snapshot):
        fits = source.fits
    run = cast(Run, source) if hasattr(source, "snapshots") else None
    if step is not None and run is None:
        raise ConfigurationError("a step can be chosen of a history only; pass what read_history returns")
    sample = compared_sample_at(run, step, attention) if run else compared_sample(source, attention)
    if not sample.k:
        raise ConfigurationError("no matrix has a fit: there is nothing to diagnose")
    neighbours = nearest(sample)
    return Diagnosis(
        sample=sample,
        kinds=_kinds(sample.medians(), sample),
        classes=_kinds(_class_medians(sample), sample),
        matrices=_matrices(sample),
        odd=_odd(sample, fits),
        training=training_state(sample.t_over_tau) if sample.t_over_tau else None,
        nearest=neighbours,
        notes=(*neighbours.notes, *_notes(sample)),
    )


def _measure(model: nn.Module, attention: KnownAttention) -> tuple[Snapshot, KnownAttention]:
    reader = ModelReader(model, discover)
    reader.agree()
    fits = reader.read().measurement().fits
    components = reader.discovery.components
    known = attention if attention is not None else attention_types(model, components)
    return Snapshot(step=0, time=0.0, components=components, fits=fits), known


def _matrices(sample: ComparedSample) -> dict[str, Classification]:
    published = {c.name for c in sample.comparable}  # nothing is published of heads, experts and other towers

    def result(component: Component) -> Classification:
        name = component.name
        return classify(
            sample.k[name],
            component.label if name in published else "",
            sample.attention,
            r2=sample.r2[name],
            k_se=sample.k_se.get(name),
            baseline=sample.baseline.get(name),
            initialisation=sample.initialisation,
        )

    return {c.name: result(c) for c in sample.components if c.name in sample.k}


def _class_medians(sample: ComparedSample) -> list[KindMedian]:
    groups = {
        "selection": [c for c in sample.comparable if c.component_class == "selection" and not c.cross],
        "feed-forward": [c for c in sample.comparable if c.kind.startswith("ffn_") and c.kind != "ffn_gate_up"],
    }
    return [sample.median_over(name, members) for name, members in groups.items() if members]


def _kinds(kinds: Sequence[KindMedian], sample: ComparedSample) -> tuple[KindDiagnosis, ...]:
    results = [_classified(kind, sample) for kind in kinds]
    fresh = all(result.severity == "none" for result in results)
    return tuple(
        KindDiagnosis(kind, result, _verdict(result, fresh, _from_scratch(kind, sample)), _growth(kind, sample))
        for kind, result in zip(kinds, results, strict=True)
    )


def _classified(kind: KindMedian, sample: ComparedSample) -> Classification:
    drifts = [sample.k[name] / sample.baseline[name] - 1.0 for name in kind.names if name in sample.baseline]
    baseline = kind.k / (1.0 + median(drifts)) if drifts else None
    r2 = median(sample.r2[name] for name in kind.names)
    of = "transmission" if kind.kind == "feed-forward" else kind.kind
    return classify(
        kind.k, of, sample.attention, r2=r2, k_se=kind.se, baseline=baseline, initialisation=sample.initialisation
    )


def _from_scratch(kind: KindMedian, sample: ComparedSample) -> bool:
    """Whether the kind's baseline, if there is one, may be an initialisation."""
    starts = [sample.baseline[name] for name in kind.names if name in sample.baseline]
    return not starts or _an_initialisation(median(starts), kind.se)


def _an_initialisation(k: float, se: float) -> bool:
    return abs(k / anchors()[initialisation_of(k)].k - 1.0) <= max(MILD_DRIFT, 3.0 * se)


def _verdict(result: Classification, fresh: bool, from_scratch: bool) -> Verdict:
    outside = result.position in (None, "just above", "above")
    if result.severity == "none" and from_scratch and (fresh or outside):
        return "k as initialised"
    if result.position is None:
        return "nothing published"
    if result.position == "inside":
        return "as published"
    if outside and from_scratch and result.drift < 0.0:  # training lowers k, and it has not come so far
        return "short of published"
    return "near published" if result.position.startswith("just") else "not as published"


def _growth(kind: KindMedian, sample: ComparedSample) -> SigmaGrowth | None:
    both = [name for name in kind.names if name in sample.baseline and name in sample.baseline_lambda]
    if not both:
        return None
    k = [[sample.baseline[name] for name in both], [sample.k[name] for name in both]]
    return attribute_sigma(
        k, [[sample.baseline_lambda[name] for name in both], [sample.lambda_[name] for name in both]]
    )


def _odd(sample: ComparedSample, fits: Mapping[str, WeibullFit]) -> tuple[OddMatrix, ...]:
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
            if why := _why_odd(component, sample, apart > max(MIN_SEPARATION, FAR * max(scale, noise)), centre):
                k, r2 = sample.k[name], sample.r2[name]
                found.append(OddMatrix(name, component.label, component.block, k, r2, why, fits.get(name)))
    return tuple(sorted(found, key=lambda odd: odd.k))


def _why_odd(component: Component, sample: ComparedSample, far: bool, centre: float) -> str:
    k, r2, what = sample.k[component.name], sample.r2[component.name], []
    if r2 < ONE_POPULATION:
        what.append(f"R² {r2:.3f}: not one population")
    if far:
        what.append(f"k far from the kind's median {centre:.3f}")
    shallow = component.block is not None and component.block <= SHALLOW[0] and k <= SHALLOW[1]
    if what and shallow and component.kind.startswith("ffn_"):
        what.append("published Qwen models of 3 B and above have such blocks among the first six")
    return "; ".join(what)


def _notes(sample: ComparedSample) -> list[str]:
    if not sample.baseline:
        return [f"there is no baseline before this sample: drift is against the anchor of {_start(sample)}"]
    trained = [m.kind for m in sample.medians() if _known(m.kind, sample) and not _from_scratch(m, sample)]
    if trained:
        return [
            f"at the baseline k of {', '.join(trained)} was that of no initialisation: drift and T/τ count from there"
        ]
    young = sample.t_over_tau is not None and training_state(sample.t_over_tau) == "transition"
    return [EARLY_TRAINING] if young else []


def _start(sample: ComparedSample) -> str:
    if sample.initialisation is None:
        return "the initialisation that each k looks like"
    name, k = sample.initialisation, anchors()[sample.initialisation].k
    return f"{name.replace('_', ' ')} initialisation, k = {k:.4f}, which the feed-forward matrices are nearest to"


def _known(kind: str, sample: ComparedSample) -> bool:
    return expected_range(kind, sample.attention) is not None
