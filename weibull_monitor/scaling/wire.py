"""How parameters were stepped, packed into the fixed number of floats that ranks exchange."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from weibull_monitor.history.reasons import Reason
from weibull_monitor.measure.reader.counter import NOTE_NUMBERS
from weibull_monitor.scaling.bounds import UpdateBound
from weibull_monitor.scaling.budget import Budget, StepInfo
from weibull_monitor.scaling.optimizers import Hyperparameters, UpdateForm

ELSEWHERE = (-1, 0)
"""The group of a parameter that another rank steps: its schedule is not known on this rank."""
_REASONS: tuple[Reason, ...] = get_args(Reason)
_FORMS: tuple[UpdateForm, ...] = get_args(UpdateForm)


def pack(stepped: Mapping[str, StepInfo]) -> dict[str, tuple[float, ...]]:
    """How each parameter was stepped, as `NOTE_NUMBERS` floats per parameter; the first is 1.

    >>> stepped = StepInfo(Hyperparameters(0.1, 0.0), Budget(0.02, 0.0, 0.0), group=(0, 1))
    >>> unpack(pack({"w": stepped})) == {"w": stepped._replace(group=ELSEWHERE)}
    True
    """
    out = {}
    for name, (used, budget, scale, _, reset, bound, peak, form) in stepped.items():
        reason = -1 if used.reason is None else _REASONS.index(used.reason)
        spent = budget or Budget()
        last = math.nan if spent.weight_decay is None else spent.weight_decay
        numbers = [1.0, used.eta, used.weight_decay, reason, scale, reset, budget is not None]
        numbers += [spent.integral, spent.decay, last, spent.changed, spent.path]
        least = math.nan if bound is None or bound.least is None else bound.least
        numbers += [1 + bound.steady, bound.each, bound.norm, least] if bound else [0.0, 0.0, 0.0, 0.0]
        numbers += [peak, -1 if form is None else _FORMS.index(form)]
        out[name] = tuple(map(float, numbers + [0] * (NOTE_NUMBERS - len(numbers))))
    return out


def unpack(notes: Mapping[str, Sequence[float]]) -> dict[str, StepInfo]:
    """The argument of `pack` on another rank, from its floats; groups become `ELSEWHERE`."""
    out = {}
    for name, numbers in notes.items():
        _, eta, weight_decay, reason, scale, reset, known, *spent = numbers
        integral, decay, last, changed, path, bounded, each, norm, least, peak, form, *_ = spent
        used = Hyperparameters(eta, weight_decay, None if reason < 0 else _REASONS[int(reason)])
        budget = (
            Budget(integral, decay, None if math.isnan(last) else last, bool(changed), path, peak) if known else None
        )
        bound = UpdateBound(each, norm, None if math.isnan(least) else least, bounded > 1) if bounded else None
        how = None if form < 0 else _FORMS[int(form)]
        out[name] = StepInfo(used, budget, scale, ELSEWHERE, bool(reset), bound, peak, how)
    return out
