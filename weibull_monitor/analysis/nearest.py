"""The published models nearest to a model, by the shapes of its kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from weibull_monitor.analysis.attention import Attention
from weibull_monitor.analysis.classify import MILD_DRIFT, initialisation_of
from weibull_monitor.analysis.expected import spread, spread_is_known
from weibull_monitor.analysis.published import PUBLISHED, AttentionKind, PublishedModel
from weibull_monitor.analysis.sample import ComparedSample, KindMedian, KnownAttention, Source, compared_sample
from weibull_monitor.measure.weibull import anchors

MIN_ELEMENTS: Final = 15_000_000
"""Smaller models get a note: the blocks of the smallest published model have 18.9 M elements (Pythia-70M: 12·512²·6)."""


@dataclass(frozen=True)
class KindDifference:
    """How one kind differs from a published model.

    Attributes:
        kind: The kind.
        here: Its median k.
        there: The published median.
        error: Standard error of the difference of two models of one type: √(se² + 2·spread²), where se is that of the median
            here and spread the standard deviation between published models of one attention type.
        z: (here − there)/error.
        share: Share of this kind in the squared distance.
    """

    kind: str
    here: float
    there: float
    error: float
    z: float
    share: float


@dataclass(frozen=True)
class Neighbour:
    """A published model and its distance.

    Attributes:
        model: The model.
        distance: Root mean square of the differences in standard errors: about 1 for two published models of one type.
        kinds: The differences, the largest first.
    """

    model: PublishedModel
    distance: float
    kinds: tuple[KindDifference, ...]


@dataclass(frozen=True)
class Nearest:
    """The published models by distance.

    Attributes:
        attention: The attention of the model that was compared.
        neighbours: The published models that can be compared, the nearest first.
        notes: What to keep in mind.
    """

    attention: Attention | None
    neighbours: tuple[Neighbour, ...]
    notes: tuple[str, ...]


def nearest(
    source: Source | ComparedSample,
    attention: KnownAttention = None,
    models: Sequence[PublishedModel] = PUBLISHED,
) -> Nearest:
    """The published models nearest to a sample, among those with the same type of attention.

    Kinds are compared by the medians of k over the blocks; fused matrices with fused ones, shared keys with shared keys. λ is
    left out, because it follows learning rate, weight decay and width. Sampling noise alone would not be a useful unit: it is
    0.0003 for one matrix of 4096 × 4096, while models of one type differ by 0.005 to 0.05. So each difference is divided by
    its standard error between two models of one type (see `KindDifference`).

    If no published model has this attention, only feed-forward kinds are compared, with all models.

    Args:
        source: A live `Snapshot`, a `RecordedSnapshot`, or a `History`: its last sample.
        attention: The result of `attention_types`, or an `Attention`. A history records it; a sample alone does not show
            whether queries and keys are normalised.
        models: The models to compare with.

    Returns:
        The models by distance; none if no kind can be compared.

    Raises:
        ConfigurationError: For a history without samples, or a source of another type.
    """
    sample = compared_sample(source, attention)
    medians = {m.kind: m for m in sample.medians()}
    like = sample.attention.like if sample.attention else ()
    known = () if sample.outside else models
    neighbours = [n for model in known if (n := _neighbour(model, medians, like)) is not None]
    return Nearest(
        attention=sample.attention,
        neighbours=tuple(sorted(neighbours, key=lambda n: n.distance)),
        notes=tuple(_notes(sample, medians, like)),
    )


def _neighbour(
    model: PublishedModel, medians: dict[str, KindMedian], like: tuple[AttentionKind, ...]
) -> Neighbour | None:
    if like and model.attention not in like:
        return None
    kinds = [kind for kind in model.k if kind in medians and (like or kind.startswith("ffn_"))]
    if not kinds:
        return None
    of = frozenset(like)
    error = {kind: math.sqrt(medians[kind].se ** 2 + 2.0 * spread(kind, of) ** 2) for kind in kinds}
    z = {kind: (medians[kind].k - model.k[kind]) / error[kind] for kind in kinds}
    total = sum(value**2 for value in z.values())
    differences = [
        KindDifference(
            kind, medians[kind].k, model.k[kind], error[kind], z[kind], z[kind] ** 2 / total if total else 0.0
        )
        for kind in sorted(kinds, key=lambda kind: -abs(z[kind]))
    ]
    return Neighbour(model, math.sqrt(total / len(kinds)), tuple(differences))


def _notes(sample: ComparedSample, medians: dict[str, KindMedian], like: tuple[AttentionKind, ...]) -> list[str]:
    notes = []
    if sample.outside:
        return [f"{sample.outside}: there is nothing to compare k with", *_left_out(sample)]
    if sample.attention is not None and not like:
        notes.append(f"{sample.attention.reason}: only feed-forward matrices are compared")
    if sample.attention is not None and len(like) > 1:
        notes.append("whether queries and keys are normalised is not known: models with and without are compared")
    if sample.attention is not None and sample.attention.differs:
        notes.append(f"some blocks have another attention: {sample.attention.differs}")
    published = [kind for kind in medians if _published(kind, like)]
    assumed = [kind for kind in published if like and kind.startswith("attn_")]
    if not all(spread_is_known(kind, frozenset(like)) for kind in assumed):
        notes.append(
            "only one multi-head model with separate matrices is published with QK-norm and one without: how much such models "
            "differ is not known, so the spread of models with shared keys is taken"
        )
    if (elements := sum(c.numel for c in sample.comparable)) < MIN_ELEMENTS:
        notes.append(
            f"the matrices compared have {elements:,} elements; those of the smallest published model have 18.9 million, and all "
            "were trained on 300 billion tokens or more"
        )
    has_baseline = any(c.name in sample.baseline for c in sample.comparable)
    if medians and all(_as_initialised(medians[kind], sample, has_baseline) for kind in published):
        notes.append(
            "no kind that is published has moved by 1 % from its start: the resemblance is that of initialisations"
        )
    return [*notes, *_left_out(sample)]


def _left_out(sample: ComparedSample) -> list[str]:
    notes = []
    if sample.experts:
        notes.append("no model with experts is published: they are left out")
    if len(sample.towers) > 1:
        notes.append(f"only {sample.towers[0]} is shown; left out: {', '.join(sample.towers[1:])}")
    return notes


def _published(kind: str, like: tuple[AttentionKind, ...]) -> bool:
    return any(kind in model.k and (model.attention in like or kind.startswith("ffn_")) for model in PUBLISHED)


def _as_initialised(kind: KindMedian, sample: ComparedSample, has_baseline: bool) -> bool:
    if has_baseline:
        drifts = [sample.k[name] / sample.baseline[name] - 1.0 for name in kind.names if name in sample.baseline]
        return all(abs(drift) < MILD_DRIFT for drift in drifts)
    return abs(kind.k / anchors()[sample.initialisation or initialisation_of(kind.k)].k - 1.0) < MILD_DRIFT
