"""How the monitor follows the optimizers: which there are, which have stepped, and how their steps are numbered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from weibull_monitor.errors import Guard, counted
from weibull_monitor.scaling.deepspeed import parameters_of

if TYPE_CHECKING:
    from weibull_monitor.measure.reader.reader import ModelReader
    from weibull_monitor.monitor.adaptive import Adaptive
    from weibull_monitor.monitor.ended import Ended
    from weibull_monitor.monitor.recorder import Recorder
    from weibull_monitor.scaling.force_reader import ForceReader
    from weibull_monitor.scaling.law import ScalingLaw
    from weibull_monitor.scaling.tracking import BudgetTracker


def explain_step(guard: Guard, step: int, before: int, first: bool) -> None:
    """Explains once a number of steps that does not follow the one before.

    Args:
        guard: Logs the message.
        step: The number that the user passed.
        before: Number of steps so far.
        first: Whether this is the first call.
    """
    if step < before:
        message = f"step went back from {before} to {step}; pass the steps since training began"
        guard.once(message, key="step went back")
    elif step == 0 and first:
        guard.once(
            "step(step=0) is the baseline, from before the first optimizer step, so this step is not counted; pass the "
            "number of optimizer steps taken, which is 1 after the first",
            key="first step",
        )
    elif step > before + 1 and first:
        guard.once(
            f"the first call was step(step={step}) after {counted(before, 'step')}: pass the number of optimizer steps taken "
            "since training began, and call step after each of them",
            key="first step",
        )


def notice_earlier_steps(guard: Guard, optimizers: Sequence[Any]) -> None:
    """Says in one line that an optimizer has taken steps before the baseline: the run goes on from an earlier one.

    Args:
        guard: Logs the message.
        optimizers: The optimizers themselves, without wrappers.
    """
    from weibull_monitor.scaling.counts import steps_taken

    for optimizer in optimizers:
        held = ((p, group) for group in optimizer.param_groups for p in group["params"])
        taken = next((n for p, group in held if (n := steps_taken(optimizer, p, group))), 0)
        if taken:
            guard.once(
                f"{type(optimizer).__name__} has taken {counted(taken, 'step')} already, and this run begins at step 0, with a "
                "baseline of its own. To continue the history of the earlier run, pass its monitor's state_dict() as resume=",
                key="earlier steps",
            )


def notice_other_parameters(guard: Guard, optimizers: Sequence[Any], optimized: Mapping[str, torch.Tensor]) -> None:
    """Says in one line that the optimizers step none of the model's parameters, so that η is not known.

    Args:
        guard: Logs the message.
        optimizers: The optimizers themselves, without wrappers.
        optimized: By name, the tensor that an optimizer would hold for each parameter of the model.
    """
    own = {id(tensor) for tensor in optimized.values()}
    stepped = [
        p for optimizer in optimizers for n in range(len(optimizer.param_groups)) for p in parameters_of(optimizer, n)
    ]
    if own and stepped and not any(id(p) in own for p in stepped):
        names = ", ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in optimizers))
        guard.once(
            f"none of the parameters that {names} steps is a parameter of this model: it steps copies of them (fp32 masters), or "
            "another model. The learning rate is therefore not known, so there are no budgets, and alerts that need it are off",
            key="other parameters",
        )


class OptimizerFollower:
    """The methods of `WeibullMonitor` about its optimizers."""

    _guard: Guard
    _ended: Ended | None
    _adaptive: Adaptive | None
    _due: Callable[[int], bool]
    _forces: ForceReader | None
    _budgets: BudgetTracker
    _law: ScalingLaw
    _step: int
    _sampled: int
    _advanced: bool
    _recorder: Recorder | None
    _receive_all: Callable[[], None]
    _reader: ModelReader

    def _notice_other_parameters(self) -> None:
        notice_other_parameters(self._guard, self._budgets.optimizers, self._reader.optimized())

    @property
    def sampled_step(self) -> int:
        """The last step that was sampled, on every process; -1 before the baseline."""
        return self._sampled

    def optimizer_stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Says that one of several optimizers has stepped. Without this call, `step` assumes that all have.

        Args:
            optimizer: The optimizer that has just stepped, before its scheduler changes the learning rate.
        """
        if self._ended is not None:
            return
        self._advanced = True
        self._guard("reading the optimizer's parameter groups", self._budgets.advance, optimizer)

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Follows one more optimizer from now on.

        The budget ratio of its parameters is known only if it has not stepped before.
        """
        if self._ended is None:
            self._guard("following one more optimizer", self._add, optimizer)

    def _add(self, optimizer: torch.optim.Optimizer) -> None:
        self._budgets.add(optimizer, known=self._step == 0 or not optimizer.state)

    def follow_optimizers(
        self, optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], scheduler: Any = None
    ) -> None:
        """Follows these optimizers from now on instead of those before, which were replaced.

        Parameters go on with what they have spent. Call it before a new optimizer steps.

        Args:
            optimizers: All optimizers of the model.
            scheduler: Their schedulers, for the forecast of λ, as `WeibullMonitor` takes them.
        """
        if self._ended is not None:
            return
        if self._guard("following other optimizers", self._budgets.follow, optimizers):
            self._guard("reading the schedule", self._law.set_scheduler, scheduler)

    def _is_extra(self) -> bool:
        """Whether this step is sampled beside the schedule; every rank decides alike."""
        adaptive = self._adaptive
        if adaptive is None or not adaptive.asks(self._step):
            return False
        if adaptive.alerts:
            self._receive_all()
        return adaptive.due(self._step, self._budgets.optimizers, self._recorder.raised if self._recorder else 0)

    def _prepare_forces(self) -> None:
        """Measures what `forces` needs from before the next step, if it is known that this will be sampled."""
        later = self._step + 1
        if self._forces is not None and (
            self._due(later) or (self._adaptive is not None and self._adaptive.expects(later))
        ):
            self._forces.before()
