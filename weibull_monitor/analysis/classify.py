"""What one k says: its regime, how far it has drifted, and whether published models have the like. With published thresholds."""

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

BAND: Final = (1.18, 1.21)
"""The transmission band of k."""
STRONG: Final = 0.95
"""k below this is strong selection."""
ONE_POPULATION: Final = 0.95
"""R² below this says that |w| is not of one population, so that k is the shape of none: often two scales in one matrix."""
MILD_DRIFT, STRONG_DRIFT = 0.01, 0.30
"""Drift |k/k_init − 1| under the first is none, over the second strong."""
_STATES: Final[tuple[tuple[float, TrainingState], ...]] = (
    (1.2, "saturated"),
    (0.8, "near saturated"),
    (0.4, "approaching"),
    (0.25, "partial"),
)
_INITIALISATIONS: Final = ("normal", "truncated_normal_2", "uniform")  # cut at 3σ it is within 0.12 % of the normal one


def regime(k: float, r2: float | None = None, noise: float = 0.0) -> Regime:
    """The regime of a shape: T. Ding, arXiv:2605.18898 (2026).

    In the band 1.18 to 1.21 it is that of transmission, from 0.95 to the band mild selection, below it strong selection. What
    lies above the band has *lighter* tails than a normal distribution and is no selection: a uniform initialisation has 1.375.

    Args:
        k: Shape, above 0.
        r2: R² of the fit; below 0.95 no single shape describes the matrix.
        noise: By how much k may miss the band and still be taken for one in it: two standard errors, say.

    Raises:
        ValueError: If ``k`` is not above 0.

    >>> [regime(k) for k in (0.8, 1.12, 1.19, 1.5)], regime(1.19, r2=0.9)
    (['strong selection', 'mild selection', 'transmission', 'above the band'], 'mixture')
    """
    if not k > 0:
        raise ValueError(f"k is {k}; a shape is above 0 (a fit that is not available has none)")
    if r2 is not None and r2 < ONE_POPULATION:
        return "mixture"
    if k > BAND[1] + noise:
        return "above the band"
    return "transmission" if k >= BAND[0] - noise else "mild selection" if k >= STRONG else "strong selection"


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
            schedule, is smaller where η falls (0.55 of it for a cosine to a tenth), and so may be the state that it gives.

    >>> [training_state(t) for t in (1.43, 0.858, 0.429, 0.3, 0.172)]
    ['saturated', 'near saturated', 'approaching', 'partial', 'transition']
    """
    if not t_over_tau >= 0:
        raise ValueError(f"T/τ is {t_over_tau}; it cannot be negative")
    return next((state for least, state in _STATES if t_over_tau >= least), "transition")


def initialisation_of(k: float) -> str:
    """The initialisation that a matrix of this shape may have had: a name in `weibull_monitor.measure.weibull.anchors`.

    The anchor nearest in ln k among those that weights are initialised with (normal, truncated, uniform). Training lowers k
    as a rule, so for a trained matrix this is a guess, and a trained matrix of uniform initialisation may be taken for one of
    normal initialisation: a run's own baseline is better.

    >>> initialisation_of(1.204), initialisation_of(1.374), initialisation_of(0.8)
    ('normal', 'uniform', 'normal')
    """
    return min(_INITIALISATIONS, key=lambda name: abs(math.log(k / anchors()[name].k)))


@dataclass(frozen=True)
class Classification:
    """What one k says.

    Attributes:
        k: The shape.
        regime: Its regime; what misses the band by less than two standard errors is in it.
        drift: k/k_init − 1.
        severity: Severity of the drift. Against an anchor, a drift of less than two standard errors is none.
        against: ``baseline`` if k_init is the run's own, else the name of the initialisation whose anchor it is.
        expected: The range of published medians; None where nothing comparable is published.
        position: Where k lies relative to that range.
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
    """Regime, drift and expectation of one shape: of one matrix, or the median over the blocks.

    The published figures are medians over blocks. A single matrix may lie outside of their range in a healthy model.

    Args:
        k: Shape, above 0.
        kind: Its kind, as in `weibull_monitor.model.components.CLASS_OF_KIND`; ``cross_…`` for cross-attention.
        attention: The type of attention, if known.
        r2: R² of the fit, if known.
        k_se: Standard error of k, if known.
        baseline: k of the same before training, if known. Without it drift is measured from an anchor.
        initialisation: Whose anchor: a name in `weibull_monitor.measure.weibull.anchors`; by default that which this k
            looks like.

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
    of = regime(k, r2, 2.0 * (k_se or 0.0))
    against = "baseline" if baseline is not None else initialisation or initialisation_of(k)
    start = baseline if baseline is not None else anchors()[against].k
    drift = k / start - 1.0
    # Two samples of one matrix share their noise; a sample and the anchor of an infinite matrix do not.
    noise = 2.0 * k_se / start if k_se is not None and baseline is None else 0.0
    expected = expected_range(kind, attention)
    return Classification(
        k=k,
        regime=of,
        drift=drift,
        severity=drift_severity(drift) if abs(drift) > noise else "none",
        against=against,
        expected=expected,
        position=expected.position(k) if expected else None,
    )
