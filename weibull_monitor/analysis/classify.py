"""What one k says: its regime, its drift, and its position in the published range. The thresholds are the published ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from weibull_monitor.analysis.attention import Attention
from weibull_monitor.analysis.expected import ExpectedRange, Position, expected_range
from weibull_monitor.analysis.published import AttentionKind
from weibull_monitor.measure.weibull import anchors

Regime = Literal["transmission", "mild selection", "strong selection", "above the band", "mixture"]
Severity = Literal["none", "mild", "strong"]
TrainingState = Literal["transition", "partial", "approaching", "near saturated", "saturated"]

TRANSMISSION_REGIME: Final = (1.18, 1.21)
"""Published thresholds for a single k, in the transmission regime between them.

They are wider than `FEED_FORWARD_BAND`, the range of per-model medians: that band, rounded outward to two decimals.
"""
STRONG_SELECTION: Final = 0.95
"""Published threshold: k below it is strong selection."""
ONE_POPULATION: Final = 0.95
"""Published threshold: with R² below it, |w| is not one population (often two scales in one matrix), and k describes neither."""
MILD_DRIFT: Final = 0.01
"""Published threshold: a drift |k/k_init − 1| below it is none."""
STRONG_DRIFT: Final = 0.30
"""Published threshold: a drift |k/k_init − 1| above it is strong."""
_STATES: Final[tuple[tuple[float, TrainingState], ...]] = (
    (1.2, "saturated"),
    (0.8, "near saturated"),
    (0.4, "approaching"),
    (0.25, "partial"),
)
_INITIALISATIONS: Final = ("normal", "truncated_normal_2", "uniform")  # truncated at 3σ, k is within 0.12 % of normal


def regime(k: float, r2: float | None = None, noise: float = 0.0) -> Regime:
    """The regime of a shape: T. Ding, arXiv:2605.18898 (2026).

    Transmission is from 1.18 to 1.21, mild selection from 0.95 to 1.18, strong selection below 0.95. A k above 1.21 has
    *lighter* tails than a normal distribution and is not selection: a uniform initialisation has 1.375.

    Args:
        k: Shape, above 0.
        r2: R² of the fit; below 0.95 no single shape describes the matrix.
        noise: How far k may be outside the transmission regime and still count as inside: for example two standard errors.

    Raises:
        ValueError: If ``k`` is not above 0.

    >>> [regime(k) for k in (0.8, 1.12, 1.19, 1.5)], regime(1.19, r2=0.9)
    (['strong selection', 'mild selection', 'transmission', 'above the band'], 'mixture')
    """
    if not k > 0:
        raise ValueError(f"k is {k}; a shape is above 0 (a fit that is not available has no shape)")
    if r2 is not None and r2 < ONE_POPULATION:
        return "mixture"
    low, high = TRANSMISSION_REGIME
    if k > high + noise:
        return "above the band"
    return "transmission" if k >= low - noise else "mild selection" if k >= STRONG_SELECTION else "strong selection"


def drift_severity(drift: float) -> Severity:
    """Severity of a drift k/k_init − 1: under 1 % none, to 30 % mild, over 30 % strong (arXiv:2605.18898).

    >>> [drift_severity(k / 1.2054 - 1) for k in (1.199, 1.12, 0.81)]
    ['none', 'mild', 'strong']
    """
    size = abs(drift)
    return "none" if size < MILD_DRIFT else "mild" if size <= STRONG_DRIFT else "strong"


def training_state(t_over_tau: float) -> TrainingState:
    """How far training has come, from T/τ = T·η_peak·λ_wd (arXiv:2605.18898; τ: X. Wang, L. Aitchison, arXiv:2405.13698, 2024).

    Args:
        t_over_tau: T/τ, not negative. The published thresholds are for this product; S = Σ η_t λ_wd, which follows the
            schedule, is smaller where η falls (0.55 of T/τ for a cosine to a tenth), and may give an earlier state.

    >>> [training_state(t) for t in (1.43, 0.858, 0.429, 0.3, 0.172)]
    ['saturated', 'near saturated', 'approaching', 'partial', 'transition']
    """
    if not t_over_tau >= 0:
        raise ValueError(f"T/τ is {t_over_tau}; it cannot be negative")
    return next((state for least, state in _STATES if t_over_tau >= least), "transition")


def initialisation_of(k: float) -> str:
    """The initialisation that a matrix of this shape probably had: a name in `weibull_monitor.measure.weibull.anchors`.

    The nearest anchor in ln k among normal, truncated and uniform initialisation. Training usually lowers k, so for a trained
    matrix this is a guess: a matrix with uniform initialisation may look like a normal one. Prefer a run's own baseline.

    >>> initialisation_of(1.204), initialisation_of(1.374), initialisation_of(0.8)
    ('normal', 'uniform', 'normal')
    """
    return min(_INITIALISATIONS, key=lambda name: abs(math.log(k / anchors()[name].k)))


@dataclass(frozen=True)
class Classification:
    """What one k says.

    Attributes:
        k: The shape.
        regime: Its regime; k within two standard errors of the transmission regime counts as transmission.
        drift: k/k_init − 1.
        severity: Severity of the drift. Against an anchor, a drift below two standard errors is ``none``.
        against: ``baseline`` if k_init is from the run itself, ``own`` if it is that of the model's own code, else the name of
            the initialisation whose anchor is taken.
        expected: The range of published medians; None where nothing comparable is published.
        position: Where k lies relative to that range; within two standard errors of it counts as inside.
    """

    k: float
    regime: Regime
    drift: float
    severity: Severity
    against: str
    expected: ExpectedRange | None
    position: Position | None


def classify(
    k: float,
    kind: str,
    attention: AttentionKind | Attention | None = None,
    *,
    r2: float | None = None,
    k_se: float | None = None,
    baseline: float | None = None,
    initialisation: str | None = None,
) -> Classification:
    """Regime, drift and expected range of one shape: of one matrix, or the median over the blocks.

    The published values are medians over blocks. A single matrix of a healthy model may be outside their range.

    Args:
        k: Shape, above 0.
        kind: Its kind, as in `weibull_monitor.model.components.CLASS_OF_KIND`; ``cross_…`` for cross-attention.
        attention: The type of attention, if known.
        r2: R² of the fit, if known.
        k_se: Standard error of k, if known.
        baseline: k of the same matrix before training, if known. Without it drift is measured from an anchor.
        initialisation: Name of that anchor in `weibull_monitor.measure.weibull.anchors`; by default `initialisation_of` of k.

    Raises:
        ValueError: If ``k`` is not above 0.
        KeyError: For an unknown initialisation.

    >>> result = classify(1.12, "attn_q", "gqa")
    >>> result.position, result.severity, result.regime, str(result.expected)
    ('inside', 'mild', 'mild selection', '1.095–1.164')
    >>> classify(1.12, "ffn_up", "gqa").position
    'below'
    >>> fresh = classify(1.374, "attn_q", "mha", k_se=0.005)
    >>> fresh.against, fresh.severity, fresh.regime, fresh.position
    ('uniform', 'none', 'above the band', 'above')
    """
    against = "baseline" if baseline is not None else initialisation or initialisation_of(k)
    start = baseline if baseline is not None else anchors()[against].k
    drift = k / start - 1.0
    # Two samples of one matrix share their noise; a sample and the anchor of an infinite matrix do not.
    noise = 2.0 * k_se / start if k_se is not None and baseline is None else 0.0
    expected = expected_range(kind, attention)
    return Classification(
        k=k,
        regime=regime(k, r2, 2.0 * (k_se or 0.0)),
        drift=drift,
        severity=drift_severity(drift) if abs(drift) > noise else "none",
        against=against,
        expected=expected,
        position=expected.position(k, 2.0 * (k_se or 0.0)) if expected else None,
    )
