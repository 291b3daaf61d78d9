"""One form for what can be compared with the published models: a live sample, a recorded one, a whole history."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol, cast

from weibull_monitor.analysis.attention import Attention, attention_of
from weibull_monitor.analysis.classify import initialisation_of
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.model.components import AttentionType, Component, representatives


class Recorded(Protocol):
    """A recorded sample, as `weibull_monitor.trackers.RecordedSnapshot` is one."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def components(self) -> tuple[Component, ...]: ...  # noqa: D102
    def values(self, column: str, /) -> Mapping[str, float]: ...  # noqa: D102


class Run(Protocol):
    """A recorded run, as `read_history` returns it."""

    @property
    def path(self) -> Any: ...  # noqa: D102
    @property
    def runs(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def snapshots(self) -> Sequence[Recorded]: ...  # noqa: D102


Source = Snapshot | Recorded | Run
KnownAttention = Attention | Iterable[AttentionType | Mapping[str, Any]] | None


@dataclass(frozen=True)
class KindMedian:
    """A kind's shapes over the blocks.

    Attributes:
        kind: The kind, as metric keys spell it.
        component_class: Its class.
        k: Median over the matrices.
        se: Standard error of that median: from the spread over the matrices, or from the fits where that is wider.
        lambda_: Median scale.
        r2: Lowest R².
        matrices: How many there are.
        names: Their names.
    """

    kind: str
    component_class: str
    k: float
    se: float
    lambda_: float
    r2: float
    matrices: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class ComparedSample:
    """One sample, and what is known about the model and its training.

    Attributes:
        step: Optimizer steps taken.
        components: What was measured.
        k: Shape by component name.
        k_se: Its standard error.
        lambda_: Scale.
        r2: R².
        baseline: Shape before training, by component name; empty if not known.
        baseline_lambda: Scale before training, likewise.
        attention: Attention of the main tower; None if there is none.
        t_over_tau: Training time in units of τ, or None.
        clock: How that was computed, or why there is none.
    """

    step: int
    components: tuple[Component, ...]
    k: Mapping[str, float]
    k_se: Mapping[str, float]
    lambda_: Mapping[str, float]
    r2: Mapping[str, float]
    baseline: Mapping[str, float] = field(default_factory=dict)
    baseline_lambda: Mapping[str, float] = field(default_factory=dict)
    attention: Attention | None = None
    t_over_tau: float | None = None
    clock: str = ""

    @property
    def towers(self) -> tuple[str, ...]:
        """Lists of blocks with matrices, the one with most elements first."""
        return _towers(self.components)

    @property
    def comparable(self) -> tuple[Component, ...]:
        """Dense matrices of the main tower, each standing once for its kind: what published models have figures of."""
        main = self.towers[0] if self.towers else ""
        stand = representatives(self.components)
        return tuple(
            c for c in stand if c.tower == main and c.expert is None and len(c.shape) == 2 and c.name in self.k
        )

    @property
    def experts(self) -> bool:
        """Whether there are experts, of which no published model has any."""
        return any(c.expert is not None or (c.kind.startswith("ffn_") and len(c.shape) > 2) for c in self.components)

    @property
    def initialisation(self) -> str | None:
        """The initialisation that the feed-forward matrices look like, which training moves least; None if there are none.

        A guess for want of a baseline: see `initialisation_of`.
        """
        shapes = [self.k[c.name] for c in self.comparable if c.kind.startswith("ffn_")]
        return initialisation_of(median(shapes)) if shapes else None

    def medians(self) -> tuple[KindMedian, ...]:
        """Medians per kind over the comparable matrices, in the model's order."""
        groups: dict[str, list[Component]] = {}
        for component in self.comparable:
            groups.setdefault(component.label, []).append(component)
        return tuple(self.median_over(kind, members) for kind, members in groups.items())

    def median_over(self, kind: str, members: Sequence[Component]) -> KindMedian:
        """Medians over components that have a fit, one or more."""
        names = tuple(c.name for c in members)
        k = [self.k[name] for name in names]
        return KindMedian(
            kind=kind,
            component_class=members[0].component_class,
            k=median(k),
            se=_se_of_median(k, [self.k_se[name] for name in names if name in self.k_se]),
            lambda_=median(self.lambda_[name] for name in names),
            r2=min(self.r2[name] for name in names),
            matrices=len(names),
            names=names,
        )


def compared_sample(source: Source | ComparedSample, attention: KnownAttention = None) -> ComparedSample:
    """Brings a source into that form.

    Args:
        source: A `Snapshot`, a recorded one, a history (its last sample), or a `ComparedSample`, which is returned as it is.
        attention: What is known of the attention, as `attention_types` returns it; a history records it. By default told from the
            sizes of the matrices.

    Raises:
        ConfigurationError: For a history without samples, or an object of another type.
    """
    if isinstance(source, ComparedSample):
        return source
    if isinstance(source, Snapshot):
        fits = {name: fit for name, fit in source.fits.items() if fit.available}
        start = source.baseline if source.step else {}
        spent = [s.t_over_tau for s in source.scaling.values() if s.t_over_tau is not None]
        return ComparedSample(
            step=source.step,
            components=source.components,
            k={name: fit.k for name, fit in fits.items()},
            k_se={name: fit.k_se for name, fit in fits.items()},
            lambda_={name: fit.lambda_ for name, fit in fits.items()},
            r2={name: fit.r2 for name, fit in fits.items()},
            baseline={name: at_start.k for name, at_start in start.items()},
            baseline_lambda={name: at_start.lambda_ for name, at_start in start.items()},
            attention=_attention(source.components, attention),
            t_over_tau=median(spent) if spent else None,
            clock="S = Σ η·λ_wd" if spent else "",
        )
    if hasattr(source, "snapshots") and hasattr(source, "runs"):
        return compared_sample_at(cast(Run, source), None, attention)
    if hasattr(source, "components") and hasattr(source, "values"):
        return _of_record(source, attention)
    raise ConfigurationError(
        f"a {type(source).__name__} cannot be compared; pass a Snapshot, a RecordedSnapshot or what read_history returns"
    )


def at_step(run: Run, step: int | None) -> Recorded:
    """The last sample of a run, or the one of a step.

    Raises:
        ConfigurationError: If there is none.
    """
    if not run.snapshots:
        raise ConfigurationError(f"{run.path} holds no samples yet")
    if step is None:
        return run.snapshots[-1]
    for snapshot in run.snapshots:
        if snapshot.step == step:
            return snapshot
    nearest = min(run.snapshots, key=lambda s: abs(s.step - step))
    raise ConfigurationError(f"{run.path} holds no sample of step {step}; the nearest is of step {nearest.step}")


def compared_sample_at(run: Run, step: int | None = None, attention: KnownAttention = None) -> ComparedSample:
    """A run's sample of one step, or its last, with the run's baseline and hyper-parameters."""
    snapshot = at_step(run, step)
    recorded = attention if attention is not None else (getattr(run.runs[-1], "attention", ()) if run.runs else ())
    first = run.snapshots[0]
    trained = first.step == 0 and snapshot.step > 0
    t_over_tau, clock = _t_over_tau(run, snapshot)
    return _of_record(
        snapshot,
        recorded,
        baseline=first.values("k") if trained else {},
        baseline_lambda=first.values("lambda") if trained else {},
        t_over_tau=t_over_tau,
        clock=clock,
    )


def _of_record(snapshot: Recorded, attention: KnownAttention, **more: Any) -> ComparedSample:
    columns = {name: dict(snapshot.values(name)) for name in ("k", "k_se", "lambda", "r2")}
    fitted = {name for name in columns["k"] if name in columns["lambda"] and name in columns["r2"]}
    return ComparedSample(
        step=snapshot.step,
        components=tuple(snapshot.components),
        k={name: k for name, k in columns["k"].items() if name in fitted},
        k_se=columns["k_se"],
        lambda_=columns["lambda"],
        r2=columns["r2"],
        attention=_attention(snapshot.components, attention),
        **more,
    )


def _t_over_tau(run: Run, snapshot: Recorded) -> tuple[float | None, str]:
    """T·η_peak·λ_wd as published, with the highest η sampled so far: median over the matrices that have both; and how."""
    peak: dict[str, float] = {}
    decays: dict[str, set[float]] = {}
    for earlier in run.snapshots:
        if 0 < earlier.step <= snapshot.step:
            for name, eta in earlier.values("eta").items():
                peak[name] = max(eta, peak.get(name, 0.0))
            for name, decay in earlier.values("weight_decay").items():
                decays.setdefault(name, set()).add(decay)
    used = [name for name in snapshot.values("weight_decay") if peak.get(name, 0.0) > 0 and max(decays[name]) > 0]
    if any(len(decays[name]) > 1 for name in used):
        return None, "none: the weight decay changed on the way, and T·η_peak·λ_wd is for a constant one"
    products = [peak[name] * next(iter(decays[name])) for name in used]
    if why := _outside_the_law(run):
        return None, f"none: {why}"
    if not products:
        return None, "none: no step with η and weight decay above 0 was sampled" if snapshot.step else ""
    return median(products) * snapshot.step, "T·η_peak·λ_wd"


def _outside_the_law(run: Run) -> str:
    """Why the run's training time in units of τ means nothing, by the optimizers that it recorded; empty if it does."""
    optimizers = getattr(run.runs[-1], "optimizers", ()) if run.runs else ()
    laws = {group["law"] for optimizer in optimizers for group in optimizer["groups"] if group.get("weight_decay")}
    return next((EXPLANATION.get(law, law) for law in sorted(laws) if law != "applies"), "")


def _attention(components: Sequence[Component], known: KnownAttention) -> Attention | None:
    if isinstance(known, Attention):
        return known
    main = _towers(components)[:1]
    return attention_of([c for c in components if c.tower in main], known or ())


def _towers(components: Sequence[Component]) -> tuple[str, ...]:
    sizes: dict[str, int] = {}
    for c in components:
        if c.part is None and c.block is not None:
            sizes[c.tower] = sizes.get(c.tower, 0) + c.numel
    if not sizes:  # a lone block, or a model that is not recognised as a list of blocks
        return tuple(dict.fromkeys(c.tower for c in components))
    return tuple(sorted(sizes, key=lambda tower: -sizes[tower]))


def _se_of_median(values: Sequence[float], errors: Sequence[float]) -> float:
    """1.2533·sd/√n of n > 2 normal values; sd from the median absolute deviation, which a few odd blocks do not move."""
    n = len(values)
    noise = math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else 0.0
    if n < 3:
        return noise / math.sqrt(n)
    centre = median(values)
    between = 1.4826 * median(abs(v - centre) for v in values)
    return 1.2533 * max(between, noise) / math.sqrt(n)
