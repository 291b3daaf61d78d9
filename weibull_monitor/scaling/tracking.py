"""Follows optimizers: what each parameter is stepped with, and what it has spent since the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.scaling.accounts import Account, Accounts, state_of
from weibull_monitor.scaling.bounds import UpdateBound
from weibull_monitor.scaling.budget import Budget, StepInfo
from weibull_monitor.scaling.counts import step_counter
from weibull_monitor.scaling.deepspeed import engine_of, parameters_of
from weibull_monitor.scaling.optimizers import Hyperparameters, describe, divided, innermost, rule_of
from weibull_monitor.scaling.tracked import TrackedOptimizer


class BudgetTracker:
    """Follows optimizers: what their parameters are stepped with, and what they have spent.

    A step that did not move a parameter (frozen, skipped by a loss scaler, another optimizer's turn) spends nothing; where the
    optimizer has taken ten steps between two calls, ten are spent: its own step counts say so. A learning rate in a CUDA tensor
    arrives some steps later; `by_parameter` waits for it.

    Args:
        optimizers: One optimizer, several, or None. Wrappers of Accelerate, Lightning and DeepSpeed are unwrapped, and containers
            with ``.optimizers`` are emptied.

    Raises:
        ConfigurationError: If one of them is not an optimizer.
    """

    def __init__(self, optimizers: Any) -> None:
        self._accounts = Accounts()
        self._started = self._presumed = False
        self._ages = WeakIdKeyDictionary()
        """Steps of a parameter at the last sample and the tensor that counts them, where its first steps have another bound."""
        self._tracked = [TrackedOptimizer(o, self._accounts, known=True) for o in as_optimizers(optimizers)]
        self._regroup()

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers themselves, under their wrappers."""
        return [tracked.innermost for tracked in self._tracked]

    def add(self, optimizer: Any, known: bool) -> None:
        """Follows one more optimizer from now on, unless it is followed already.

        Args:
            optimizer: The optimizer. Parameters that another one has stepped go on with what they have spent.
            known: Whether it has not stepped yet, so that what it spends from now on is all that it spends.
        """
        for one in as_optimizers(optimizer):
            if self._found(one) is None:
                self._compare()
                added = TrackedOptimizer(one, self._accounts, known)
                self._tracked.append(added)
                if not known:
                    for p in (p for group in added.groups for p in group.members):
                        self._accounts[p].known = False
        self._regroup()

    def follow(self, optimizers: Any) -> bool:
        """Follows these optimizers from now on, and no others. Returns whether there were others.

        Args:
            optimizers: The optimizers. What a new one steps goes on with what it has spent.
        """
        given = as_optimizers(optimizers)
        found = [self._found(one) for one in given]
        if len(found) == len(self._tracked) and all(a is b for a, b in zip(found, self._tracked, strict=True)):
            return False
        self._compare()
        for tracked in self._tracked:
            if not any(tracked is one for one in found):
                tracked.leave()
        self._tracked = [
            tracked or TrackedOptimizer(one, self._accounts, known=True, seen=False)
            for one, tracked in zip(given, found, strict=True)
        ]
        self._regroup()
        return True

    def advance(self, optimizer: Any = None, missed: bool = False) -> None:
        """Notes the step just taken: a look at one step count and one multiply-add per parameter group.

        Args:
            optimizer: The optimizer that took it; by default, all of them did.
            missed: Whether there were steps before it that were not noted.
        """
        if optimizer is None and self._started and not missed:
            slow = [tracked for tracked in self._tracked if not tracked.advance_quickly()]
            if not slow:
                return
        else:
            slow = self._tracked
        chosen = None if optimizer is None else [innermost(one) for one in as_optimizers(optimizer)]
        full = False
        # An optimizer without any state is presumed to have stepped if nothing shows otherwise: no optimizer is seen to step,
        # and no gradient waits for one.
        unseen = not self._started and self._none_is_seen()
        presume = unseen and not any(tracked.has_gradient for tracked in self._tracked)
        for tracked in slow:
            if chosen is None or any(tracked.innermost is one for one in chosen):
                if tracked.regrouped():
                    tracked.enter_groups(self._regroup)
                tracked.advance(missed, unseen, presume)
                full |= tracked.jumped or (bool(tracked.groups) and tracked.groups[0].full)
        if full:
            self._compare()

    def by_parameter(self, parameters: Mapping[str, Tensor]) -> dict[str, StepInfo]:
        """What each parameter was last stepped with, and what it has spent.

        To be called at each sample: it compares the step counts of all parameters, and checks whether the optimizers' state was
        reset since the last one.

        Args:
            parameters: By name, the tensor that an optimizer holds for each parameter.

        Returns:
            By name; parameters that no optimizer has stepped yet are absent.
        """
        idle = self._compare()
        found: dict[int, StepInfo] = {}
        for n, tracked in enumerate(self._tracked):
            reset = tracked.watch.reset(tracked.calls)
            rule = rule_of(tracked.innermost)
            for i, of_group in enumerate(tracked.groups):
                group = tracked.optimizer.param_groups[i]
                for payers in of_group.payers:
                    account = payers.account
                    if not account.stepped or not tracked.calls:
                        continue
                    used = _used(rule, group, account)
                    own_rate = used.reason == "own_learning_rate"
                    budget = account.budget if account.known else None
                    known: dict[tuple[torch.Size, bool, bool], StepInfo] = {}  # the same for all of one shape and age
                    bounds: dict[torch.Size, UpdateBound | None] = {}
                    for p in payers.members:
                        if id(p) in found and id(account) in idle.get(n, ()):
                            continue  # another optimizer steps it now
                        frozen = not p.requires_grad and id(account) in idle.get(n, ())
                        if p.shape not in bounds:
                            bounds[p.shape] = None if own_rate else rule.bound(group, p.shape)
                        bound = bounds[p.shape]
                        young = bound is not None and bound.after > 0 and self._is_young(p, group, tracked, bound.after)
                        key = p.shape, frozen, young
                        if key not in known:
                            now = used._replace(eta=0.0) if frozen and not math.isnan(used.eta) else used
                            bound = bound.young() if bound is not None and young else bound
                            scale, form = rule.scale(group, p.shape), rule.sized(group, p.shape)
                            peak = account.budget.peak
                            known[key] = StepInfo(now, budget, scale, (n, i), reset, bound, peak, form)
                        found[id(p)] = known[key]
        return {name: found[id(p)] for name, p in parameters.items() if id(p) in found}

    def _is_young(self, parameter: Tensor, group: Mapping[str, Any], tracked: TrackedOptimizer, steps: int) -> bool:
        """Whether some step since the last sample may have been one of the first of a parameter.

        A count on an accelerator is not read, as that would wait for it, and then the answer is yes.
        """
        counter = step_counter(tracked.innermost, parameter, group)
        elsewhere = isinstance(counter, Tensor) and counter.device.type != "cpu"
        now = 0.0 if elsewhere or counter is None else float(counter)
        held = counter if isinstance(counter, Tensor) else None
        before, holder = self._ages.get(parameter, (0.0, None))  # type: ignore[no-untyped-call]
        self._ages[parameter] = now, held
        return held is not holder or not steps <= before <= now

    def owners(self) -> dict[int, tuple[Mapping[str, Any], Any]]:
        """The parameter group and the optimizer that step each tensor, by the tensor's id."""
        return {
            id(p): (group, tracked.innermost)
            for tracked in self._tracked
            for i, group in enumerate(tracked.optimizer.param_groups)
            for p in parameters_of(tracked.optimizer, i)
        }

    def engines(self) -> dict[int, Any]:
        """DeepSpeed's optimizer around each of the optimizers that it wraps, by the id of that."""
        found = ((tracked.innermost, engine_of(tracked.optimizer)) for tracked in self._tracked)
        return {id(inner): engine for inner, engine in found if engine is not None}

    def divided(self) -> dict[int, frozenset[int]]:
        """The ids of the tensors that this rank steps, by the id of each optimizer whose tensors are divided among the ranks."""
        found = ((tracked.innermost, divided(tracked.optimizer)) for tracked in self._tracked)
        return {id(inner): here for inner, here in found if here is not None}

    def describe(self) -> list[dict[str, Any]]:
        """The class and hyper-parameters of each optimizer, as JSON can hold them."""
        return describe(self.optimizers)

    def steps_of(self, optimizer: int) -> int:
        """Calls of one optimizer's step, by its index, since it is tracked."""
        return self._tracked[optimizer].calls

    def state(self, wait: bool = True) -> list[list[list[Any]] | None] | None:
        """What the groups of each optimizer have spent, as JSON can hold it; None if part of the run was not tracked.

        Args:
            wait: Whether to wait for learning rates on their way from a device; without it, those are taken to be the last known.
        """
        states: list[list[list[Any]] | None] = []
        for tracked in self._tracked:
            tracked.settle(wait)
            known = all(payers.account.known for group in tracked.groups for payers in group.payers[:1])
            budgets = [tracked.expected(i)[:1] or [Budget()] for i in range(len(tracked.groups))]
            states.append([list(first) for (first,) in budgets] if known else None)
        return None if states and all(state is None for state in states) else states

    def watched(self) -> list[list[Any]]:
        """The step count of each optimizer's own state and whether it was reset; and the accounts of groups that have several."""
        out = []
        for tracked in self._tracked:
            several = any(len(group.payers) > 1 for group in tracked.groups)
            accounts = [[state_of(group) if len(group.payers) > 1 else None for group in tracked.groups]]
            out.append(tracked.watch.state() + (accounts if several else []))
        return out

    def restore(
        self, state: Sequence[Sequence[Sequence[Any]] | None] | None, watched: Sequence[Sequence[Any]] | None = None
    ) -> None:
        """Continues from `state` and `watched`; the past of optimizers that are not in them is unknown.

        Raises:
            Exception: Of any type, if they do not have that form: a checkpoint may hold anything. The past is unknown then.
        """
        try:
            self._restored(state, watched)
        except Exception:
            self._restored(None, None)
            raise

    def _restored(
        self, state: Sequence[Sequence[Sequence[Any]] | None] | None, watched: Sequence[Sequence[Any]] | None
    ) -> None:
        self._accounts.clear()
        self._accounts.marks.clear()
        for i, tracked in enumerate(self._tracked):
            spent = state[i] if state is not None and i < len(state) else None
            seen = watched[i] if watched is not None and i < len(watched) else None
            tracked.watch.restore(seen)
            several = seen[2] if seen is not None and len(seen) > 2 else ()
            for g in range(len(tracked.optimizer.param_groups)):
                members = list(parameters_of(tracked.optimizer, g))
                budget = Budget.of(spent[g]) if spent is not None and g < len(spent) else None
                one = Account(budget, known=spent is not None)
                kept = {id(p): one for p in members}
                for places, own in (several[g] if g < len(several) else None) or ():
                    account = Account(Budget.of(own) if own is not None else None, known=own is not None)
                    kept |= {id(members[place]): account for place in places if place < len(members)}
                for p in members:
                    if p not in self._accounts:
                        self._accounts[p] = kept[id(p)]
            tracked.begin_again()
        self._regroup()

    def _none_is_seen(self) -> bool:
        """Whether no optimizer is seen to step yet. When the first is, what was presumed before is taken back."""
        self._started = any(tracked.started for tracked in self._tracked)
        if self._started and self._presumed:
            for tracked in self._tracked:
                tracked.withdraw()
        self._presumed = not self._started
        return self._presumed

    def _found(self, optimizer: Any) -> TrackedOptimizer | None:
        inner = innermost(optimizer)
        return next((tracked for tracked in self._tracked if tracked.innermost is inner), None)

    def _compare(self) -> dict[int, set[int]]:
        """Compares the step counts of all parameters, and divides accounts whose parameters were stepped apart.

        Returns:
            By the index of the optimizer, the ids of the accounts of which it has taken no step since the last time.
        """
        divided = False
        for tracked in self._tracked:
            tracked.settle()
            if tracked.changed():
                tracked.enter()
                divided = True
            for group in tracked.groups:
                divided |= group.compare(self._accounts)
        if divided:
            self._regroup()
        idle = {}
        for n, tracked in enumerate(self._tracked):
            idle[n] = {id(p.account) for group in tracked.groups for p in group.payers if not p.account.steps}
        for tracked in self._tracked:
            for group in tracked.groups:
                group.settle()
        return idle

    def _regroup(self) -> None:
        """Finds the parameters of each group that share an account; what one optimizer steps alone has one of its own."""
        for tracked in self._tracked:
            tracked.look_closely()
        holders: dict[int, tuple[Tensor, list[int]]] = {}
        groups = [group for tracked in self._tracked for group in tracked.groups]
        for n, group in enumerate(groups):
            for p in group.members:
                holders.setdefault(id(p), (p, []))[1].append(n)
        first: dict[int, list[int]] = {}
        alone: dict[tuple[int, tuple[int, ...]], Account] = {}
        for p, places in holders.values():
            account = self._accounts[p]
            if first.setdefault(id(account), places) != places:
                key = id(account), tuple(places)
                if key not in alone:
                    alone[key] = account.copy()
                account = self._accounts[p] = alone[key]
            account.holders = len(places)
        for group in groups:
            group.gather(self._accounts)


def _used(rule: Any, group: Mapping[str, Any], account: Account) -> Hyperparameters:
    if account.rates is None:
        return Hyperparameters(math.nan, float(group.get("weight_decay") or 0.0), rule.why_not(group))
    eta, weight_decay = account.rates
    used: Hyperparameters = rule.hyperparameters({**group, "lr": eta, "weight_decay": weight_decay})
    return used


def as_optimizers(given: Any) -> list[Any]:
    """The optimizers that a user's argument stands for.

    Args:
        given: An optimizer, an object with a list of them in ``.optimizers`` (torchtitan's container), several of them, or None.

    Raises:
        ConfigurationError: For anything else.
    """
    if given is None:
        return []
    if isinstance(given, (list, tuple)):
        return [one for part in given for one in as_optimizers(part)]
    parts = getattr(given, "optimizers", None)
    if isinstance(parts, (list, tuple)) and parts and all(hasattr(part, "param_groups") for part in parts):
        return [one for part in parts for one in as_optimizers(part)]
    groups = getattr(given, "param_groups", None)
    if isinstance(groups, Iterable) and all(isinstance(group, Mapping) for group in groups):
        return [given]
    kind = type(given).__name__
    raise ConfigurationError(f"optimizer is a {kind}{_advice(given)}")


def _advice(given: Any) -> str:
    if isinstance(given, Mapping):
        return "; pass its optimizers in a list: optimizer=list(optimizers.values())"
    if isinstance(given, torch.nn.Module):
        return ", which is a model; pass the model first and then the optimizer of torch.optim that steps it"
    if isinstance(getattr(given, "optimizer", None), torch.optim.Optimizer):
        return ", which is a scheduler; pass the optimizer itself, and the scheduler as scheduler="
    if isinstance(given, Tensor) or (isinstance(given, Iterable) and not isinstance(given, (str, bytes))):
        return "; pass the optimizer that was made from the parameters, or several optimizers in a list"
    return "; pass an optimizer of torch.optim, such as torch.optim.AdamW(model.parameters()), or several in a list"
