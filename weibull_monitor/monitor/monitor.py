"""`WeibullMonitor`: decides when to sample, and passes each sample on to the history and the trackers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import nn

from weibull_monitor.errors import ConfigurationError, Guard, shielded
from weibull_monitor.history.places import new_directory
from weibull_monitor.history.snapshot import Reference, References, Snapshot
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.model.components import Component, Discovery, nothing_to_measure
from weibull_monitor.model.components.finder import Finder
from weibull_monitor.model.sharding import UNDER_JOIN, JoinWatch, Ranks
from weibull_monitor.monitor.adaptive import Adaptive
from weibull_monitor.monitor.ended import Ended
from weibull_monitor.monitor.expected import ChangeExpecter
from weibull_monitor.monitor.first_batch import FirstBatch, with_earlier_fits
from weibull_monitor.monitor.last_step import PASSED, LastStep
from weibull_monitor.monitor.optimizers import OptimizerFollower, explain_step, notice_earlier_steps
from weibull_monitor.monitor.options import MonitorArguments, MonitorOptions, takes_options
from weibull_monitor.monitor.recorder import Recorder, log_components
from weibull_monitor.monitor.resuming import Resuming
from weibull_monitor.monitor.sampling import QueuedSample, Sampler, optional_readers
from weibull_monitor.monitor.schedule import Schedule
from weibull_monitor.monitor.shown import Shown

if TYPE_CHECKING:
    from weibull_monitor.alerts.stop import StopRequest

IN_FLIGHT = 4
"""Number of samples that may be on their way from an accelerator before the oldest is waited for. One is enough when samples are
far apart; when every step is sampled, waiting for the previous one would let the device run dry."""


class WeibullMonitor(Shown, OptimizerFollower, ChangeExpecter, Resuming):
    """Fits every weight matrix of a model at a few optimizer steps, and logs k and λ.

    The integrations are thin layers over this class. In your own training loop::

        with WeibullMonitor(model, optimizer, output_dir="runs/x", trackers=["tensorboard"]) as monitor:
            for batch in loader:
                ...
                optimizer.step()
                monitor.step()
                scheduler.step()

    A failure after construction (a tracker that raises, a full disk) is logged once, and training continues. The monitor does
    not use the global random state and does not change the model.

    If the model is spread over processes (DDP, FSDP, tensor, expert or pipeline parallelism, DeepSpeed ZeRO), every process
    makes a monitor and calls the same methods at the same steps. Each process counts the weights it holds, and no weight is
    gathered. Only the main process (rank 0) has the samples and writes them.

    Args:
        model: The model; wrappers are seen through.
        optimizer: The optimizer, or several, whose learning rates and weight decays are read. Parameters without an optimizer
            have no values of the scaling law.
        options: The options and their defaults are documented in `MonitorOptions`.

    Attributes:
        output_dir: The directory of the run.
        last: The last sample, or None; always None on other processes than the main one.

    Raises:
        ConfigurationError: If an argument is out of range, a name is unknown, a directory cannot be written, the model has no
            weight matrix that can be measured, or a process does not make its monitor.
        MissingDependencyError: If the library of a named tracker is not installed.
        TypeError: If an option does not exist.
    """

    @takes_options(MonitorArguments)
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        **options: Any,
    ) -> None:
        given = MonitorOptions(**options)
        self._guard = Guard()
        self._ended: Ended | None = None
        self._recorder: Recorder | None = None
        try:
            self._set_up(model, optimizer, given)
        except BaseException:
            if self._recorder is not None:
                self._recorder.abandon()
            raise

    def _set_up(self, model: nn.Module, optimizer: Any, given: MonitorOptions) -> None:
        from weibull_monitor.scaling.law import ScalingLaw
        from weibull_monitor.scaling.tracking import BudgetTracker

        self._ranks = Ranks.of(given.process_group)
        with self._ranks.joining(given.join_timeout) if self._ranks else nullcontext():
            given.check()
            self._due = given.schedule
            self._find = Finder(given.kinds, given.include, given.exclude, given.resolution, given.example_inputs)
            self._reader = ModelReader(model, self._find, self._ranks, given.frozen)
            if self._ranks is None and not self.discovery.components:
                raise ConfigurationError(nothing_to_measure(model, self.discovery))
            self._budgets = BudgetTracker(optimizer)
            by_default = f"runs/{datetime.now():%Y%m%d-%H%M%S}"
            # Absolute: the script may change its directory later, as Hydra does.
            place = Path(by_default if given.output_dir is None else given.output_dir).absolute()
            if self.is_main:
                place = new_directory(place) if given.output_dir is None else place
                self._recorder = Recorder(place, given, self._guard)
            self.output_dir = place / (given.trial or "")
        self._reader.agree()
        if not self.discovery.components:
            raise ConfigurationError(nothing_to_measure(model, self.discovery))
        self._law = ScalingLaw(self._budgets, given.scheduler, given.total_steps)
        this = ref(self)
        self._forces, updates, writes = optional_readers(
            given,
            self._reader,
            self._budgets,
            self._ranks,
            self._guard,
            lambda: 0 if (it := this()) is None else it._step,
        )
        self._sampler = Sampler(
            model, self._reader, self._budgets, self._law, self._forces, updates, writes, self._ranks, self._guard
        )
        self._sampler.name = given.name
        self._last_step = LastStep(self._reader, self._ranks)
        self._adaptive = Adaptive.of(given.adaptive, given.schedule, model, self._guard, self._ranks)
        self._join = JoinWatch(model)
        self._step, self._sampled = 0, -1
        self._baseline: Mapping[str, Reference] = {}
        self._resumed_from: int | None = None
        self._begun = self._closed = self._advanced = self._called = self._sampled_first = self._recalled = False
        self._recorded: tuple[Component, ...] = ()
        self._pending: deque[QueuedSample] = deque()
        self.last: Snapshot | None = None
        if self._recorder is not None:
            self._recorder.prepare_alerts(self._sampler.attention(), self._sampler.initial())
            log_components(self.discovery, self._reader.different)
        if given.resume is not None:
            self.load_state_dict(given.resume)
            self._guard("preparing to measure", self._reader.prepare)
            self._guard("taking the first sample", self._begin_with_what_was_loaded)
        else:
            self._guard("taking the baseline", self._take_baseline)
            if self.is_main:
                self._guard("looking for earlier steps", notice_earlier_steps, self._guard, self._budgets.optimizers)
        self._sampler.watch_writes()
        if self._recorder is not None:
            self._recorder.take_over()
        wanted = self._ranks is None and given.example_inputs is None and not self._find.followed.whole
        if self._ranks is None:
            self._guard("looking for other parameters", self._notice_other_parameters)
        self._first = FirstBatch(model if wanted else None, self._learn, self._guard)

    @property
    def discovery(self) -> Discovery:
        """The components that are measured, and what is skipped and why; for all processes together."""
        return self._ended.discovery if self._ended is not None else self._reader.discovery

    @property
    def is_main(self) -> bool:
        """Whether this process has the samples and writes them."""
        if self._ended is not None:
            return self._ended.is_main
        return self._ranks is None or self._ranks.is_main

    @property
    def over(self) -> bool:
        """Whether nothing more is sampled: this monitor is closed, replaced by another one, or other processes are gone."""
        if self._ended is not None or self._closed:
            return True
        if self._ranks is not None:  # all ranks continue together, even if the recorder of the main one was replaced
            return self._ranks.broken
        return self._recorder is not None and self._recorder.closed

    @property
    def stop_requested(self) -> StopRequest:
        """Whether an alert of severity ``stop_on`` was raised.

        0 (CONTINUE), 1 (STOP), or 2 (SAVE_AND_STOP: the weights are worth a checkpoint). Always 0 on other processes than the
        main one.
        """
        from weibull_monitor.alerts.stop import StopRequest

        if self._ended is not None:
            return self._ended.stop_requested
        return self._recorder.stop_request if self._recorder is not None else StopRequest.CONTINUE

    @shielded("a step of the monitor")
    def step(self, step: int | None = None, last: bool = False) -> None:
        """Samples if it is time to. Call it right after ``optimizer.step()``, before the scheduler changes the learning rate.

        Args:
            step: Number of optimizer steps since training began, if you count yourself; by default, the number of calls. A step
                that is not above the previous one counts as the same step, and nothing happens.
            last: Whether this is the last step of training.
        """
        if self._ended is not None:
            return
        if step is not None:
            explain_step(self._guard, step, self._step, first=not self._called)
            if step <= self._step:
                return
        if not self._called:
            self._called = True
            self._first.done()
        missed = step is not None and step > self._step + 1
        self._step = self._step + 1 if step is None else step
        if self._advanced:
            self._advanced = False
        else:
            self._guard("reading the optimizer's parameter groups", self._budgets.advance, None, missed)
        if self._ranks is not None and not self.over and self._guard("looking for Join", self._join.active):
            self._ranks.broken = True
            self._guard.once(UNDER_JOIN)
        follows = self._adaptive is not None and self._step >= self._adaptive.next
        extra = follows and not self.over and self._guard("following events", self._is_extra)
        safe = type(self._due) is Schedule
        due = self._due(self._step) if safe else self._guard("asking the schedule", self._due, self._step)
        if (last or extra or due) and not self.over:
            self._guard("sampling", self._sample_and_log)
            if due:  # samples in between do not use them up
                self._sampler.expected = {}
        elif self._pending:
            self._guard("receiving a sample", self._receive)
        if self._sampled != self._step and not self.over:
            self._guard("remembering the last step", self._last_step.remember)
        if self._forces is not None and not self.over:
            self._guard("measuring the norms before the next step", self._prepare_forces)

    def sample(self) -> Snapshot | None:
        """Measures now, off schedule, and returns the sample without logging it. Exceptions are raised.

        Returns:
            The sample; None on other processes than the main one. All processes have to call this.

        Raises:
            ConfigurationError: If the monitor is closed.
        """
        if self._ended is not None:
            raise ConfigurationError("the monitor is closed; sample before close()")
        self._receive(wait=True)
        return self._finished(self._sampler.queue(self._step, aside=True))

    @shielded("finishing")
    def finish(self) -> None:
        """Samples the last step, unless it was sampled. Call it while the weights are still those of that step.

        If they are not, because of weight averaging for example, the step is not sampled, and the log says so.
        """
        if self.over:
            return
        if self._sampled != self._step:
            if self._guard("comparing with the last step", self._last_step.passed):
                self._guard.once(PASSED.format(self._step))
            else:
                self._guard("sampling the last step", self._sample_and_log)
        elif not self._begun:
            self._guard("recording the run", self._begin)
        self._receive_all()
        if self._recorder is not None:
            self._guard("drawing the last sample", self._recorder.finish)

    @shielded("closing")
    def close(self, sample_last: bool = True) -> None:
        """Finishes, closes the history and the trackers, and lets go of the model and the optimizers. It may be called again.

        The attributes and `state_dict` stay as they are.

        Args:
            sample_last: Whether to sample the last step; False if the weights are no longer those of that step, or not all
                processes come here.
        """
        if self._closed:
            return
        if sample_last:
            self.finish()
        self._guard("receiving the last samples", self._receive_all)
        self._closed = True
        self._first.done()
        if self._recorder is not None:
            self._guard("closing the recorder", self._recorder.close)
        self._ended = self._results()
        self._guard("closing the watch of weights", self._sampler.close)
        self._recorder = self._ranks = None
        for name in ("find", "reader", "budgets", "law", "forces", "sampler", "last_step", "adaptive"):
            delattr(self, f"_{name}")

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or a pickled monitor, is closed: the training is that of the original. It has the results so far."""
        kept = {
            name: getattr(self, name) for name in ("output_dir", "last", "_step", "_sampled", "_begun", "_resumed_from")
        }
        closed: dict[str, Any] = dict.fromkeys(("_recorder", "_ranks", "_join"))
        return (
            kept
            | closed
            | {"_closed": True, "_pending": deque()}
            | {"_ended": self._ended or self._results(), "_guard": Guard()}
        )

    def _results(self) -> Ended:
        return Ended(self.discovery, self.is_main, self.stop_requested, self.state_dict(wait=False))

    def __enter__(self) -> WeibullMonitor:
        return self

    @shielded("closing")
    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> None:
        self.close(sample_last=self._ranks is None or kind is None)  # the other processes may not come to sample

    @shielded("keeping the state of the monitor", lambda self: {"step": self._step})
    def state_dict(self, wait: bool = True) -> dict[str, Any]:
        """What a resumed run needs besides the history: the step, and what each parameter group has spent.

        Args:
            wait: Whether to wait first for samples on their way from an accelerator, and to judge them. Without it, the alert
                rules of a resumed run do not know these samples.
        """
        if self._ended is not None:
            return dict(self._ended.state)
        if wait:
            self._receive_all()
        state = {"step": self._step, "budgets": self._budgets.state(wait), "watched": self._budgets.watched()}
        more = {
            "alerts": self._recorder and self._recorder.alerts(),
            "adaptive": self._adaptive and self._adaptive.state(),
            "expected": dict(self._sampler.expected),
        }
        return state | {name: one for name, one in more.items() if one}

    def _learn(self, module: nn.Module, inputs: Any) -> None:
        if self._ended is None and not self._called and self._reader.relearn(self._find, module, inputs):
            if self._resumed_from is None or self._sampled_first:
                self._take_baseline()
            if self._recorder is not None:
                log_components(self.discovery, self._reader.different, again=True)

    def _take_baseline(self) -> None:
        self._sampled, self._sampled_first = self._step, True
        self.last = with_earlier_fits(self._finished(self._sampler.queue(self._step)), self.last)
        if self.last is not None and self._step == 0:
            self._baseline = References.of_fits(self.last.fits)

    def _sample_and_log(self) -> None:
        if not self._begun:
            self._guard("recording the run", self._begin)  # the other ranks wait for this one to sample
        self._sampled = self._step
        self._pending.append(self._sampler.queue(self._step))
        self._receive()

    def _finished(self, queued: QueuedSample) -> Snapshot | None:
        return self._sampler.finish(queued, self._baseline, self.last)

    def _receive(self, wait: bool = False) -> None:
        """Logs the samples that have arrived, in order; with ``wait``, all samples."""
        while self._pending and (wait or len(self._pending) > IN_FLIGHT or self._pending[0].pending.ready()):
            self._log(self._finished(self._pending.popleft()))

    def _receive_all(self) -> None:
        """Waits for all samples and logs them. If one fails, the next are still logged."""
        while self._pending:
            self._guard("receiving a sample", self._receive, wait=True)

    def _log(self, snapshot: Snapshot | None) -> None:
        if self._recorder is None or snapshot is None:
            return
        if self._recorded != snapshot.components:  # another dtype or shape, or frozen from now on, is another line too
            self._record_run(snapshot.components, snapshot.step)
        self.last = snapshot
        self._recorder.log(snapshot)

    def _begin(self) -> None:
        """Records the run and its baseline. Only called at the first sample, as a resumed run may record neither."""
        self._begun = True
        if self._recorder is not None:
            self._record_run(self.discovery.components, self._resumed_from)
            if self.last is not None and self._sampled_first:
                self._recorder.log(replace(self.last, baseline=self._baseline))

    def _record_run(self, components: tuple[Component, ...], resumed_from: int | None) -> None:
        self._recorded = components
        if self._recorder is not None:
            self._recorder.begin(self._sampler.run_record(components, resumed_from))
