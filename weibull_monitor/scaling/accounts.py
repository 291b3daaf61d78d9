"""Which parameters have spent alike: an account for each set of them, and the groups of an optimizer that pay into it.

An account holds the parameters that have taken the same steps, and one of them stands for all at each step. At a sample the step
counts of all are compared, and those that have taken other steps than the rest (frozen, unfrozen, without a gradient) get an
account of their own. The steps since the last sample are kept for that. An account belongs to the parameters and not to an
optimizer, so that it goes on when another optimizer takes them over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

from weibull_monitor.scaling.bounds import Group
from weibull_monitor.scaling.budget import Budget
from weibull_monitor.scaling.counts import Mark, ParameterSteps, StepCounts

MAX_KEPT: Final = 4096
"""Calls between two comparisons that are kept."""

Rates = tuple[float, float]
"""η and λ_wd of a step."""
Spent: TypeAlias = "tuple[Budget, Rates | None, bool]"
"""A budget, the rates of its last step, and whether there was a step."""


class Accounts(WeakIdKeyDictionary):
    """The account of each parameter, by the tensor itself; it keeps no parameter alive.

    Attributes:
        marks: What was last seen of the counts of parameters that an optimizer no longer has, by the parameter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.marks = WeakIdKeyDictionary()

    def mark_of(self, parameter: Tensor) -> Mark | None:
        """What was last seen of a parameter's count, which is no longer kept here then."""
        mark: Mark | None = self.marks.pop(parameter, None)  # type: ignore[no-untyped-call]
        return mark


class Account:
    """What some parameters have spent.

    Attributes:
        budget: What they have spent.
        known: Whether every one of their steps was followed.
        compared: The budget, the rates and whether they were ever stepped, when the counts of all parameters were last compared.
        rates: η and λ_wd of the last step; None before the first, and for an optimizer that chooses its rate by itself.
        steps: Steps since the last comparison.
        stepped: Whether they were ever stepped.
        certain: The budget, the rates and whether they were ever stepped, before steps that were only presumed; None if the last
            step was none of those.
        usual: Steps at the last call at which there were some.
        holders: Groups of optimizers that hold the parameters.
        crowded: Whether they were written to as often as in several steps before the last call, and not counted.
    """

    __slots__ = ("budget", "certain", "compared", "crowded", "holders", "known", "rates", "stepped", "steps", "usual")

    def __init__(self, budget: Budget | None = None, known: bool = True) -> None:
        self.budget = budget or Budget()
        self.known, self.steps, self.usual, self.holders, self.crowded = known, 0, 1, 1, False
        self.stepped = budget is not None and budget != Budget()
        self.rates: Rates | None = None
        self.compared: Spent = (self.budget, self.rates, self.stepped)
        self.certain: Spent | None = None

    def copy(self) -> Account:
        """An account of its own for some of the parameters."""
        new = Account()
        for name in self.__slots__:
            setattr(new, name, getattr(self, name))
        return new

    def spend(self, rates: Rates | None, steps: int) -> None:
        """Adds steps that were alike."""
        self.stepped = True
        self.rates = rates
        if rates is not None:
            self.budget = self.budget.advanced(*rates, steps) if steps != 1 else self.budget.advanced(*rates)

    def withdraw(self) -> None:
        """Takes back the steps that were only presumed."""
        if self.certain is not None:
            self.budget, self.rates, self.stepped = self.compared = self.certain
            self.certain, self.steps = None, 0

    def settle(self) -> None:
        """Begins the next interval: the counts of all parameters were compared."""
        self.compared, self.steps = (self.budget, self.rates, self.stepped), 0

    def correct(self, steps: int, calls: Sequence[tuple[Rates | None, int]], certain: bool) -> None:
        """Makes ``steps`` of the steps since the last comparison: the last ones.

        Args:
            steps: Their true number.
            calls: η and λ_wd of each call since the last comparison, and the steps that it may have taken.
            certain: Whether there can have been no other number of steps.
        """
        chosen: list[tuple[Rates | None, int]] = []
        left = steps
        for n, (rates, most) in enumerate(reversed(calls)):
            taken = left if n == len(calls) - 1 else min(left, most)
            if taken:
                chosen.append((rates, taken))
            left -= taken
        self.budget, self.rates, self.stepped = self.compared
        for rates, taken in reversed(chosen):
            self.spend(rates, taken)
        self.steps = steps
        self.known &= certain


class Payers:
    """The parameters of one group of an optimizer that share an account.

    Attributes:
        account: The account.
        members: The parameters.
        one: Counts the steps of the parameter that stands for all; None if steps are not counted.
    """

    __slots__ = ("account", "members", "one")

    def __init__(self, account: Account, members: list[Tensor], one: ParameterSteps | None) -> None:
        self.account, self.members, self.one = account, members, one


class GroupAccounts:
    """The accounts of one group of an optimizer.

    Args:
        counts: The step counts of the optimizer; None if its steps are not counted by parameter.
        group: The parameter group.
        members: Its parameters.
        counted: Counts the steps of each parameter, by its id; completed here.
        accounts: The accounts of the parameters that have one; completed here.
        known: Whether a parameter without an account has spent nothing.
        seen: Whether the steps that the optimizer has taken on parameters that are not counted yet are known.
        before: The same group before its parameters changed; for a new group, the one that had its first parameter.
        stood: Ids of what counted the steps of parameters that stood for others before.
    """

    def __init__(
        self,
        counts: StepCounts | None,
        group: Group,
        members: Iterable[Tensor],
        counted: dict[int, ParameterSteps],
        accounts: Accounts,
        known: bool,
        seen: bool,
        before: GroupAccounts | None = None,
        stood: Collection[int] = (),
    ) -> None:
        self.members = list(members)
        self._calls: list[tuple[Rates | None, int]] = [] if before is None else list(before._calls)
        self._counted = counted
        if counts is not None:
            held = {id(p) for p in counts.held()}
            # What another rank steps, or holds all of, has no count here: it follows the others of its group.
            for p in self.members:
                if id(p) in held and not is_lazy(p) and p.numel() and id(p) not in counted:
                    counted[id(p)] = ParameterSteps(counts, p, group, seen, accounts.mark_of(p))
        fresh = Account(known=known)
        for p in self.members:
            if p not in accounts:
                accounts[p] = fresh
        self.payers: list[Payers] = []
        self.gather(accounts, stood)

    def gather(self, accounts: Accounts, stood: Collection[int] = ()) -> None:
        """Finds the parameters that share an account; one that stood for others goes on to."""
        before = {id(payers.one) for payers in self.payers} or stood
        by_account: dict[int, list[Tensor]] = {}
        for p in self.members:
            by_account.setdefault(id(accounts[p]), []).append(p)
        self.payers = []
        for members in by_account.values():
            counted = [steps for p in members if (steps := self._counted.get(id(p))) is not None]
            one = next((s for s in counted if id(s) in before), None) or _first(counted)
            self.payers.append(Payers(accounts[members[0]], members, one))

    def call(self, rates: Rates | None, taken: Sequence[int], presumed: bool = False) -> None:
        """Adds one call of the optimizer's step, whose rate is known by now.

        Args:
            rates: η and λ_wd; None if the optimizer chooses its rate.
            taken: Steps that it took of each of `payers`.
            presumed: Whether these steps are only presumed.
        """
        most = 1
        for payers, steps in zip(self.payers, taken, strict=True):
            if steps:
                account = payers.account
                if not presumed:
                    account.certain = None
                elif account.certain is None:
                    account.certain = account.budget, account.rates, account.stepped
                account.spend(rates, steps)
                account.steps += steps
                account.usual = steps
                most = max(most, steps)
        self._calls.append((rates, most))

    def call_all(self, rates: Sequence[Rates]) -> None:
        """Adds calls at each of which every account was stepped once, at these η and λ_wd."""
        for payers in self.payers:
            account = payers.account
            account.certain, account.stepped, account.rates = None, True, rates[-1]
            account.usual = 1
            budget = account.budget
            for eta, weight_decay in rates:
                budget = budget.advanced(eta, weight_decay)
            account.budget = budget
            account.steps += len(rates)
        self._calls += [(rate, 1) for rate in rates]

    def withdraw(self) -> None:
        """Takes back the steps that were only presumed."""
        self._calls.clear()
        for payers in self.payers:
            payers.account.withdraw()

    @property
    def full(self) -> bool:
        """Whether the counts of all parameters have to be compared now."""
        return len(self._calls) >= MAX_KEPT

    def compare(self, accounts: Accounts) -> bool:
        """Compares the counts of all parameters since the last time. Returns whether an account was divided."""
        divided = False
        for payers in self.payers:
            account = payers.account
            others: dict[tuple[int, bool], list[Tensor]] = {}
            for p in payers.members:
                steps = self._counted.get(id(p))
                if steps is None or steps is payers.one:
                    continue
                taken = steps.taken()
                if payers.one is not None and payers.one.jumped:
                    steps.doubt()
                if taken is None or steps.agrees(account.steps):
                    continue
                if not steps.exact and taken:
                    taken = account.steps or len(self._calls)
                certain = not steps.exact or steps.certain
                # A count that began anew may have done so twice, and then what it was between is not known.
                certain &= not (steps.jumped and 0 < taken < account.steps)
                if taken != account.steps or not certain:
                    others.setdefault((taken, certain), []).append(p)
            for (taken, certain), members in others.items():
                new = account.copy()
                new.correct(taken, self._calls, certain)
                for p in members:
                    accounts[p] = new
                divided = True
        return divided

    def come(self, before: Collection[int]) -> None:
        """Adds the steps since the last comparison of parameters that came to the group since then.

        Args:
            before: Ids of the parameters that were counted before.
        """
        for payers in self.payers if self._calls else ():
            one, account = payers.one, payers.account
            if one is not None and id(one.parameter) not in before and not account.steps:
                taken = one.taken()
                if taken and one.exact:
                    account.correct(taken, self._calls, one.certain)

    def leave(self, steps: ParameterSteps, accounts: Accounts) -> None:
        """Gives a parameter that leaves the optimizer an account of its own, with the steps up to now."""
        account = accounts[steps.parameter]
        accounts[steps.parameter] = own = account.copy()
        stands = any(payers.account is account and payers.one is steps for payers in self.payers)
        taken = None if stands else steps.taken()
        if taken is not None and not steps.agrees(account.steps) and steps.exact:
            own.correct(taken, self._calls, steps.certain)
        own.settle()

    def settle(self) -> None:
        """Begins the next interval, after all groups were compared."""
        self._calls.clear()
        for payers in self.payers:
            payers.account.settle()


def _first(counted: Sequence[ParameterSteps]) -> ParameterSteps | None:
    """A parameter to stand for the others: one that is trained, if there is one."""
    return next((steps for steps in counted if steps.parameter.requires_grad), counted[0] if counted else None)


def state_of(group: GroupAccounts) -> list[Any]:
    """Accounts of a group as JSON can hold them, for a group with several: the indices of the parameters, and the budget."""
    places = {id(p): i for i, p in enumerate(group.members)}
    return [
        [[places[id(p)] for p in payers.members], list(payers.account.budget) if payers.account.known else None]
        for payers in group.payers
    ]
