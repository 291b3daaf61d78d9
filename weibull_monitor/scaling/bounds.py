"""How far one step of an optimizer can carry a weight: bounds that hold whatever the gradients are.

An update is w ← w - η(u + λ_wd·w). For optimizers that normalise, |u| has a bound, and so has what a matrix can move in a
number of steps: anything beyond was not done by the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_ADAM: Final = frozenset({"Adam", "AdamW", "FusedAdam", "DeepSpeedCPUAdam", "CPUAdam"})
_SIGN: Final = frozenset({"Lion", "SignSGD", "Signum"})
_NEWTON_SCHULZ: Final = 1.3
"""Largest singular value that Muon's five steps of Newton-Schulz give (K. Jordan et al., 2024: about 0.7 to 1.2)."""


@dataclass(frozen=True)
class UpdateBound:
    """What bounds u, the update of one step divided by η, weight decay apart.

    Attributes:
        each: Bound of the magnitude of every element; infinite if there is none.
        norm: Bound of the Frobenius norm of the whole parameter's update; infinite if there is none.
    """

    each: float = math.inf
    norm: float = math.inf

    def rms(self, elements: int) -> float:
        """Bound of the root mean square of u over any ``elements`` of the parameter.

        >>> UpdateBound(norm=8.0).rms(16)
        2.0
        """
        return min(self.each, self.norm / math.sqrt(elements))


def adam_bound(beta1: float, beta2: float) -> float:
    """Largest |m̂/√v̂| that Adam can reach at any step, whatever the gradients.

    Both are sums over past gradients, m of weights (1 - β₁)β₁ʲ, v of weights (1 - β₂)β₂ʲ; by the Cauchy-Schwarz inequality
    |m|/√v ≤ (1 - β₁)/√(1 - β₂) · √(Σⱼ(β₁²/β₂)ʲ), and equality is reached by gradients that grow by β₂/β₁ a step. The bias
    corrections only lower it (at the first step it is 1). D. P. Kingma and J. Ba, "Adam" (ICLR 2015), §2.1, give
    (1 - β₁)/√(1 - β₂), for a gradient that is zero but once; a gradient that grows goes beyond.

    Args:
        beta1: β₁.
        beta2: β₂.

    Returns:
        The bound; infinite if β₁² ≥ β₂, where there is none.

    >>> round(adam_bound(0.9, 0.999), 2), round(adam_bound(0.9, 0.95), 2)
    (7.27, 1.16)
    """
    if not 0.0 <= beta1 * beta1 < beta2 < 1.0:
        return math.inf
    return max(1.0, (1.0 - beta1) / math.sqrt(1.0 - beta2) / math.sqrt(1.0 - beta1 * beta1 / beta2))


def update_bound(optimizer: str, group: Mapping[str, Any], shape: Sequence[int]) -> UpdateBound | None:
    """What bounds the update of a parameter.

    Args:
        optimizer: The optimizer's class name.
        group: The parameter's element of ``optimizer.param_groups``.
        shape: The parameter's shape.

    Returns:
        The bound, or None for optimizers whose steps have none (SGD, Adagrad, …) or that are not known here.

    >>> update_bound("Lion", {}, (64, 64))
    UpdateBound(each=1.0, norm=inf)
    >>> update_bound("SGD", {"lr": 0.1}, (64, 64)) is None
    True
    """
    if optimizer in _ADAM and "betas" in group:
        each = adam_bound(*(float(beta) for beta in group["betas"]))
        return UpdateBound(each=each) if math.isfinite(each) else None
    if optimizer in _SIGN:
        return UpdateBound(each=1.0)
    if optimizer == "Adamax" and "betas" in group:  # |g| j steps ago is at most u/β₂ʲ: a geometric sum
        beta1, beta2 = (float(beta) for beta in group["betas"])
        return UpdateBound(each=max(1.0, (1.0 - beta1) / (1.0 - beta1 / beta2))) if beta1 < beta2 else None
    if optimizer == "Muon" and "ns_steps" in group and len(shape) == 2:  # torch.optim.Muon: orthogonal, then scaled
        scale = (
            0.2 * math.sqrt(max(shape))
            if group.get("adjust_lr_fn") == "match_rms_adamw"
            else math.sqrt(max(1.0, shape[0] / shape[1]))
        )
        return UpdateBound(each=_NEWTON_SCHULZ * scale, norm=_NEWTON_SCHULZ * scale * math.sqrt(min(shape)))
    if optimizer == "Adafactor" and (clip := group.get("d", group.get("clip_threshold"))):
        # The RMS of the update is clipped to d, and its rate is η times at most the matrix's RMS, taken to be below 1
        # (N. Shazeer, M. Stern, 2018, §6 and §8).
        return UpdateBound(norm=float(clip) * math.sqrt(math.prod(shape)))
    return None
