"""The table of optimizers: one row for each, which the scaling law, the bounds of updates, the forces and the updates read.

The law needs two things of an optimizer: its steps have the size of a constant times η, whatever the gradients and the weights
are; and weight decay multiplies the weights by 1 - ηλ_wd beside the step. An optimizer that has no row is taken for one that
has neither, because a wrong number is worse than none.

An update is w ← w - η(u + λ_wd·w). If |u| has a bound, so has the change of a matrix over some steps: a larger one was not made
by the optimizer.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from weibull_monitor.history.reasons import Reason
from weibull_monitor.scaling import bounds
from weibull_monitor.scaling.bounds import MUON_RMS, Group, Shape, UpdateBound, muon_factor
from weibull_monitor.scaling.deepspeed import wrappers

FIXED_DECAY: Final = ("fixed_decay", "decouple_lr")
"""Options of pytorch-optimizer and optimi with which weight decay is not multiplied by η."""
DECOUPLED: Final = ("decoupled_weight_decay", "weight_decouple", "decouple", "decoupled_decay")
"""Names under which parameter groups say whether their weight decay is decoupled: PyTorch's, and those of other libraries."""
UpdateForm = Literal["adam", "sign", "momentum", "orthogonal"]
"""What a state tells of the update u: m̂/(√v̂ + ε) itself; or a momentum, of which u is the sign, itself, or it made orthogonal."""


class Hyperparameters(NamedTuple):
    """What one parameter group is stepped with."""

    eta: float
    weight_decay: float
    reason: Reason | None = None
    """Why the scaling law does not apply; None if it does."""


def _muon_scale(group: Group, shape: Shape) -> float:
    """Muon's update has singular values near 1, so an RMS of 1/√max(A, B) (J. Liu et al., arXiv:2502.16982, 2025)."""
    if len(shape) < 2 or group.get("adjust_lr_fn") == "match_rms_adamw":
        return 1.0
    return muon_factor(group, shape[:2]) / math.sqrt(max(shape[:2])) / MUON_RMS


def _always(reason: Reason) -> Callable[[Group], Reason | None]:
    return lambda group: reason


def _muon_step(group: Group) -> Reason | None:
    """Others of this name scale their steps in ways that their groups do not show."""
    return None if "adjust_lr_fn" in group else "unknown_optimizer"


def _adafactor_step(group: Group) -> Reason | None:
    """torch's own always scales its steps by the weights, that of transformers on request."""
    return "step_scaled_by_weight" if group.get("scale_parameter", True) else None


def chooses_rate(group: Group) -> bool:
    """Whether an optimizer chooses the learning rate of a group by itself; it is not what stands in the group's ``lr`` then.

    >>> chooses_rate({"lr": 0.0, "relative_step": True})  # Adafactor, beside its AdafactorSchedule
    True
    """
    # Rprop keeps a step size of each value.
    own = group.get("lr") is None or "step_sizes" in group or bool(group.get("relative_step"))
    return own or _fixed_decay(group) or _by_distance(group)


def _fixed_decay(group: Group) -> bool:
    """Whether weight decay is not multiplied by η, so that nothing that is said of ηλ_wd is true."""
    return any(map(group.get, FIXED_DECAY))


def _by_distance(group: Group) -> bool:
    """Whether steps are d·lr, where d is an estimate of the distance to the solution that grows: D-Adaptation and Prodigy."""
    # Torch's Adafactor has another d.
    return "growth_rate" in group or "d0" in group or ("d" in group and "beta2_decay" not in group)


def rate_of(group: Group) -> Any:
    """η of the last step of a group, a number or a tensor; None if the optimizer chooses it and does not say it.

    >>> rate_of({"lr": 0.1}), rate_of({"lr": 0.5, "d": 1e-3, "growth_rate": 2.0}), rate_of({"lr": None})
    (0.1, 0.0005, None)
    """
    if not chooses_rate(group):
        return group["lr"]
    if not _by_distance(group) or _fixed_decay(group):
        return None
    lr, d = group.get("lr"), group.get("d")
    return float(lr) * float(d) if isinstance(lr, (int, float)) and isinstance(d, (int, float)) else None


@dataclass(frozen=True)
class OptimizerRule:
    """What the scaling law, the bounds and the forces need to know of one optimizer.

    Attributes:
        name: Its class name, without the prefixes and suffixes in `AFFIXES`.
        decoupled: Whether weight decay multiplies the weights, instead of being added to a gradient that is normalised then. A
            group's `DECOUPLED` and an optimizer's ``adam_w_mode`` set it too.
        step: Of a parameter group, why its steps do not have the size η; None if they do.
        scale: Of a group and a parameter's shape, the RMS of a step in units of η, relative to AdamW's.
        bounds: Of a group and a parameter's shape, the bound of its update, but for options that all optimizers may have.
        update: How its update is found in its state; None if it is not. `weibull_monitor.scaling.updates` has the formulas, and
            the names that the state is looked for under.
        step_count: Where its own step count is, if it has one: the ``step`` of a parameter's state, or that of the group.
    """

    name: str
    decoupled: bool = True
    step: Callable[[Group], Reason | None] = lambda group: None
    scale: Callable[[Group, Shape], float] = lambda group, shape: 1.0
    bounds: Callable[[Group, Shape], UpdateBound | None] = bounds.bound_none
    update: UpdateForm | None = None
    step_count: Literal["state", "group"] = "state"

    @property
    def forces(self) -> bool:
        """Whether the forces can be computed from the state, where weight decay is decoupled."""
        return self.update == "adam"

    def bound(self, group: Group, shape: Shape) -> UpdateBound | None:
        """The bound of the update of a parameter; None if there is none, or none that is known.

        >>> RULES["Lion"].bound({"lr": 1e-4}, (2, 2)), RULES["Lion"].bound({"lr": 1e-4, "caution": True}, (2, 2))
        (UpdateBound(each=1.0, norm=inf, least=None, steady=True, after=0, before=inf), None)
        """
        return None if bounds.masked(group) else self.bounds(group, shape)

    def sized(self, group: Group, shape: Shape) -> UpdateForm | None:
        """`update`, if the size of a step follows from it; None for steps that the state does not show.

        >>> RULES["SGD"].sized({"nesterov": False}, (2, 2)), RULES["SGD"].sized({"nesterov": True}, (2, 2))
        ('momentum', None)
        """
        if self.update == "momentum" and group.get("nesterov"):  # the step adds the gradient to it, which is gone
            return None
        if self.update == "orthogonal" and (self.step(group) is not None or len(shape) != 2):
            return None
        return self.update

    def decouples(self, group: Group) -> bool:
        """Whether the weight decay of a parameter group is decoupled from the gradient."""
        said = [bool(group[key]) for key in DECOUPLED if key in group]
        return any(said) if said else self.decoupled

    def why_not(self, group: Group) -> Reason | None:
        """Why the scaling law does not apply to a parameter group; None if it does.

        >>> RULES["SGD"].why_not({"lr": 0.1})
        'step_not_eta'
        >>> RULES["Adafactor"].why_not({"lr": None, "relative_step": True, "scale_parameter": True})
        'own_learning_rate'
        """
        if chooses_rate(group):
            return "step_not_eta" if "step_sizes" in group else "own_learning_rate"
        if group.get("weight_decay") and not self.decouples(group):
            return "coupled_weight_decay"
        return self.step(group)

    def hyperparameters(self, group: Group) -> Hyperparameters:
        """η and λ_wd of a parameter group with a learning rate, and whether the law applies to it.

        >>> RULES["Adam"].hyperparameters({"lr": 1e-3, "weight_decay": 0.1})
        Hyperparameters(eta=0.001, weight_decay=0.1, reason='coupled_weight_decay')
        """
        return Hyperparameters(float(group["lr"]), float(group.get("weight_decay") or 0.0), self.why_not(group))


_GRADIENT, _WEIGHT, _UNKNOWN = _always("step_not_eta"), _always("step_scaled_by_weight"), _always("unknown_optimizer")

_ROWS: Final = (
    OptimizerRule("AdamW", bounds=bounds.bound_adam, update="adam"),
    OptimizerRule("Adam", decoupled=False, bounds=bounds.bound_adam, update="adam"),
    # Apex, DeepSpeed
    OptimizerRule("FusedAdam", decoupled=False, bounds=bounds.bound_adam, update="adam", step_count="group"),
    # The u of NAdam looks ahead, and that of RAdam is rectified: neither has AdamW's forces.
    OptimizerRule("NAdam", decoupled=False, bounds=bounds.bound_nadam),
    OptimizerRule("RAdam", decoupled=False, bounds=bounds.bound_radam),
    OptimizerRule("Adamax", decoupled=False, bounds=bounds.bound_adamax),
    OptimizerRule("RMSprop", decoupled=False, bounds=bounds.bound_rmsprop),
    OptimizerRule("AdEMAMix", bounds=bounds.bound_ademamix),
    OptimizerRule("Adan", step=_UNKNOWN, bounds=bounds.bound_adan),
    OptimizerRule("GaLoreAdamW", step=_UNKNOWN, bounds=bounds.bound_adam),
    OptimizerRule("Lion", bounds=bounds.bound_sign, update="sign"),
    OptimizerRule("SignSGD", step=_UNKNOWN, bounds=bounds.bound_sign),
    OptimizerRule("Signum", step=_UNKNOWN, bounds=bounds.bound_sign, update="sign"),
    OptimizerRule("SophiaG", step=_UNKNOWN, bounds=bounds.bound_sign),
    OptimizerRule("Muon", step=_muon_step, scale=_muon_scale, bounds=bounds.bound_muon, update="orthogonal"),
    OptimizerRule("Adafactor", step=_adafactor_step, bounds=bounds.bound_adafactor),
    OptimizerRule("LAMB", step=_WEIGHT, bounds=bounds.bound_lamb),
    OptimizerRule("FusedLAMB", step=_WEIGHT, bounds=bounds.bound_lamb, step_count="group"),  # Apex
    OptimizerRule("Lamb", step=_WEIGHT, bounds=bounds.bound_lamb_of_timm),
    OptimizerRule("LARS", step=_WEIGHT),  # no bound: its momentum keeps steps from when η or the weights were larger
    # Steps of the size of the gradient, or that shrink or grow by themselves.
    OptimizerRule("SGD", step=_GRADIENT, update="momentum"),
    OptimizerRule("Adagrad", decoupled=False, step=_GRADIENT, bounds=bounds.bound_adagrad),
    OptimizerRule("Adadelta", decoupled=False, step=_GRADIENT),  # no bound: a step may be longer than all before
    OptimizerRule("Rprop", step=_GRADIENT),
    OptimizerRule("ASGD", step=_GRADIENT),
    OptimizerRule("LBFGS", step=_GRADIENT),
)
RULES: Final[Mapping[str, OptimizerRule]] = {rule.name: rule for rule in _ROWS}
"""The table, by name."""

AFFIXES: Final = re.compile(r"^(?:DeepSpeedCPU|DeepSpeed|Paged|Fused|CPU|_)+|(?:8bit|4bit|32bit|Fp8)$")
"""What libraries put around the name of an optimizer whose row they keep: bitsandbytes, torchao, Apex, DeepSpeed, ColossalAI."""
_COARSE: Final = re.compile(r"(?:4bit|Fp8)$")
"""Optimizers whose m and v have so few bits that updates and forces cannot be computed from them."""
_QUANTISED: Final = re.compile(r"(?:8bit|4bit|Fp8)$")
"""Optimizers whose m and v are quantised, so that bounds of their quotient do not hold."""


def rule_of(optimizer: Any) -> OptimizerRule:
    """The row of an optimizer: that of its class, or of the nearest base class that has one.

    Args:
        optimizer: The optimizer itself, without wrappers.

    >>> import torch
    >>> class PagedAdamW8bit(torch.optim.Optimizer):  # as bitsandbytes names them
    ...     def __init__(self, params):
    ...         super().__init__(params, {"lr": 1e-3})
    >>> rule_of(PagedAdamW8bit([torch.nn.Parameter(torch.zeros(2, 2))])).name
    'AdamW'
    """
    # Apex and DeepSpeed say adam_w_mode, ColossalAI adamw_mode.
    kind: Any = type(optimizer)
    return _rule_of(kind, any(getattr(optimizer, mode, False) for mode in ("adam_w_mode", "adamw_mode")))


@cache  # it is asked for every matrix at every sample
def _rule_of(kind: Any, decoupled: bool) -> OptimizerRule:
    """The row of a class; ``decoupled`` of one of the Adam family decouples its weight decay."""
    names = [base.__name__ for base in kind.__mro__]
    rule = _row_of(kind) or OptimizerRule(names[0], step=_UNKNOWN)
    if rule.forces:
        rule = replace(rule, decoupled=rule.decoupled or decoupled)
    if any(map(_COARSE.search, names)):
        rule = replace(rule, update=None)
    if any(map(_QUANTISED.search, names)) and rule.bounds is not bounds.bound_sign:
        rule = replace(rule, bounds=bounds.bound_none)  # a v that is rounded to zero lets m through; a sign stays one
    return rule


def _row_of(kind: type) -> OptimizerRule | None:
    """The row of a class; None if there is none, or if it steps otherwise than the class that has the row."""
    rows = [(base, RULES.get(base.__name__) or RULES.get(AFFIXES.sub("", base.__name__))) for base in kind.__mro__]
    found = [(base, row) for base, row in rows if row]
    if not found:
        return None
    # A subclass of one of PyTorch's optimizers has its name often enough, and not its step.
    torchs = [base for base, _ in found if base.__module__.startswith("torch.optim.")]
    original = torchs[0] if torchs else found[0][0]
    return found[0][1] if _step_of(kind) is _step_of(original) else None


def _step_of(kind: type) -> Any:
    """The function that takes a step, without what PyTorch puts around it."""
    return inspect.unwrap(getattr(kind, "step", None) or object)


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
            kept["law"] = rule.why_not(group) or "applies"
            if kept not in groups:
                groups.append(kept)
        found.append({"class": type(optimizer).__name__, "groups": groups})
    return found


def _plain(value: Any) -> Any:
    """A hyper-parameter as JSON can hold it."""
    if isinstance(value, (tuple, list)):
        return [float(v) for v in value]
    return value if value is None or isinstance(value, (int, float)) else float(value)


def divided(optimizer: Any) -> frozenset[int] | None:
    """The ids of the parameters that this rank steps, if torch's `ZeroRedundancyOptimizer` divides them among the ranks.

    Args:
        optimizer: An optimizer, or a wrapper.
    """
    for wrapper in wrappers(optimizer):
        if any(base.__name__ == "ZeroRedundancyOptimizer" for base in type(wrapper).__mro__):
            return frozenset(id(p) for group in innermost(wrapper).param_groups for p in group["params"])
    return None


def innermost(optimizer: Any) -> Any:
    """The optimizer itself under the wrappers of Accelerate, Lightning, DeepSpeed and `ZeroRedundancyOptimizer`.

    >>> import torch
    >>> inner = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 2))])
    >>> innermost(inner) is inner
    True
    """
    *_, inner = wrappers(optimizer)
    return inner
