"""`ComparedSample`: the common form of a live sample, a recorded one or a whole history, ready to be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from weibull_monitor.analysis.attention import Attention, attention_of
from weibull_monitor.analysis.classify import initialisation_of
from weibull_monitor.analysis.expected import ExpectedRange, expected_range
from weibull_monitor.analysis.scope import outside_of_published
from weibull_monitor.analysis.start import reference_of
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.reasons import EXPLANATION
from weibull_monitor.history.record import History, RecordedSnapshot
from weibull_monitor.history.snapshot import Reference, Snapshot
from weibull_monitor.model.components import AttentionType, Component, representatives
from weibull_monitor.model.initial_scale import InitialScale

Source = Snapshot | RecordedSnapshot | History
KnownAttention = Attention | Iterable[AttentionType | Mapping[str, Any]] | None


@dataclass(frozen=True)
class KindMedian:
    """A kind's shapes over the blocks.

    Attributes:
        kind: The kind, as metric keys spell it.
        k: Median over the matrices.
        se: Standard error of that median: from the spread over the matrices, or from the fits if that is larger.
        lambda_: Median scale.
        matrices: Number of matrices.
        names: Their names.
    """

    kind: str
    k: float
    se: float
    lambda_: float
    matrices: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class ComparedSample:
    """One sample, and what is known about the model and its training.

    Attributes:
        step: Optimizer steps taken.
        components: The components of the sample.
        k: Shape by component name.
        k_se: Standard error of k by component name, for independent values.
        lambda_: Scale by component name.
        r2: R² of the fit by component name.
        baseline: Shape before training by component name; empty if not known.
        baseline_lambda: Scale before training by component name; empty if not known.
        attention: Attention of the main tower; None if there is none.
        t_over_tau: S = Σ η·λ_wd, training time in units of τ; the median over the matrices, or None.
        peak_time: T·η_peak·λ_wd, which the published tables call T/τ: it counts the highest η for all steps. None if it is not
            known; a live sample alone does not know it.
        clock: Why there is no ``peak_time``, if there is a reason to give.
        model: What is known of the model beside its matrices, as `weibull_monitor.model.architecture.facts_of` has it.
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
    peak_time: float | None = None
    clock: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def start(self) -> Mapping[str, Reference]:
        """k and λ where the matrices began, by name: at the run's baseline, or as the model's own code initialises them."""
        if self.baseline:
            both = self.baseline.keys() & self.baseline_lambda.keys()
            return {name: Reference(self.baseline[name], self.baseline_lambda[name]) for name in both}
        drawn = self.model.get("initial") or {}
        return {
            c.name: reference_of(InitialScale(*drawn[c.parameter])) for c in self.components if c.parameter in drawn
        }

    @cached_property
    def k_error(self) -> Mapping[str, float]:
        """Standard error of k by component name; of a scan it takes into account that values of one row or column are alike."""
        effects = self.model.get("design_effects") or {}
        return {name: se * math.sqrt(max(1.0, effects.get(name, 1.0))) for name, se in self.k_se.items()}

    @cached_property
    def from_zero(self) -> frozenset[str]:
        """Names of the matrices that began at zero, as the B of an adapter does: with a fit, they have moved."""
        return frozenset(c.name for c in self.components if c.kind == "adapter_b" and c.name not in self.baseline)

    @cached_property
    def frozen(self) -> frozenset[str]:
        """Names of the matrices that are not trained, beside others that are."""
        still = frozenset(c.name for c in self.components if not c.trainable)
        return still if len(still) < len(self.components) else frozenset()

    @cached_property
    def outside(self) -> str:
        """Why the model is outside of what is published; empty if it may be compared with the published models."""
        main = self.towers[:1]
        return outside_of_published(self.model, [c for c in self.components if c.tower in main], self.attention)

    def expected(self, of: str) -> ExpectedRange | None:
        """The published range of k of a kind or class, as `expected_range`; None for a model outside of what is published."""
        return None if self.outside else expected_range(of, self.attention)

    @property
    def towers(self) -> tuple[str, ...]:
        """Lists of blocks with matrices, the one with most elements first."""
        return _towers(self.components)

    @property
    def comparable(self) -> tuple[Component, ...]:
        """Dense matrices of the main tower with a fit, each once: the ones that published models have values for."""
        main = self.towers[:1]
        shown = representatives(self.components)
        return tuple(
            c for c in shown if c.tower in main and c.expert is None and len(c.shape) == 2 and c.name in self.k
        )

    @property
    def experts(self) -> bool:
        """Whether the model has experts; no published model has."""
        return any(c.expert is not None or (c.kind.startswith("ffn_") and len(c.shape) > 2) for c in self.components)

    @property
    def initialisation(self) -> str | None:
        """The initialisation that the feed-forward matrices look like; None if there are none.

        Training moves these matrices least, but it is a guess for runs without a baseline: see `initialisation_of`.
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
            k=median(k),
            se=_se_of_median(k, [self.k_error[name] for name in names if name in self.k_error]),
            lambda_=median(self.lambda_[name] for name in names),
            matrices=len(names),
            names=names,
        )


def compared_sample(
    source: Source | ComparedSample,
    attention: KnownAttention = None,
    step: int | None = None,
) -> ComparedSample:
    """Brings a sample or a history into the common form.

    Args:
        source: A `Snapshot`, a `RecordedSnapshot`, a `History`, or a `ComparedSample`, which is returned. A history also has
            the baseline and the training time.
        attention: The attention as `attention_types` returns it. By default as the history records it, or from the sizes of
            the matrices.
        step: Step of the sample within a history; the last one by default.

    Raises:
        ConfigurationError: For a history without samples or without that step, a step of something else than a history, or an
            object of another type.
    """
    if isinstance(source, History):
        return _of_history(source, attention, step)
    if step is not None:
        raise ConfigurationError("a step can be chosen of a history only; pass what read_history returns")
    if isinstance(source, ComparedSample):
        return source
    if isinstance(source, Snapshot):
        return _of_snapshot(source, attention)
    if isinstance(source, RecordedSnapshot):
        return _of_record(source, attention)
    raise ConfigurationError(
        f"a {type(source).__name__} cannot be compared; pass a Snapshot, a RecordedSnapshot or what read_history returns"
    )


def _of_history(run: History, attention: KnownAttention, step: int | None) -> ComparedSample:
    snapshot = _at_step(run, step)
    recorded = run.runs[-1].attention if run.runs else ()
    start = run.baseline if snapshot.step > 0 else None
    peak_time, clock = _peak_time(run, snapshot)
    return _of_record(
        snapshot,
        attention if attention is not None else recorded,
        baseline=start.values("k") if start else {},
        baseline_lambda=start.values("lambda") if start else {},
        peak_time=peak_time,
        clock=clock,
    )


def _at_step(run: History, step: int | None) -> RecordedSnapshot:
    if not run.snapshots:
        raise ConfigurationError(f"{run.path} holds no samples yet")
    if step is None:
        return run.snapshots[-1]
    nearest = min(run.snapshots, key=lambda snapshot: abs(snapshot.step - step))
    if nearest.step != step:
        raise ConfigurationError(f"{run.path} holds no sample of step {step}; the nearest is of step {nearest.step}")
    return nearest


def _of_snapshot(snapshot: Snapshot, attention: KnownAttention) -> ComparedSample:
    fits = {name: fit for name, fit in snapshot.fits.items() if fit.available}
    start = snapshot.baseline if snapshot.step else {}
    spent = [s.t_over_tau for s in snapshot.scaling.values() if s.t_over_tau is not None]
    return ComparedSample(
        step=snapshot.step,
        components=snapshot.components,
        k={name: fit.k for name, fit in fits.items()},
        k_se={name: fit.k_se for name, fit in fits.items()},
        lambda_={name: fit.lambda_ for name, fit in fits.items()},
        r2={name: fit.r2 for name, fit in fits.items()},
        baseline={name: reference.k for name, reference in start.items()},
        baseline_lambda={name: reference.lambda_ for name, reference in start.items()},
        attention=_attention(snapshot.components, attention),
        t_over_tau=median(spent) if spent else None,
        model=snapshot.model,
    )


def _of_record(snapshot: RecordedSnapshot, attention: KnownAttention, **more: Any) -> ComparedSample:
    columns = {name: snapshot.values(name) for name in ("k", "k_se", "lambda", "r2")}
    spent = snapshot.values("t_over_tau").values()
    fitted = columns["k"].keys() & columns["lambda"].keys() & columns["r2"].keys()
    return ComparedSample(
        step=snapshot.step,
        components=snapshot.components,
        k={name: k for name, k in columns["k"].items() if name in fitted},
        k_se=columns["k_se"],
        lambda_=columns["lambda"],
        r2=columns["r2"],
        attention=_attention(snapshot.components, attention),
        t_over_tau=median(spent) if spent else None,
        model=snapshot.model,
        **more,
    )


def _peak_time(run: History, snapshot: RecordedSnapshot) -> tuple[float | None, str]:
    """T·η_peak·λ_wd as published, with the highest η sampled so far: median over the matrices that have both.

    Returns:
        The value, or None and why there is none.
    """
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
        return None, "the weight decay changed on the way, and T·η_peak·λ_wd needs a constant one"
    products = [peak[name] * next(iter(decays[name])) for name in used]
    if why := _outside_the_law(run):
        return None, why
    if not products:
        return None, "no step with η and weight decay above 0 was sampled" if snapshot.step else ""
    return median(products) * snapshot.step, ""


def _outside_the_law(run: History) -> str:
    """Why S has no meaning for the optimizers of this run; empty if it has."""
    optimizers = run.runs[-1].optimizers if run.runs else ()
    groups = [group for optimizer in optimizers for group in optimizer.get("groups", ())]
    laws = {str(group.get("law", "applies")) for group in groups if group.get("weight_decay")}
    words: Mapping[str, str] = {str(reason): text for reason, text in EXPLANATION.items()}
    return next((words.get(law, law) for law in sorted(laws) if law != "applies"), "")


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
    """Standard error of a median: 1.2533·sd/√n for n > 2 normal values.

    The sd is 1.4826 times the median absolute deviation, which a few odd blocks do not move.
    """
    n = len(values)
    noise = math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else 0.0
    if n < 3:
        return noise / math.sqrt(n)
    centre = median(values)
    between = 1.4826 * median(abs(v - centre) for v in values)
    return 1.2533 * max(between, noise) / math.sqrt(n)
