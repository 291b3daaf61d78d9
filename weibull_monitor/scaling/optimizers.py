"""Which optimizers the scaling law is for: what a step is in units of η, and whether weight decay is decoupled.

The law needs two things of an optimizer: the size of its steps is a constant times η, whatever the gradients and the
weights; and weight decay multiplies the weights by 1 - ηλ_wd beside the step. Both are read from the class and from the
parameter groups. An optimizer that is not listed here is taken for none of these, since a wrong number is worse than none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from weibull_monitor.history.reasons import Reason
from weibull_monitor.scaling.deepspeed import wrappers

_DECOUPLED: Final = frozenset({"AdamW", "Lion", "AdEMAMix"})
"""Steps of the size η and decoupled weight decay."""
_ADAM_LIKE: Final = frozenset({"Adam", "NAdam", "RAdam", "Adamax", "RMSprop"})
"""Steps of the size η; weight decay is added to the gradient, unless the group says otherwise."""
_NOT_ETA: Final = frozenset({"SGD", "Adagrad", "Adadelta", "Rprop", "ASGD", "LBFGS"})
"""Steps of the size of the gradient, or that shrink or grow by themselves."""
_BY_WEIGHT: Final = frozenset({"LAMB", "Lamb", "LARS"})
"""Steps in proportion to the norm of the weights."""
_AFFIXES: Final = re.compile(r"^(?:DeepSpeedCPU|DeepSpeed|Paged|Fused|CPU|_)+|(?:8bit|4bit|32bit|Fp8)$")
"""What libraries put around the name of an optimizer whose rule they keep: bitsandbytes, torchao, Apex, DeepSpeed."""
_MUON_RMS: Final = 0.2
"""The RMS of an update of AdamW in units of η, to which Muon's ``match_rms_adamw`` sets its own (arXiv:2502.16982)."""


class Hyperparameters(NamedTuple):
    """What one parameter group is stepped with."""

    eta: float
    weight_decay: float
    reason: Reason | None = None
    """Why the scaling law does not apply; None if it does."""

    @property
    def law(self) -> bool:
        """Whether the scaling law applies: steps of the size η, and weight decay (if any) decoupled from the gradient."""
        return self.reason is None


def hyperparameters(group: Mapping[str, Any], optimizer: str) -> Hyperparameters:
    """η and λ_wd of a parameter group, and whether the law applies to it.

    Args:
        group: An element of ``optimizer.param_groups``, with a learning rate.
        optimizer: The optimizer's name, as `rule_of` has it.

    >>> hyperparameters({"lr": 1e-3, "weight_decay": 0.1}, "AdamW")
    Hyperparameters(eta=0.001, weight_decay=0.1, reason=None)
    >>> hyperparameters({"lr": 1e-3, "weight_decay": 0.1}, "Adam").reason
    'coupled_weight_decay'
    """
    eta, weight_decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
    return Hyperparameters(eta, weight_decay, why_not(group, optimizer))


def why_not(group: Mapping[str, Any], optimizer: str) -> Reason | None:
    """Why the scaling law does not apply to a parameter group; None if it does.

    Args:
        group: An element of ``optimizer.param_groups``.
        optimizer: The optimizer's name, as `rule_of` has it.

    >>> why_not({"lr": 0.1}, "SGD")
    'step_not_eta'
    >>> why_not({"lr": None, "relative_step": True, "scale_parameter": True}, "Adafactor")
    'own_learning_rate'
    """
    if group.get("lr") is None or group.get("relative_step"):
        return "own_learning_rate"
    if optimizer in _DECOUPLED:
        return None
    if optimizer in _ADAM_LIKE:
        decoupled = group.get("decoupled_weight_decay") or not group.get("weight_decay")
        return None if decoupled else "coupled_weight_decay"
    if optimizer == "Adafactor":  # torch's own scales by the weights always, that of transformers if asked to
        return "step_scaled_by_weight" if group.get("scale_parameter", True) else None
    if optimizer == "Muon":  # others by this name scale their steps in ways that their groups do not tell
        return None if "adjust_lr_fn" in group else "unknown_optimizer"
    if optimizer in _BY_WEIGHT:
        return "step_scaled_by_weight"
    return "step_not_eta" if optimizer in _NOT_ETA else "unknown_optimizer"


def rule_of(optimizer: Any) -> str:
    """The name of the rule that an optimizer follows: that of its class, or of the nearest of its bases that is known.

    >>> import torch
    >>> class PagedAdamW8bit(torch.optim.Optimizer):  # as bitsandbytes names them
    ...     def __init__(self, params):
    ...         super().__init__(params, {"lr": 1e-3})
    >>> rule_of(PagedAdamW8bit([torch.nn.Parameter(torch.zeros(2, 2))]))
    'AdamW'
    """
    names = [_AFFIXES.sub("", base.__name__) for base in type(optimizer).__mro__]
    known = _DECOUPLED | _ADAM_LIKE | _NOT_ETA | _BY_WEIGHT | {"Adafactor", "Muon"}
    rule = next((name for name in names if name in known), type(optimizer).__name__)
    return "AdamW" if rule == "Adam" and getattr(optimizer, "adam_w_mode", False) else rule  # Apex, DeepSpeed


def update_scale(group: Mapping[str, Any], optimizer: str, shape: Sequence[int]) -> float:
    """The RMS of a step of one matrix in units of η, relative to that of AdamW: 1 but for Muon.

    Muon's update is a matrix with singular values near 1, of RMS 1/√max(A, B) for a shape A × B; ``adjust_lr_fn``
    ``"original"`` multiplies it by √max(1, A/B), ``"match_rms_adamw"`` by 0.2·√max(A, B), which is the RMS of AdamW's
    (`torch.optim.Muon`; J. Liu et al., arXiv:2502.16982, 2025). For one matrix it is a constant.

    >>> update_scale({"adjust_lr_fn": "match_rms_adamw"}, "Muon", (512, 128))
    1.0
    >>> round(update_scale({"adjust_lr_fn": None}, "Muon", (400, 100)), 6)  # 5·√(4/400)
    0.5
    """
    if optimizer != "Muon" or len(shape) < 2 or group.get("adjust_lr_fn") == "match_rms_adamw":
        return 1.0
    rows, columns = shape[0], shape[1]
    return math.sqrt(max(1.0, rows / columns) / max(rows, columns)) / _MUON_RMS


def describe(optimizers: Iterable[Any]) -> list[dict[str, Any]]:
    """What each optimizer is, as the history keeps it: its class, and the hyper-parameters of its distinct groups.

    >>> import torch
    >>> describe([torch.optim.SGD([torch.nn.Parameter(torch.zeros(2, 2))], lr=0.1)])[0]["groups"]
    [{'weight_decay': 0, 'momentum': 0, 'law': 'step_not_eta'}]
    """
    found = []
    for optimizer in optimizers:
        rule, groups = rule_of(optimizer), []
        for group in optimizer.param_groups:
            kept = {name: _plain(group[name]) for name in ("weight_decay", "betas", "momentum") if name in group}
            kept["law"] = why_not(group, rule) or "applies"
            if kept not in groups:
                groups.append(kept)
        found.append({"class": type(optimizer).__name__, "groups": groups})
    return found


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, (tuple, list)) else value if value is None else _number(value)


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else float(value)


def innermost(optimizer: Any) -> Any:
    """The optimizer itself under the wrappers of Accelerate, Lightning and DeepSpeed.

    >>> import torch
    >>> inner = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 2))])
    >>> innermost(inner) is inner
    True
    """
    *_, inner = wrappers(optimizer)
    return inner
