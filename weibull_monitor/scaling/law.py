"""The scaling law of a run: where every component stands on it and where it is going, or the reason why that is not known."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weibull_monitor.errors import ConfigurationError, Guard, as_integer, say
from weibull_monitor.history.reasons import EXPLANATION, PASSING, Reason
from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.history.snapshot import Estimate, Reference, Scaling
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component
from weibull_monitor.scaling.budget import StepInfo, scaling_of
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
        components: Iterable[Component],
        fits: Mapping[str, WeibullFit],
        baseline: Mapping[str, Reference],
        stepped: Mapping[str, StepInfo],
        outlook: Outlook,
    ) -> dict[str, Scaling]:
        """Where the components stand at a step, by name. To be called in the order of the steps.

        Args:
            step: Optimizer steps taken.
            components: The components.
            fits: Their fits, by name; components without a fit are left out.
            baseline: k and λ before the first step, by name.
            stepped: How each parameter was stepped, by its name, on this rank and on the others.
            outlook: The result of `look` at that step.
        """
        found: dict[str, Scaling] = {}
        rows: dict[str, tuple[float, float, float, float]] = {}
        beyond: dict[str, tuple[StepInfo, float]] = {}  # those that the law holds for, and λ at the baseline
        for component in components:
            if component.name not in fits:
                continue
            name, lambda_ = component.name, fits[component.name].lambda_
            whole = fits.get(component.parameter, fits[component.name])
            how = stepped.get(component.parameter)
            reference = baseline.get(name)
            lambda_0 = reference.lambda_ if reference else None
            scaling = scaling_of(how, lambda_, lambda_0, component.numel, whole.rms)
            if how and how.budget and lambda_0 is not None and scaling.effective is not None:
                rows[name] = (lambda_, scaling.effective, how.budget.decay, how.budget.path)
                if scaling.reason is None and not _covered(component):
                    scaling = _with(scaling, reason="kind_not_covered")
                elif scaling.reason is None:
                    beyond[name] = how, lambda_0
            found[name] = scaling
        if step > 0 and rows:
            now = Points.of(step, rows)
            if beyond:
                found |= self._extrapolated(found, beyond, now, outlook)
            self._trail.add(now)
        self._say(found)
        return found

    def _extrapolated(
        self, found: Mapping[str, Scaling], beyond: Mapping[str, tuple[StepInfo, float]], now: Points, outlook: Outlook
    ) -> dict[str, Scaling]:
        """Adds the equilibrium and the forecast, or the reason why there is no forecast."""
        names = tuple(beyond)
        now = Points(now.step, names, now.chosen(names))
        lambda_0 = np.array([beyond[name][1] for name in names])
        share = now.step / self.total_steps if self.total_steps else 0.0
        grown = growth(self._trail, lambda_0, now, self.total_steps or now.step)
        # An equilibrium does not need the schedule. In a long run that has passed τ it is known before MIN_SHARE.
        decay = now.values[2]
        settled = (decay >= MIN_DECAY) & ((share >= MIN_SHARE) | (decay >= 1.0))
        plain = np.array([found[name].sqrt_eta_over_wd or np.nan for name in names])
        level = equilibrium(now, grown, np.where(settled, plain, np.nan))
        end = forecast(now, grown, np.array([self._rest(beyond[name][0], now.step, outlook) for name in names]).T)
        result = {}
        for n, name in enumerate(names):
            reason, ahead = self._why_no_forecast(beyond[name][0], share, outlook), _estimate(end, n)
            if reason is None and ahead is None:
                reason = "shrunk"
            ahead = ahead if reason is None else None
            result[name] = _with(found[name], equilibrium=_estimate(level, n), forecast=ahead, reason=reason)
        return result

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

    def _say(self, found: Mapping[str, Scaling]) -> None:
        """Logs each reason once, as a warning if something went wrong in mid-run."""
        for reason, count in Counter(scaling.reason for scaling in found.values()).items():
            if reason is None or reason in self._said or reason in PASSING:
                continue
            self._said.add(reason)
            level = logging.WARNING if reason in ("optimizer_reset", "weight_decay_changed") else logging.INFO
            why = EXPLANATION[reason]
            say(
                level, f"weibull_monitor: there is no forecast of λ for {count} of {len(found)} matrices, because {why}"
            )


def _with(scaling: Scaling, **changes: Any) -> Scaling:
    """`dataclasses.replace`, in a fifth of the time: training waits for hundreds of them."""
    changed = object.__new__(Scaling)
    changed.__dict__.update(scaling.__dict__, **changes)
    return changed


def _estimate(found: Interval, n: int) -> Estimate | None:
    value = float(found.value[n])
    return Estimate(value, float(found.low[n]), float(found.high[n])) if math.isfinite(value) else None


def _covered(component: Component) -> bool:
    """Whether the law is known to hold for matrices of this kind: those of attention and of feed-forward layers."""
    return component.component_class != "none" or component.kind.startswith("attn_")


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
