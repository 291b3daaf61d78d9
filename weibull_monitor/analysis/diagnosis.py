"""The diagnosis of a model, sample or run: each kind and matrix against its own start and the published models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Final, Literal

from weibull_monitor.analysis import (
    Classification,
    ComparedSample,
    Nearest,
    classify,
    initialisation_of,
    nearest,
    training_state,
)
from weibull_monitor.analysis.classify import MILD_DRIFT, ONE_POPULATION, TrainingState
from weibull_monitor.analysis.mixtures import MixtureOfScales, mixtures_of_scales
from weibull_monitor.analysis.movement import Movement, movement_of
from weibull_monitor.analysis.published import FEED_FORWARD, LAST_SHALLOW_BLOCK, SHALLOW_K
from weibull_monitor.analysis.sample import KindMedian, KnownAttention, Source, compared_sample
from weibull_monitor.analysis.sigma import SigmaGrowth, attribute_sigma
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure.shown import table
from weibull_monitor.measure.weibull import anchors
from weibull_monitor.model.adapters import of_adapters
from weibull_monitor.model.components import Component

if TYPE_CHECKING:
    from torch import nn

    from weibull_monitor.measure import WeibullFit

Verdict = Literal[
    "as initialised",
    "frozen",
    "k shows no training",
    "unmoved",
    "moved",
    "short of published",
    "as published",
    "near published",
    "not as published",
]
MAX_DEVIATION: Final = 5.0
"""A matrix is listed if its k is more than this many robust standard deviations of its kind from the kind's median …"""
MIN_DEVIATION: Final = 0.05
"""… and the difference in k is also larger than this."""

EARLY_TRAINING: Final = (
    "T·η_peak·λ_wd is below 0.25, so k and λ are still changing; for most published models it is above 1"
)


@dataclass(frozen=True)
class KindDiagnosis:
    """The diagnosis of one kind of the main tower.

    Attributes:
        median: Its medians over the blocks.
        result: The classification of the median k; the drift is the median over the matrices.
        movement: How many of its matrices have moved from their start.
        verdict: The result in words. Of every model: ``as initialised``, ``moved``, ``frozen`` (not trained beside others that
            are, as the base of adapters), or ``unmoved`` since a baseline that was
            trained before. ``k shows no training``: k alone shows no movement, and λ at the start is not known. (Feed-forward k
            of trained models stays within about 3 % of the initialisation, so this k alone does not show that a matrix is
            not trained.) Of models that the published ones may be compared with (`ComparedSample.outside`): ``as
            published``, ``near published``, ``not as published``, and ``short of published``, between its start and the
            published range, as early in training.
        growth: Growth of σ since the baseline, averaged over the kind's matrices; None without a baseline.
    """

    median: KindMedian
    result: Classification
    movement: Movement
    verdict: Verdict
    growth: SigmaGrowth | None = None


@dataclass(frozen=True)
class OddMatrix:
    """A matrix that one k does not describe, or whose k is far from the others of its kind.

    Attributes:
        name: Its name.
        kind: Its kind.
        block: Index of its block.
        k: Shape.
        r2: R² of the fit.
        why: What is odd about it.
        fit: The fit, with measures of heaviness that need no model (`q90_q10`, `p999_p50`, `gini`); None from a history.
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
    """The diagnosis of a model, a sample or a run.

    Attributes:
        sample: The sample, with its attention and training time.
        kinds: One entry per kind, in the model's order.
        classes: The same over all W_q and W_k (``selection``) and over all feed-forward matrices (``feed-forward``).
        matrices: The classification of each matrix by component name, with heads, parts, experts and all towers. Those that
            published models do not have come without an expected range.
        odd: Matrices to look at, the lowest k first.
        training: How far training has come, by T·η_peak·λ_wd; None if that is not known.
        nearest: The published models by distance.
        mixtures: Kinds of fused matrices whose k is that of parts with different scales.
        notes: What to keep in mind about the comparison and this diagnosis.
    """

    sample: ComparedSample
    kinds: tuple[KindDiagnosis, ...]
    classes: tuple[KindDiagnosis, ...]
    matrices: Mapping[str, Classification]
    odd: tuple[OddMatrix, ...]
    training: TrainingState | None
    nearest: Nearest
    mixtures: tuple[MixtureOfScales, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        of = ", ".join(f"{found.median.kind}: {found.verdict}" for found in self.classes or self.kinds)
        return f"Diagnosis({of}; {len(self.odd)} to look at)"

    def _repr_html_(self) -> str:
        rows = [[x.median.kind, f"{x.median.k:.4g}", x.verdict] for x in (*self.classes, *self.kinds)]
        odd = [[matrix.name, f"{matrix.k:.4g}", matrix.why] for matrix in self.odd]
        shown = table("matrices to look at", ["name", "k", "why"], odd) if odd else ""
        return table("diagnosis", ["kind", "k", "verdict"], rows) + shown


def diagnose(source: nn.Module | Source, attention: KnownAttention = None, step: int | None = None) -> Diagnosis:
    """Diagnoses a model, a sample or a run.

    Args:
        source: A model, whose weights are read now; a `Snapshot` or `RecordedSnapshot`; or a `History`, which also has the
            baseline, the attention and the learning rates.
        attention: The result of `weibull_monitor.model.components.attention_types`; only needed for a sample on its own.
        step: Step of the sample within a history; the last one by default.

    Raises:
        ConfigurationError: If there is nothing to diagnose: no samples, no sample of that step, no matrix with a fit.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> result = diagnose(torch.nn.TransformerEncoderLayer(256, 4, 1024))  # PyTorch's initialisation: uniform
    >>> {kind.median.kind: (kind.verdict, kind.result.against) for kind in result.kinds}["ffn_in"]
    ('k shows no training', 'uniform')
    """
    fits: Mapping[str, WeibullFit] = {}
    if not isinstance(source, (Snapshot, RecordedSnapshot, History)):
        source, attention = _measure(source, attention)
    if isinstance(source, Snapshot):
        fits = source.fits
    sample = compared_sample(source, attention, step)
    if not sample.k:
        raise ConfigurationError("no matrix has a fit: there is nothing to diagnose")
    neighbours, mixtures = nearest(sample), mixtures_of_scales(sample)
    return Diagnosis(
        sample=sample,
        kinds=_kinds(sample.medians(), sample),
        classes=_kinds(_class_medians(sample), sample),
        matrices=_matrices(sample),
        odd=_odd(sample, fits, mixtures),
        training=training_state(sample.peak_time) if sample.peak_time else None,
        nearest=neighbours,
        mixtures=mixtures,
        notes=(*map(str, mixtures), *neighbours.notes, *_notes(sample)),
    )


def _measure(model: nn.Module, attention: KnownAttention) -> tuple[Snapshot, KnownAttention]:
    # Not at the top: who diagnoses a history does not wait for torch.
    from weibull_monitor.measure.reader.reader import ModelReader
    from weibull_monitor.model.architecture import facts_of
    from weibull_monitor.model.components import discover

    reader = ModelReader(model, discover)
    reader.agree()
    fits = reader.read().measurement().fits
    components = reader.discovery.components
    known = attention if attention is not None else reader.table.attention
    facts = {**facts_of(model), "parameters": reader.discovery.elements}
    return Snapshot(step=0, time=0.0, components=components, fits=fits, model=facts), known


def _matrices(sample: ComparedSample) -> dict[str, Classification]:
    # Nothing is published for heads, experts and other towers.
    published = set() if sample.outside else {c.name for c in sample.comparable}
    return {
        c.name: classify(
            sample.k[c.name],
            c.label if c.name in published else "",
            sample.attention,
            r2=sample.r2[c.name],
            k_se=sample.k_error.get(c.name),
            baseline=sample.baseline.get(c.name),
            initialisation=_initialisation(c.kind, sample),
        )
        for c in sample.components
        if c.name in sample.k
    }


def _class_medians(sample: ComparedSample) -> list[KindMedian]:
    groups = {
        "selection": [c for c in sample.comparable if c.component_class == "selection" and not c.cross],
        "feed-forward": [c for c in sample.comparable if c.kind in FEED_FORWARD],
    }
    return [sample.median_over(name, members) for name, members in groups.items() if members]


def _kinds(kinds: Sequence[KindMedian], sample: ComparedSample) -> tuple[KindDiagnosis, ...]:
    results = [_classified(kind, sample) for kind in kinds]
    moved = [movement_of(kind.names, sample) for kind in kinds]
    fresh = not any(one.any for one in moved)
    return tuple(
        KindDiagnosis(
            kind,
            result,
            movement,
            "frozen"
            if not movement.any and sample.frozen.issuperset(kind.names)
            else _verdict(result, movement, fresh, _from_scratch(kind, sample)),
            _growth(kind, sample),
        )
        for kind, result, movement in zip(kinds, results, moved, strict=True)
    )


def _classified(kind: KindMedian, sample: ComparedSample) -> Classification:
    drifts = [sample.k[name] / sample.start[name].k - 1.0 for name in kind.names if name in sample.start]
    baseline = kind.k / (1.0 + median(drifts)) if drifts else None
    r2 = median(sample.r2[name] for name in kind.names)
    of = "" if sample.outside else "transmission" if kind.kind == "feed-forward" else kind.kind
    found = classify(
        kind.k,
        of,
        sample.attention,
        r2=r2,
        k_se=kind.se,
        baseline=baseline,
        initialisation=_initialisation(kind.kind, sample),
    )
    if baseline is None or sample.baseline:
        return found
    # Two samples of a matrix share their noise; a sample and the distribution that it was drawn from do not.
    small = abs(found.drift) <= 2.0 * kind.se / baseline
    return replace(found, against="own", severity="none" if small else found.severity)


def _initialisation(kind: str, sample: ComparedSample) -> str | None:
    """The anchor of drift; adapters are initialised on their own, so theirs is the nearest one."""
    return None if kind.startswith("adapter") else sample.initialisation


def _from_scratch(kind: KindMedian, sample: ComparedSample) -> bool:
    """Whether the kind's baseline looks like an initialisation; True without a baseline."""
    starts = [sample.baseline[name] for name in kind.names if name in sample.baseline]
    if not starts:
        return True
    k = median(starts)
    return abs(k / anchors()[initialisation_of(k)].k - 1.0) <= max(MILD_DRIFT, 3.0 * kind.se)


def _verdict(result: Classification, movement: Movement, fresh: bool, from_scratch: bool) -> Verdict:
    if not movement.any and from_scratch:
        if movement.lambda_known:
            return "as initialised"
        return "as published" if result.position == "inside" and not fresh else "k shows no training"
    if result.position is None:
        return "moved" if movement.any else "unmoved"
    if result.position == "inside":
        return "as published"
    above = result.position in ("just above", "above")
    if above and from_scratch and result.drift < 0.0:  # training lowers k, and has not yet lowered it this far
        return "short of published"
    return "near published" if result.position.startswith("just") else "not as published"


def _growth(kind: KindMedian, sample: ComparedSample) -> SigmaGrowth | None:
    names = [name for name in kind.names if name in sample.baseline and name in sample.baseline_lambda]
    if not names:
        return None
    k = [[column[name] for name in names] for column in (sample.baseline, sample.k)]  # (2, matrices)
    lambda_ = [[column[name] for name in names] for column in (sample.baseline_lambda, sample.lambda_)]  # (2, matrices)
    return attribute_sigma(k, lambda_)


def _odd(
    sample: ComparedSample, fits: Mapping[str, WeibullFit], mixtures: Sequence[MixtureOfScales]
) -> tuple[OddMatrix, ...]:
    found = []
    mixed = {name for mixture in mixtures for name in mixture.names}
    for kind in sample.medians():
        # A robust standard deviation, so that the odd matrix itself does not widen it.
        sd = 1.4826 * median(abs(sample.k[name] - kind.k) for name in kind.names)
        for component in (c for c in sample.comparable if c.name in kind.names):
            name = component.name
            limit = max(MIN_DEVIATION, MAX_DEVIATION * max(sd, sample.k_error.get(name, 0.0)))
            if why := _why_odd(component, sample, abs(sample.k[name] - kind.k) > limit, kind.k):
                why += "; its parts have different scales" if name in mixed else ""
                k, r2 = sample.k[name], sample.r2[name]
                found.append(OddMatrix(name, component.label, component.block, k, r2, why, fits.get(name)))
    return tuple(sorted(found, key=lambda odd: odd.k))


def _why_odd(component: Component, sample: ComparedSample, far: bool, centre: float) -> str:
    k, r2, reasons = sample.k[component.name], sample.r2[component.name], []
    if r2 < ONE_POPULATION:
        reasons.append(f"R² {r2:.3f}: not one population")
    if far:
        reasons.append(f"k far from the kind's median {centre:.3f}")
    shallow = component.block is not None and component.block <= LAST_SHALLOW_BLOCK and k <= SHALLOW_K
    if reasons and shallow and component.kind.startswith("ffn_"):
        reasons.append("published Qwen models of 3 B and above have such blocks among the first six")
    return "; ".join(reasons)


def _notes(sample: ComparedSample) -> list[str]:
    if of_adapters(sample.components):
        return ["only adapters are trained: the weights that they change are frozen, and ΔW says what they add to them"]
    if not sample.baseline:
        of = "" if sample.start else "the anchor of "
        return [f"there is no baseline before this sample: drift is against {of}{_start(sample)}"]
    trained = [m.kind for m in sample.medians() if sample.expected(m.kind) and not _from_scratch(m, sample)]
    if trained:
        return [
            f"at the baseline k of {', '.join(trained)} was not that of an initialisation: drift and training time count from "
            "there"
        ]
    young = sample.peak_time is not None and training_state(sample.peak_time) == "transition"
    return [EARLY_TRAINING] if young else []


def _start(sample: ComparedSample) -> str:
    if sample.start:
        return "the distributions that the code of the model draws its matrices from"
    if sample.initialisation is None:
        return "the initialisation nearest to each k"
    name, k = sample.initialisation, anchors()[sample.initialisation].k
    return f"{name.replace('_', ' ')} initialisation, k = {k:.4f}, the nearest to the feed-forward matrices"
