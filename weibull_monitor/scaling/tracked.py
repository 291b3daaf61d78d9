"""One optimizer that is followed: what its parameter groups were stepped with, and whose accounts they pay into."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import is_not
from typing import Any, Final

from torch import Tensor

from weibull_monitor.measure.transfer import LateNumber
from weibull_monitor.scaling.accounts import Accounts, GroupAccounts, Payers, Rates
from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.counts import ParameterSteps, StepCounts
from weibull_monitor.scaling.deepspeed import engine_of, parameters_of, rates_of
from weibull_monitor.scaling.optimizers import innermost, rate_of
from weibull_monitor.scaling.quick import QuickCalls, group_sizes
from weibull_monitor.scaling.resets import StateWatch

MAX_LATE: Final = 1000
"""Bound of the steps whose learning rates are still on their way from a device; beyond it the oldest is waited for."""

MAX_QUICK: Final = 512
"""Calls that are noted quickly before they are added to the accounts."""

_Rate = tuple[LateNumber | float, float]
"""η, which may still be on its way from a device, and λ_wd."""
_Call = tuple[list[_Rate | None], list[list[int]], bool]
"""One call of an optimizer's step: the rates of each group, the steps that it took of each of the group's accounts, and whether
these are only presumed."""


class TrackedOptimizer:
    """One optimizer: what its parameter groups were last stepped with, and whose accounts they pay into."""

    def __init__(self, optimizer: Any, accounts: Accounts, known: bool, seen: bool = True) -> None:
        self.optimizer = optimizer
        self.innermost = innermost(optimizer)
        self.engine = engine_of(optimizer)
        self.rates = rates_of(optimizer)
        self.calls = 0
        """Calls of `advance`."""
        self.jumped = False
        """Whether a count jumped at the last call, so that those of all parameters have to be compared now."""
        self.watch = StateWatch(self.innermost)
        self.counts = StepCounts(self.innermost) if self.engine is None else None
        self._accounts = accounts
        self._on_device: dict[int, tuple[Tensor, int, LateNumber | float]] = {}
        self._late: deque[_Call] = deque()
        self._counted: dict[int, ParameterSteps] = {}
        self.groups: list[GroupAccounts] = []
        self._sizes: list[int] = []
        self._quick: QuickCalls | None = None
        self.enter(known, seen)

    def advance_quickly(self) -> bool:
        """Notes one call of the optimizer's step, if every step count has risen by one since the last; else does nothing.

        That is so at almost every step, and costs a tenth of `advance`.
        """
        quick = self._quick
        if quick is None or not quick.note():
            return False
        self.calls += 1
        if len(quick.rates) >= MAX_QUICK:
            self._post()
        return True

    def look_closely(self) -> None:
        """Adds what was noted to the accounts, and looks closely at the next call."""
        self._post()
        self._quick = None

    def _post(self) -> None:
        """Adds the calls that were noted quickly to the accounts."""
        if self._quick is None or not self._quick.rates:
            return
        calls = self._quick.taken()
        for group, rates in zip(self.groups, calls, strict=True):
            group.call_all(rates)

    def enter(self, known: bool = True, seen: bool = False) -> None:
        """Finds the accounts of all parameters anew. Those of parameters that have none begin with nothing."""
        self.look_closely()
        made, counted, stood = [], set(self._counted), self._standing()
        held = {id(p): group for group in self.groups for p in group.members}
        self._sizes = group_sizes(self.optimizer.param_groups)
        for i, group in enumerate(self.optimizer.param_groups):
            members = list(parameters_of(self.optimizer, i))
            before = self.groups[i] if i < len(self.groups) else None
            before = before or next((held[id(p)] for p in members if id(p) in held), None)
            made.append(
                GroupAccounts(self.counts, group, members, self._counted, self._accounts, known, seen, before, stood)
            )
        if len(made) < len(self.groups):  # which of them are left is not known
            for account in (payers.account for group in made for payers in group.payers):
                account.known = False
        left = {id(p) for group in made for p in group.members}
        gone = {key: self._counted.pop(key) for key in self._counted.keys() - left}
        for group in self.groups:
            for steps in (gone[id(p)] for p in group.members if id(p) in gone):
                group.leave(steps, self._accounts)
        self._keep_marks(gone.values())
        for group in made:
            group.come(counted)
        self.groups = made

    def _standing(self) -> set[int]:
        """Ids of what counts the steps of parameters that stand for others."""
        return {id(payers.one) for group in self.groups for payers in group.payers}

    def enter_groups(self, regroup: Callable[[], object]) -> None:
        """Finds the accounts anew between two comparisons, right after a step with other groups.

        A parameter that stands for others from now on was last looked at when all were compared: what has been spent since then
        is not spent again.

        Args:
            regroup: Divides the accounts whose parameters are in several groups now.
        """
        self.settle()
        stood, counted = self._standing(), set(self._counted)
        self.enter()
        regroup()
        for payers in (payers for group in self.groups for payers in group.payers):
            one = payers.one
            if one is not None and id(one) not in stood and id(one.parameter) in counted:
                one.note(payers.account.steps)

    def regrouped(self) -> bool:
        """Whether the optimizer now has other groups, or groups of another length. Cheap enough for every step."""
        return self._sizes != group_sizes(self.optimizer.param_groups)

    def changed(self) -> bool:
        """Whether the optimizer now has other parameters."""
        if len(self.groups) != len(self.optimizer.param_groups):
            return True
        now = (parameters_of(self.optimizer, i) for i in range(len(self.groups)))
        return any(
            len(group.members) != len(here) or any(map(is_not, group.members, here))
            for group, here in zip(self.groups, now, strict=True)
        )

    @property
    def started(self) -> bool:
        """Whether the optimizer is seen to have stepped: it has state, or its parameters have changed."""
        if self.counts is None or not self.counts.empty:
            return True
        return any(p.one is not None and p.one.moved for group in self.groups for p in group.payers)

    @property
    def has_gradient(self) -> bool:
        """Whether one of its parameters has a gradient."""
        return any(p.grad is not None for group in self.groups for p in group.members)

    def withdraw(self) -> None:
        """Takes back the steps that were only presumed."""
        self.settle()
        for group in self.groups:
            group.withdraw()

    def advance(self, missed: bool = False, unseen: bool = False, presume: bool = False) -> None:
        """Notes one call of the optimizer's step. It runs at every step, so it never waits for a device.

        Args:
            unseen: Whether no optimizer was seen to step yet, so that steps without a count are only presumed.
            presume: Whether an optimizer without any state is presumed to have stepped.
            missed: Whether there were calls before it that were not noted.
        """
        self._post()
        groups = self.optimizer.param_groups
        skipped, made, self.jumped = self._skipped(), False, False
        rates: list[_Rate | None] = []
        taken: list[list[int]] = []
        late = bool(self._late)
        for i, group in enumerate(groups):
            group = self.rates.get(id(group), group)  # DeepSpeed may already have set the rate of the next step
            eta = rate_of(group)
            if eta is None:
                rates.append(None)
            else:
                if not isinstance(eta, float):
                    eta = self._read(i, eta)
                    late |= isinstance(eta, LateNumber)
                rates.append((eta, float(group.get("weight_decay") or 0.0)))
            steps = []
            for payers in self.groups[i].payers:
                one = _taken(payers, missed, presume)
                steps.append(int(not skipped) if one is None else one)
                if payers.one is not None:
                    self.jumped |= payers.one.jumped
                    made |= payers.one.made
            taken.append(steps)
        for counted in self._counted.values() if made else ():
            counted.hold()
        self.rates.clear()
        self.calls += 1
        if late:
            self._late.append((rates, taken, unseen))
            self.settle(wait=False)
        else:
            for of_group, rate, steps in zip(self.groups, rates, taken, strict=True):
                of_group.call(rate, steps, unseen)  # type: ignore[arg-type]  # all rates are here
        certain = not (late or unseen or missed) and self.engine is None and self.optimizer is self.innermost
        certain &= not self.rates.hooked  # DeepSpeed sets the next learning rate before a call
        self._quick = QuickCalls.of(self.optimizer, self.groups) if certain else None

    def leave(self) -> None:
        """Keeps what was seen of all counts, for an optimizer that goes on with them."""
        self._keep_marks(self._counted.values())

    def _keep_marks(self, counted: Iterable[ParameterSteps]) -> None:
        for steps in counted:
            self._accounts.marks[steps.parameter] = steps.mark()

    def settle(self, wait: bool = True) -> None:
        """Adds calls to the accounts in their order, up to the first whose learning rate is still on its way; waits for all
        of them if ``wait``."""
        self._post()
        while self._late and (wait or len(self._late) > MAX_LATE or all(map(_is_here, self._late[0][0]))):
            rates, taken, presumed = self._late.popleft()
            for group, rate, steps in zip(self.groups, rates, taken, strict=True):
                group.call(_known(rate), steps, presumed)

    def expected(self, group: int) -> list[Budget]:
        """The budgets of a group's accounts as they will be when all learning rates have arrived, if these stay the same."""
        self._post()
        budgets = [payers.account.budget for payers in self.groups[group].payers]
        for rates, taken, _ in self._late:
            if (rate := rates[group]) is None:
                continue
            for n, steps in enumerate(taken[group]):
                if steps:
                    here = self.groups[group].payers[n].account.rates
                    eta = (here[0] if here else 0.0) if not _is_here(rate) else _value(rate[0])
                    budgets[n] = budgets[n].advanced(eta, rate[1], steps)
        return budgets

    def _skipped(self) -> bool:
        """Whether a wrapper says that the last step was skipped: Accelerate after an overflow, DeepSpeed's fp16."""
        if self.engine is not None:
            return getattr(self.engine, "overflow", False) is True
        return self.optimizer is not self.innermost and getattr(self.optimizer, "step_was_skipped", False) is True

    def _read(self, group: int, rate: Any) -> LateNumber | float:
        """A learning rate that is not a float. One on an accelerator is read only after it was written to: on CUDA without
        waiting, on other devices at once."""
        if not isinstance(rate, Tensor) or rate.device.type == "cpu":
            return float(rate)
        known = self._on_device.get(group)
        if known is None or known[0] is not rate or known[1] != rate._version:
            now = LateNumber(rate) if rate.device.type == "cuda" else float(rate)
            known = self._on_device[group] = (rate, rate._version, now)
        return known[2]

    def begin_again(self) -> None:
        """Drops the calls whose learning rates are on their way, and the counts of the steps so far."""
        self._quick = None
        self._late.clear()
        self._counted.clear()
        self.groups = []
        self.enter(seen=True)


def _taken(payers: Payers, missed: bool, presume: bool) -> int | None:
    """The steps that one call took of an account; None if nothing shows them. If they are not known, neither is the account.

    Where the count went back or jumped, as many as usual are taken for likely.

    Args:
        payers: The account.
        missed: As `TrackedOptimizer.advance` has it.
        presume: As `TrackedOptimizer.advance` has it.
    """
    one, account = payers.one, payers.account
    if one is None:
        account.known &= not missed
        return None
    steps = one.taken()
    if one.written_by_others(steps) and account.holders == 1:
        account.known = False
    if steps is None and one.counting and not presume:
        return 0
    if not one.exact:
        # A parameter that stands for others from now on was last looked at some calls ago: once says nothing.
        account.known &= not (missed or (one.crowded and (account.crowded or not account.stepped)))
        account.crowded = one.crowded
        return steps
    if steps is None or one.certain:
        return steps
    usual = one.agrees(account.usual)
    account.known &= usual
    return account.usual if usual else steps


def _value(rate: LateNumber | float) -> float:
    return rate.value() if isinstance(rate, LateNumber) else rate


def _known(rate: _Rate | None) -> Rates | None:
    return None if rate is None else (_value(rate[0]), rate[1])


def _is_here(rate: _Rate | None) -> bool:
    return rate is None or not isinstance(rate[0], LateNumber) or rate[0].ready()
