"""How far one step of an optimizer can move a weight, whatever the gradients are: derived from its formula, not measured.

An update is w ← w - η(u + λ_wd·w). Most optimizers divide a weighted sum of past gradients, Σⱼ κⱼ·g_{t-j}, by the root of a
weighted sum of their squares, Σⱼ ωⱼ·g²_{t-j}. By the Cauchy-Schwarz inequality |u|² ≤ Σⱼ κⱼ²/ωⱼ, with equality for
gradients in proportion to κⱼ/ωⱼ. Weight decay that is added to the gradient is part of g, and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Group = Mapping[str, Any]
"""A parameter group: an element of ``optimizer.param_groups``."""
Shape = Sequence[int]
"""The shape of a parameter."""

MUON_RMS: Final = 0.2
"""The RMS of an update of AdamW in units of η, to which Muon's ``match_rms_adamw`` sets its own (arXiv:2502.16982)."""
MAX_SINGULAR_VALUE: Final = 1.3
"""Largest singular value that Muon's five steps of Newton-Schulz give (K. Jordan et al., 2024: about 0.7 to 1.2)."""
MASKS: Final = ("caution", "cautious")
"""Options that keep the values of u with the sign of the gradient, and raise these by up to the number of all over theirs."""
MOST_STEPS: Final = 20_000
"""Steps that a bound is computed for one by one, where it depends on their number."""
STEADY_FROM: Final = 0.2
"""Share of RMSprop's v that has not been filled yet, from which on a step has nearly the size η (at most 1.12 times)."""


@dataclass(frozen=True)
class UpdateBound:
    """The bound of u, the update of one step divided by η, without weight decay.

    Attributes:
        each: Bound of the magnitude of every element; infinite if there is none.
        norm: Bound of the Frobenius norm of the whole parameter's update; infinite if there is none.
        least: If steps are multiplied by the parameter's own RMS, the smallest factor; None if they are not.
        steady: Whether the RMS of u is at most about 1 while gradients have a steady size. If not, only ``each`` counts.
        after: Steps of a parameter before which the bound is another one.
        before: What ``each`` is then; infinite if there is no bound then.
    """

    each: float = math.inf
    norm: float = math.inf
    least: float | None = None
    steady: bool = True
    after: int = 0
    before: float = math.inf

    @property
    def element(self) -> float | None:
        """Bound of the magnitude of every element, whatever the weights are; None if there is none."""
        return self.each if math.isfinite(self.each) and self.least is None else None

    def young(self) -> UpdateBound | None:
        """The bound of the steps up to ``after``; None if there is none.

        >>> UpdateBound(each=7.0, after=5).young() is None
        True
        >>> UpdateBound(each=10.0, after=160, before=10.0).young()
        UpdateBound(each=10.0, norm=inf, least=None, steady=False, after=0, before=inf)
        """
        if not math.isfinite(self.before):
            return None
        return replace(self, each=self.before, steady=False, after=0, before=math.inf)

    def rms(self, elements: int, weight: float = 1.0) -> float:
        """Bound of the root mean square of u over any ``elements`` of the parameter.

        Args:
            elements: Their number.
            weight: RMS of the whole parameter.

        >>> UpdateBound(norm=8.0).rms(16)
        2.0
        >>> UpdateBound(norm=8.0, least=1e-3).rms(64, weight=0.5), UpdateBound(norm=8.0, least=1e-3).rms(64, weight=0.0)
        (0.5, 0.001)
        >>> round(UpdateBound(norm=8.0, least=1e-3).rms(16, weight=0.5), 3)  # of a quarter, 2·0.5·√e
        1.649
        """
        return float(self.rms_of(np.array([float(elements)]), np.array([weight]), np.array([True]))[0])

    def rms_of(
        self, elements: NDArray[np.float64], weight: NDArray[np.float64], begun: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The same of several sets of elements, each argument of shape (sets,).

        Over an interval the RMS of all its steps counts, where that multiplies them. Steps of η·RMS lead from RMS₁ to RMS₂ over
        no more than √(RMS₁·RMS₂)·exp(Σ η/2), so for a part of the parameter the bound is √e times as high, enough for Σ η up to
        1. The RMS of the whole moves by at most Σ η times the larger of both.

        Args:
            elements: Numbers of elements.
            weight: RMS of the whole parameter.
            begun: Whether it was not zero at the start; LAMB lets what is zero take a step of another size.

        Returns:
            The bounds; NaN where there is none, and if the bound is not steady.
        """
        most: NDArray[np.float64] = np.minimum(self.each, self.norm / np.sqrt(elements))
        if not self.steady:
            return np.full(most.shape, np.nan)
        if self.least is None:
            return most
        most = np.where(np.abs(most - 1.0) < 1e-9, 1.0, most * math.exp(0.5))
        return np.where(begun | (self.least > 0.0), most * np.fmax(self.least, weight), np.nan)


def adam_bound(beta1: float, beta2: float) -> float:
    """Largest |m̂/√v̂| that Adam can reach at any step, whatever the gradients are.

    Both are sums over past gradients, m with weights (1 - β₁)β₁ʲ, v with weights (1 - β₂)β₂ʲ. By the Cauchy-Schwarz inequality
    |m|/√v ≤ (1 - β₁)/√(1 - β₂) · √(Σⱼ(β₁²/β₂)ʲ), with equality for gradients that grow by β₂/β₁ per step. The bias
    corrections only lower it, and so does AMSGrad, whose v is the largest of all. D. P. Kingma and J. Ba, "Adam" (ICLR 2015),
    §2.1, give (1 - β₁)/√(1 - β₂), for one gradient.

    Returns:
        The bound; infinite if β₁² ≥ β₂, where there is none.

    >>> round(adam_bound(0.9, 0.999), 2), round(adam_bound(0.9, 0.95), 2)
    (7.27, 1.16)
    """
    if not 0.0 <= beta1 * beta1 < beta2 < 1.0:
        return math.inf
    return max(1.0, (1.0 - beta1) / math.sqrt(1.0 - beta2) / math.sqrt(1.0 - beta1 * beta1 / beta2))


@cache
def nadam_bound(beta1: float, beta2: float, momentum_decay: float) -> float:
    """The same of NAdam (T. Dozat, 2016), whose step adds the gradient itself to the momentum.

    u = (a·g + b·m)/√v̂ with a = (1 - μ_t)/(1 - Πμ) and b = μ_{t+1}/(1 - Πμ), where μ_t = β₁(1 - 0.96^(tψ)/2) rises from β₁/2 to
    β₁. So κ₀ = a + b(1 - β₁), and κⱼ = b(1 - β₁)β₁ʲ. The sum is largest while μ is still low, and is looked for step by step.

    >>> round(nadam_bound(0.9, 0.999, 4e-3), 1), round(nadam_bound(0.9, 0.95, 4e-3), 2)
    (14.6, 2.67)
    """
    if not (0.0 <= beta1 * beta1 < beta2 < 1.0 and momentum_decay >= 0.0):
        return math.inf
    t = np.arange(1, MOST_STEPS + 2, dtype=float)  # (steps + 1,)
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay))
    left = 1.0 - np.cumprod(mu)
    a, b = (1.0 - mu[:-1]) / left[:-1], mu[1:] / left[1:]  # (steps,), as the following
    ratio = beta1 * beta1 / beta2
    older = (ratio - ratio ** t[:-1]) / (1.0 - ratio)
    squares = (a + b * (1.0 - beta1)) ** 2 + (b * (1.0 - beta1)) ** 2 * older
    most = float((squares * (1.0 - beta2 ** t[:-1])).max())
    # Of all later steps: the sum is convex in μ, so it is largest at one of its ends.
    for low in (float(mu[-1]), beta1):
        most = max(most, (1.0 - beta1 * low) ** 2 + (low * (1.0 - beta1)) ** 2 * ratio / (1.0 - ratio))
    return math.sqrt(most / (1.0 - beta2))


@cache
def adan_bound(beta1: float, beta2: float, beta3: float) -> float:
    """The same of Adan (X. Xie et al., 2022), whose n holds squares of h_t = g_t + β₂(g_t - g_{t-1}) and not of g.

    u = (m̂ + β₂·v̂)/√n̂, with m over g and v over g_t - g_{t-1}. Both are sums over h, as g_t = (h_t + β₂·g_{t-1})/(1 + β₂) and
    g_1 = h_1: with q = β₂/(1 + β₂), g_t is Σⱼ qʲ·h_{t-j}/(1 + β₂), but for the first h, which counts 1 + β₂ times as much.

    >>> round(adan_bound(0.98, 0.92, 0.99), 2)
    1.21
    """
    if not (0.5 <= beta2 < 1.0 and 0.5 <= beta1 < 1.0 and beta1 * beta1 < beta3 < 1.0):  # some write 1 - β for β
        return math.inf
    steps = min(MOST_STEPS, 200 + math.ceil(30.0 / (1.0 - max(beta1, beta2, beta1 * beta1 / beta3))))
    t = np.arange(1, steps + 1, dtype=float)  # (steps,), as the following; t - 1 is j
    q = beta2 / (1.0 + beta2)
    # Weights of h_{t-j} in g_t and in g_t - g_{t-1}, and then in m and in v.
    level = q ** (t - 1) / (1.0 + beta2)
    change = level - np.append(0.0, level[:-1])
    m = _averaged(level, beta1)
    v = _averaged(change, beta2)
    first = (1.0 + beta2) * (v - (1.0 - beta2) * beta2 ** (t - 1) * change[0])  # the first change is 0
    scale_m, scale_v = 1.0 / (1.0 - beta1**t), beta2 / (1.0 - beta2**t)
    weight = 1.0 / ((1.0 - beta3) * beta3 ** (t - 1))

    def younger(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(0.0, np.cumsum(a * b * weight)[:-1])

    squares = scale_m**2 * younger(m, m) + 2.0 * scale_m * scale_v * younger(m, v) + scale_v**2 * younger(v, v)
    squares += (scale_m * (1.0 + beta2) * m + scale_v * first) ** 2 * weight
    return math.sqrt(float((squares * (1.0 - beta3**t)).max()))


def _averaged(weights: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """Weights of the moving average of a sum with these weights, (steps,)."""
    out = np.empty_like(weights)
    kept = 0.0
    for j, weight in enumerate(weights):
        kept = out[j] = beta * kept + (1.0 - beta) * weight
    return out


def bound_none(group: Group, shape: Shape) -> UpdateBound | None:
    """No bound, or none that is known."""
    return None


def bound_sign(group: Group, shape: Shape) -> UpdateBound | None:
    """Lion, SignSGD: a sign. Sophia (H. Liu et al., 2023) clips to 1."""
    return UpdateBound(each=1.0)


def bound_adam(group: Group, shape: Shape) -> UpdateBound | None:
    """Adam, AdamW; and GaLore (J. Zhao et al., 2024), which steps in a projection of ``rank`` directions.

    There, m and v hold the same projected gradients, whatever the projections were, so each of rank × max(A, B) values has Adam's
    bound b. Orthonormal directions keep the norm: it is at most ``scale``·b·√(rank·max(A, B)), and each value ``scale``·b·√rank.
    """
    each = adam_bound(*map(float, group["betas"])) if len(group.get("betas", ())) == 2 else math.inf
    if not math.isfinite(each):
        return None
    if "rank" not in group:
        return UpdateBound(each=each)
    if "scale" not in group or len(shape) != 2:
        return None
    each *= float(group["scale"]) * math.sqrt(float(group["rank"]))
    return UpdateBound(each=each, norm=each * math.sqrt(max(shape)))


def bound_radam(group: Group, shape: Shape) -> UpdateBound | None:
    """RAdam (L. Liu et al., 2020): Adam's step times r_t ≤ 1, once ρ_t is above 5; before, m̂ alone, which has no bound."""
    bound = bound_adam(group, shape)
    if bound is None:
        return None
    beta2 = float(group["betas"][1])
    last = 2.0 / (1.0 - beta2) - 1.0
    # ρ_t = ρ_∞ - 2tβ₂ᵗ/(1 - β₂ᵗ) rises with t, by at most 1 a step.
    for t in range(1, 100):
        if last - 2.0 * t * beta2**t / (1.0 - beta2**t) > 5.0:
            return replace(bound, after=t - 1)
    return None


def bound_nadam(group: Group, shape: Shape) -> UpdateBound | None:
    """NAdam of torch, whose groups have its ``momentum_decay``."""
    if len(group.get("betas", ())) != 2 or "momentum_decay" not in group:
        return None
    each = nadam_bound(*map(float, group["betas"]), float(group["momentum_decay"]))
    return UpdateBound(each=each) if math.isfinite(each) else None


def bound_adan(group: Group, shape: Shape) -> UpdateBound | None:
    """Adan, with the β of its authors' code, all near 1."""
    betas = group.get("betas", ())
    each = adan_bound(*map(float, betas)) if len(betas) == 3 else math.inf
    return UpdateBound(each=each) if math.isfinite(each) else None


def bound_ademamix(group: Group, shape: Shape) -> UpdateBound | None:
    """AdEMAMix (M. Pagliardini et al., 2024): (m̂ + α·m₂)/√v̂. None for β₃² ≥ β₂, as its authors have it, or a β₃ in warm-up.

    Its steps are up to 1 + α times as long as Adam's, while gradients keep their sign.
    """
    betas = tuple(map(float, group.get("betas", ())))
    if len(betas) != 3 or "alpha" not in group or group.get("t_alpha_beta3") is not None:
        return None
    each = adam_bound(*betas[:2]) + float(group["alpha"]) * adam_bound(betas[2], betas[1])
    return UpdateBound(each=each, steady=False) if math.isfinite(each) else None


def bound_adamax(group: Group, shape: Shape) -> UpdateBound | None:
    """Adamax: |g| of j steps ago is at most u/β₂ʲ, so the sum is geometric."""
    beta1, beta2 = map(float, group.get("betas", (1.0, 1.0)))
    return UpdateBound(each=max(1.0, (1.0 - beta1) / (1.0 - beta1 / beta2))) if beta1 < beta2 else None


def bound_rmsprop(group: Group, shape: Shape) -> UpdateBound | None:
    """RMSprop: |g|/√v ≤ 1/√(1 - α), as v holds (1 - α)g². A momentum μ adds up to 1/(1 - μ) of these.

    v begins at 0 and is not corrected, so the first step is that long, and at gradients of a steady size later ones are
    1/√(1 - αᵗ). Centered, v - ḡ² vanishes where gradients stay the same, and there is no bound.
    """
    alpha, momentum = float(group.get("alpha", 1.0)), float(group.get("momentum") or 0.0)
    if not (0.0 <= alpha < 1.0 and 0.0 <= momentum < 1.0) or group.get("centered"):
        return None
    each = 1.0 / math.sqrt(1.0 - alpha) / (1.0 - momentum)
    if momentum:
        return UpdateBound(each=each, steady=False)
    return UpdateBound(each=each, after=math.ceil(math.log(STEADY_FROM) / math.log(alpha)) if alpha else 0, before=each)


def bound_adagrad(group: Group, shape: Shape) -> UpdateBound | None:
    """Adagrad: |g| is at most the root of the sum of all g². At a steady size steps shrink as 1/√t."""
    return UpdateBound(each=1.0, steady=False)


def bound_muon(group: Group, shape: Shape) -> UpdateBound | None:
    """Muon of torch: min(A, B) singular values of at most `MAX_SINGULAR_VALUE`, times the factor of ``adjust_lr_fn``.

    Others of this name scale their steps in ways that their groups do not show, and step some parameters by another rule.
    """
    if "ns_steps" not in group or "adjust_lr_fn" not in group or len(shape) != 2:
        return None
    largest = MAX_SINGULAR_VALUE * muon_factor(group, shape)
    return UpdateBound(each=largest, norm=largest * math.sqrt(min(shape)))


def bound_adafactor(group: Group, shape: Shape) -> UpdateBound | None:
    """Adafactor: the RMS of the update is clipped to d, and its rate is η, or η·max(ε₂, RMS).

    N. Shazeer, M. Stern, "Adafactor" (2018), §6 and §8. None with the first moment that transformers and timm have as an
    option, in which earlier η count.
    """
    clip = group.get("d", group.get("clip_threshold"))
    if not clip or group.get("beta1") is not None or "betas" in group:
        return None
    eps = group.get("eps")
    floor = float(eps[1]) if isinstance(eps, (tuple, list)) and len(eps) == 2 and eps[1] is not None else 1.0
    scaled = bool(group.get("scale_parameter", True))
    if scaled and float(clip) > 1.0:  # `UpdateBound.rms_of` counts on steps of η·RMS at most
        return None
    return UpdateBound(norm=float(clip) * math.sqrt(math.prod(shape)), least=floor if scaled else None)


def bound_lamb(group: Group, shape: Shape) -> UpdateBound | None:
    """LAMB (Y. You et al., 2020): whatever Adam's u is, the step, with its weight decay, has the norm of the weights or less.

    Without weight decay, Apex and timm take Adam's steps instead unless told otherwise.
    """
    plain = bound_adam(group, shape)
    if plain is None:
        return None
    always = bool(group.get("weight_decay")) or bool(group.get("always_adapt"))
    return UpdateBound(norm=math.sqrt(math.prod(shape)), least=0.0 if always else plain.each)


def bound_lamb_of_timm(group: Group, shape: Shape) -> UpdateBound | None:
    """LAMB of timm, which is recognized by its options.

    Others of this name (DeepSpeed, pytorch-optimizer, torch_optimizer) have a smallest ratio, or multiply their steps by the bias
    corrections or by nothing, which their groups do not show.
    """
    return bound_lamb(group, shape) if "always_adapt" in group else None


def muon_factor(group: Group, shape: Shape) -> float:
    """What ``adjust_lr_fn`` multiplies the orthogonal update of an A × B matrix by (`torch.optim.Muon`)."""
    if group.get("adjust_lr_fn") == "match_rms_adamw":
        return MUON_RMS * math.sqrt(max(shape))
    return math.sqrt(max(1.0, shape[0] / shape[1]))


def masked(group: Group) -> bool:
    """Whether u is masked and the rest of it raised (K. Liang et al., "Cautious Optimizers", 2024): up to the number of values.

    >>> masked({"caution": True}), masked({"caution": False}), masked({"cautious_factor": 0.0})
    (True, False, True)
    """
    return any(group.get(name) for name in MASKS) or float(group.get("cautious_factor", 1.0)) < 1.0
