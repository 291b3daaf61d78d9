"""The published models nearest to a model, by the shapes of its kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weibull_monitor.analysis.attention import Attention
from weibull_monitor.analysis.classify import initialisation_of
from weibull_monitor.analysis.expected import spread, spread_is_known
from weibull_monitor.analysis.published import PUBLISHED, AttentionKind, PublishedModel
from weibull_monitor.analysis.sample import ComparedSample, KindMedian, KnownAttention, Source, compared_sample
from weibull_monitor.measure.weibull import anchors

SMALLEST = 15_000_000
"""Elements in the blocks of the smallest published model are 18.9 M (Pythia-70M: 12·512²·6)."""
NO_DRIFT = 0.01
"""If no kind's median is further from its start than this, resemblance is that of initialisations."""


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
    """A published model and how far it is.

    Attributes:
        model: The model.
        distance: Root mean square of the differences in standard errors: about 1 for two published models of one type.
        kinds: The differences, those that make most of it first.
    """

    model: PublishedModel
    distance: float
    kinds: tuple[KindDifference, ...]


@dataclass(frozen=True)
class Nearest:
    """The published models by distance.

    Attributes:
        attention: The attention of what was compared.
        neighbours: The models that it may be compared with, the nearest first.
        notes: What to bear in mind.
    """

    attention: Attention | None
    neighbours: tuple[Neighbour, ...]
    notes: tuple[str, ...]


def nearest(
    source: Source | ComparedSample,
    attention: KnownAttention = None,
    models: Sequence[PublishedModel] = PUBLISHED,
) -> Nearest:
    """The published models nearest to a sample, like compared with like.

    Only models with the same type of attention are compared (fused with fused, shared keys with shared keys), kind by kind, by
    the medians of k over the blocks. λ is left out: it follows learning rate, weight decay and width. Sampling noise alone
    would be no measure: it is 0.0003 for one matrix of 4096 × 4096, and models of one type differ by 0.005 to 0.05. Each
    difference is therefore divided by the standard error that it would have between two models of one type (see
    `KindDifference`).

    Where no published model has this attention, feed-forward kinds alone are compared, with all models.

    Args:
        source: A live `Snapshot`, a `RecordedSnapshot`, or a history: its last sample.
        attention: What `attention_types` says of the model, or an `Attention`. A history records it; a sample alone does not
            tell whether queries and keys are normalised.
        models: What to compare with.

    Returns:
        The models by distance; none if no kind can be compared.
    """
    sample = compared_sample(source, attention)
    medians = {m.kind: m for m in sample.medians()}
    like = sample.attention.like if sample.attention else ()
    neighbours = [n for model in models if (n := _neighbour(model, medians, like)) is not None]
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
    if sample.attention is not None and not like:
        notes.append(f"{sample.attention.reason}: only feed-forward matrices are compared")
    if sample.attention is not None and len(like) > 1:
        notes.append("whether queries and keys are normalised is not known: models with and without are compared")
    if sample.attention is not None and sample.attention.differs:
        notes.append(f"some blocks have another attention: {sample.attention.differs}")
    of = frozenset(like)
    assumed = [kind for kind in medians if kind.startswith("attn_") and like and _published(kind, like)]
    if any(not spread_is_known(kind, of) for kind in assumed):
        notes.append(
            "one multi-head model stored apart is published with QK-norm and one without: how much such models differ is not "
            "known, and the spread of models with shared keys is taken"
        )
    if (elements := sum(c.numel for c in sample.comparable)) < SMALLEST:
        notes.append(
            f"the matrices compared have {elements:,} elements; those of the smallest published model have 18.9 million, and all "
            "were trained on 300 billion tokens or more"
        )
    starts = [sample.baseline[c.name] for c in sample.comparable if c.name in sample.baseline]
    if medians and all(_as_initialised(m, sample, bool(starts)) for m in medians.values() if _published(m.kind, like)):
        notes.append(
            "no published kind has moved by 1 % from where it started: the resemblance is that of initialisations"
        )
    if sample.experts:
        notes.append("no model with experts is published: they are left out")
    if len(sample.towers) > 1:
        notes.append(f"only {sample.towers[0]} is compared; left out: {', '.join(sample.towers[1:])}")
    return notes


def _published(kind: str, like: tuple[AttentionKind, ...]) -> bool:
    return any(kind in model.k and (model.attention in like or kind.startswith("ffn_")) for model in PUBLISHED)


def _as_initialised(kind: KindMedian, sample: ComparedSample, has_baseline: bool) -> bool:
    if has_baseline:
        pairs = [sample.k[name] / sample.baseline[name] - 1.0 for name in kind.names if name in sample.baseline]
        return all(abs(drift) < NO_DRIFT for drift in pairs)
    return abs(kind.k / anchors()[sample.initialisation or initialisation_of(kind.k)].k - 1.0) < NO_DRIFT
