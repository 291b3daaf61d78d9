"""The scaling law of a run: where every component stands on it and where it is going, or the reason why that is not known."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weibull_monitor.errors import ConfigurationError, Guard, as_integer, say
from weibull_monitor.history.reasons import EXPLANATION, PASSING, Reason
from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.history.snapshot import Reference, ScalingRows
from weibull_monitor.history.values import aligned, present
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.rows import Numbers
from weibull_monitor.model.components import Component
from weibull_monitor.model.components.kept import Kept, names_of
from weibull_monitor.scaling.budget import StepInfo, scalings_of
from weibull_monitor.scaling.forecast import (
    MIN_DECAY,
    MIN_SHARE,
    Interval,
    Points,
    Trail,
    equilibrium,
    forecast,
    growth,
)
from weibull_monitor.scaling.learning_rates import RatesAhead, Rule, as_rules, plan_ahead, ticks_between
from weibull_monitor.scaling.tracking import BudgetTracker

Bools = NDArray[np.bool_]
Places = NDArray[np.int64]
_NOTHING: Final = (math.nan, math.nan)
_MASKS: Final = 16
"""Choices of components that are remembered."""


@dataclass
class _Plan:
    """The planned learning rates of one optimizer, and where it was when they were last compared with the real ones."""

    ahead: list[RatesAhead]  # one per parameter group
    checked: int
    """Step of the last comparison."""
    position: int | None
    """How often the scheduler had stepped then; None if that is not known."""
    steps: int
    """How often the optimizer had stepped then."""
    trusted: bool
    """Whether the last comparison agreed with the plan."""


Outlook = Mapping[int, tuple[Sequence[RatesAhead], bool]]
"""By the optimizer's index: the learning rates to come of each group, and whether the last ones agreed with the plan."""


class ScalingLaw:
    """Places every component on the scaling law at each sample, and forecasts its λ.

    Args:
        budgets: Follows the optimizers.
        scheduler: What sets the learning rates, in any form that `weibull_monitor.scaling.learning_rates.as_rules` accepts.
        total_steps: Optimizer steps of the whole run, if known.

    Raises:
        ConfigurationError: If ``scheduler`` has none of these forms, or ``total_steps`` is below 1.
    """

    def __init__(self, budgets: BudgetTracker, scheduler: Any, total_steps: int | None) -> None:
        total = None if total_steps is None else as_integer(total_steps)
        if total_steps is not None and (total is None or total < 1):
            raise ConfigurationError(f"total_steps is {total_steps!r}; it must be an integer of at least 1, or None")
        self._budgets = budgets
        self._rules, self.total_steps = as_rules(scheduler), total
        self._plans: dict[int, _Plan] = {}
        self._trail = Trail()
        self._said: set[Reason] = set()
        self._guard = Guard()

    def set_scheduler(self, scheduler: Any) -> None:
        """Other optimizers are followed from now on, with this scheduler, or with none."""
        self._rules = as_rules(scheduler)
        self._plans.clear()

    def recall(self, samples: Iterable[RecordedSnapshot], until: int) -> None:
        """Continues from the samples of the resumed run, up to a step."""
        self._trail = Trail()
        for sample in samples:
            if 0 < sample.step <= until:
                columns = [sample.values(name) for name in ("lambda", "effective", "t_over_tau", "eta_sum")]
                rows = {n: [c[n] for c in columns] for n in columns[0] if all(n in c for c in columns)}
                self._trail.add(Points.of(sample.step, rows))

    def look(self, step: int, stepped: Mapping[str, StepInfo]) -> Outlook:
        """The learning rates to come. To be called right after a step, before the schedulers step.

        Args:
            step: Optimizer steps taken.
            stepped: How each parameter of this process was stepped, by its name.
        """
        if not self._guard("reading the schedule", self._check, step, stepped):
            self._plans.clear()  # a user's function may raise: then there is a sample, but no forecast
        return {optimizer: (plan.ahead, plan.trusted) for optimizer, plan in self._plans.items()}

    def at(
        self,
        step: int,
        components: tuple[Component, ...],
        fits: Mapping[str, WeibullFit],
        baseline: Mapping[str, Reference],
        stepped: Mapping[str, StepInfo],
        outlook: Outlook,
    ) -> ScalingRows:
        """Where the components stand at a step, by name. To be called in the order of the steps.

        Args:
            step: Optimizer steps taken.
            components: The components.
            fits: Their fits, by name; components without a fit are left out.
            baseline: k and λ before the first step, by name.
            stepped: How each parameter was stepped, by its name, on this rank and on the others.
            outlook: The result of `look` at that step.
        """
        facts = _facts_of(components)
        names, here = facts.names, present(fits, facts.names)
        lambda_, lambda_0 = aligned(fits, "lambda_", names), aligned(baseline, "lambda_", names)
        ways, of_parameter = _ways([stepped.get(parameter) for parameter in facts.parameters])
        of = np.where(here, of_parameter[facts.parameter], -1)  # (components,), as all that follows
        rms = aligned(fits, "rms", names)[np.where(here[facts.whole], facts.whole, np.arange(len(names)))]
        found, shared = scalings_of(ways, of, names, lambda_, lambda_0, facts.numel, rms)
        effective = found.column("effective")
        known = ~np.isnan(effective) & ~np.isnan(lambda_0)
        inside = known & np.array([*(one.reason is None for one in shared), False])[of]
        for place in np.flatnonzero(inside & ~facts.covered).tolist():
            found.reasons[place] = "kind_not_covered"
        if step > 0 and known.any():
            spent = np.array([(how.budget.decay, how.budget.path) if how and how.budget else _NOTHING for how in ways])
            roots = np.array([one.effective for one in shared])
            now = Points.of_columns(step, facts.chosen(known), lambda_[known], np.vstack([roots, spent.T]), of[known])
            if (beyond := inside & facts.covered).any():
                here = beyond[known]
                now_beyond = now if here.all() else Points(step, facts.chosen(beyond), now.values[:, here])
                self._extrapolate(found, beyond, lambda_0[beyond], ways, of[beyond], now_beyond, outlook)
            self._trail.add(now)
        self._say(found)
        return found

    def _extrapolate(
        self,
        found: ScalingRows,
        rows: Bools,
        lambda_0: Numbers,
        ways: Sequence[StepInfo | None],
        of: Places,
        now: Points,
        outlook: Outlook,
    ) -> None:
        """Adds the equilibrium and the forecast, or the reason why there is no forecast.

        Args:
            found: Receives them.
            rows: The rows that get them, bool (components,).
            lambda_0: λ of these rows at the baseline, (rows,).
            ways: How matrices were stepped.
            of: The way of each of these rows, (rows,).
            now: Where they stand.
            outlook: The learning rates to come.
        """
        share = now.step / self.total_steps if self.total_steps else 0.0
        grown = growth(self._trail, lambda_0, now, self.total_steps or now.step)
        # An equilibrium does not need the schedule. In a long run that has passed τ it is known before MIN_SHARE.
        decay = now.values[2]
        settled = (decay >= MIN_DECAY) & ((share >= MIN_SHARE) | (decay >= 1.0))
        plain = found.column("sqrt_eta_over_wd")[rows]
        found.add("equilibrium", rows, equilibrium(now, grown, np.where(settled, plain, np.nan)))
        rests, why = np.full((len(ways), 3), np.nan), dict[int, Reason | None]()
        for n in np.unique(of).tolist():
            if (how := ways[n]) is not None:
                rests[n], why[n] = self._rest(how, now.step, outlook), self._why_no_forecast(how, share, outlook)
        end = forecast(now, grown, rests[of].T)
        there = np.isfinite(end.value)
        for place, n, ahead in zip(np.flatnonzero(rows).tolist(), of.tolist(), there.tolist(), strict=True):
            found.reasons[place] = why[n] or (None if ahead else "shrunk")
        asked = there & np.array([why.get(n) is None for n in range(len(ways))])[of]
        found.add("forecast", rows, Interval(*(np.where(asked, values, np.nan) for values in end)))

    @staticmethod
    def _rest(how: StepInfo, step: int, outlook: Outlook) -> tuple[float, float, float]:
        """What the steps to come will spend; NaN if that is not known."""
        optimizer, group = how.group
        if optimizer not in outlook:
            return math.nan, math.nan, math.nan
        rest = outlook[optimizer][0][group].rest(step, how.used.weight_decay)
        return rest.decay, rest.injection * how.scale**2, rest.path  # I is in units of AdamW's steps

    @staticmethod
    def _why_no_forecast(how: StepInfo, share: float, outlook: Outlook) -> Reason | None:
        optimizer, _ = how.group
        if optimizer not in outlook:
            return "no_schedule"
        if not outlook[optimizer][1]:
            return "off_schedule"
        return "too_early" if share < MIN_SHARE else None

    def _check(self, step: int, stepped: Mapping[str, StepInfo]) -> bool:
        """Makes a plan for each optimizer that has none, and a new one where the last steps did not agree with it."""
        for n, optimizer in enumerate(self._budgets.optimizers):
            rates = {how.group[1]: how.used.eta for how in stepped.values() if how.group[0] == n}
            rules = [rule for rule in self._rules if rule.is_for(optimizer)]
            if self.total_steps is None or step > self.total_steps or len(rules) != 1 or not rates:
                self._plans.pop(n, None)
                continue
            (rule,), before, steps = rules, self._plans.get(n), self._budgets.steps_of(n)
            as_planned = before is None or _went_as_planned(before, rule, step, steps, rates)
            if before is not None and as_planned:
                before.position = _due(before, rule, step)
                before.checked, before.steps, before.trusted = step, steps, True
                continue
            now = [float(group["lr"]) if group.get("lr") is not None else math.nan for group in optimizer.param_groups]
            groups = plan_ahead(rule, step, self.total_steps, now)
            if groups is None or len(groups) != len(now):
                self._plans.pop(n, None)
            else:
                self._plans[n] = _Plan(groups, step, rule.position(), steps, trusted=as_planned)
        return True

    def _say(self, found: ScalingRows) -> None:
        """Logs each reason once, as a warning if something went wrong in mid-run."""
        for reason, count in found.counted().items():
            if reason is None or reason in self._said or reason in PASSING:
                continue
            self._said.add(reason)
            level = logging.WARNING if reason in ("optimizer_reset", "weight_decay_changed") else logging.INFO
            why = EXPLANATION[reason]
            say(
                level, f"weibull_monitor: there is no forecast of λ for {count} of {len(found)} matrices, because {why}"
            )


@dataclass(frozen=True, eq=False)
class _Facts:
    """What the law asks of components, each an array of shape (components,).

    Attributes:
        names: Their names.
        parameters: The names of their parameters, each once.
        parameter: The place of each one's parameter among those.
        whole: The place of the component that is the whole parameter; its own where there is none.
        numel: Number of elements.
        covered: Whether the law is known to hold for matrices of this kind: those of attention and of feed-forward layers.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    parameter: Places
    whole: Places
    numel: Numbers
    covered: Bools
    _memo: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    def chosen(self, rows: Bools) -> tuple[str, ...]:
        """The names of some: the same tuple for the same rows, so that it is seen at once to be the same."""
        key = rows.tobytes()
        if key not in self._memo:
            if len(self._memo) >= _MASKS:
                self._memo.clear()
            self._memo[key] = tuple(compress(self.names, rows.tolist()))
        return self._memo[key]


@Kept
def _facts_of(components: tuple[Component, ...]) -> _Facts:
    names = names_of(components)
    place = {name: n for n, name in enumerate(names)}
    parameters = {name: n for n, name in enumerate(dict.fromkeys(c.parameter for c in components))}
    return _Facts(
        names=names,
        parameters=tuple(parameters),
        parameter=np.array([parameters[c.parameter] for c in components], dtype=np.int64),
        whole=np.array([place.get(c.parameter, n) for n, c in enumerate(components)], dtype=np.int64),
        numel=np.array([c.numel for c in components], dtype=np.float64),
        covered=np.array(
            [c.component_class != "none" or c.kind.startswith("attn_") for c in components], dtype=np.bool_
        ),
    )


def _ways(stepped: Sequence[StepInfo | None]) -> tuple[list[StepInfo | None], Places]:
    """The different ones of some objects, and the place of each among them."""
    places: dict[int, int] = {}
    of = [places.setdefault(id(how), len(places)) for how in stepped]
    different: list[StepInfo | None] = [None] * len(places)
    for how, n in zip(stepped, of, strict=True):
        different[n] = how
    return different, np.array(of, dtype=np.int64)


def _went_as_planned(plan: _Plan, rule: Rule, step: int, steps: int, rates: Mapping[int, float]) -> bool:
    """Whether optimizer and scheduler have stepped as often as planned, and with the planned learning rates."""
    if steps - plan.steps != step - plan.checked or max(rates) >= len(plan.ahead):
        return False
    position, due = rule.position(), _due(plan, rule, step)
    if due is not None and position not in (due, due + rule.ticks(step)):  # the last sample may come after it
        return False
    planned = {i: plan.ahead[i].rate(step) for i in rates} if step > plan.checked else {}
    return all(
        rate is None or math.isclose(rate, rates[i], rel_tol=plan.ahead[i].tolerance, abs_tol=1e-15)
        for i, rate in planned.items()
    )


def _due(plan: _Plan, rule: Rule, step: int) -> int | None:
    """How often the scheduler should have stepped by now, without its steps after the last optimizer step."""
    if plan.position is None:
        return None
    return plan.position + ticks_between(rule.ticks, plan.checked, step)
