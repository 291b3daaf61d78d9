"""`WeibullMonitor`: when to sample, and the way of a sample from the weights to the history and the trackers."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from weibull_monitor.errors import ConfigurationError, Guard
from weibull_monitor.history import RunRecord, read_history
from weibull_monitor.history.snapshot import NO_SCALING, Detail, Reference, Scaling, Snapshot
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.bins import MANTISSA_BITS
from weibull_monitor.measure.reader.reader import ModelReader, PendingMeasurement
from weibull_monitor.model.components import (
    Discovery,
    Resolution,
    by_reason,
    differs,
    nothing_to_measure,
    render,
)
from weibull_monitor.model.components.finder import finder
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.model.sharding.ranks import JOIN_TIMEOUT
from weibull_monitor.monitor.options import check_options
from weibull_monitor.monitor.recorder import Recorder
from weibull_monitor.trackers import Tracker
from weibull_monitor.trackers.pictures import EVERY

if TYPE_CHECKING:
    from weibull_monitor.alerts import AlertSettings
    from weibull_monitor.history.alert import Alert
    from weibull_monitor.model.components import Component
    from weibull_monitor.scaling.budget import StepInfo
    from weibull_monitor.scaling.force_reader import ForceReader, PendingForces
    from weibull_monitor.scaling.law import Outlook

logger = logging.getLogger("weibull_monitor")

IN_FLIGHT = 4
"""Samples that may be on their way from an accelerator before the oldest is waited for. One would do where samples are far apart;
where every step is sampled, waiting for the one before would let the device run dry."""


@dataclass(frozen=True)
class _Sampling:
    """A sample that has been queued: all that is known of its step, and numbers that may still be on their way.

    Attributes:
        step: Optimizer steps taken.
        time: Unix time, in seconds.
        components: What is measured.
        reading: The reading of the weights.
        stepped: How each parameter of this process was stepped.
        outlook: The learning rates to come, as they were planned then.
        forces: The sums for the forces.
        seconds: What queueing took on this thread.
    """

    step: int
    time: float
    components: tuple[Component, ...]
    reading: PendingMeasurement
    stepped: dict[str, StepInfo]
    outlook: Outlook
    forces: PendingForces | None
    seconds: float


class WeibullMonitor:
    """Fits every weight matrix of a model every so many optimizer steps, and logs k and λ.

    The integrations are thin over this class. In a training loop of your own::

        with WeibullMonitor(model, optimizer, output_dir="runs/x", trackers=["tensorboard"]) as monitor:
            for batch in loader:
                ...
                optimizer.step()
                monitor.step()
                scheduler.step()

    What goes wrong after construction (a tracker that raises, a full disk) is reported once on the log, and training goes
    on. Nothing here uses the global random state or changes the model.

    Where the model is spread over processes (DDP, FSDP, tensor, expert or pipeline parallelism, DeepSpeed ZeRO), every process
    makes a monitor and calls the same methods at the same steps. Each counts what it holds, no weight is gathered, and the
    main process (rank 0) has the samples and writes.

    Args:
        model: The model; wrappers are seen through.
        optimizer: The optimizer whose learning rates and weight decays are read, or several of them. Without one, and for
            parameters that it does not hold, there are no values of the scaling law.
        every_n_steps: Distance between samples in optimizer steps, beside a few early ones at 1, 2, 4, … 64; or a function that
            says of a step whether it is sampled. The baseline and the last step are sampled in any case.
        output_dir: Where the history goes (``<output_dir>/weibull/history.jsonl``); by default ``runs/<time>``.
        trackers: Names (``"tensorboard"``, ``"wandb"``, ``"mlflow"``, ``"trackio"``) or objects with ``log(metrics, step)`` and
            ``close()``.
        pictures_every: Samples between two heatmaps and tables for trackers that show them, beside the last; 0 for none.
        detail: ``"kind"`` logs about 75 metrics whatever the model's depth, ``"component"`` three more a matrix.
        kinds: Regular expressions on parameter names, and the kinds of what they match; they override recognition.
        include: Regular expressions; only names that one of them matches are measured.
        exclude: Regular expressions; names that one of them matches are not.
        resolution: ``"matrix"`` measures stored matrices and the parts of those that hold several (q, k and v; gate and up; each
            expert), ``"head"`` also each attention head, ``"parameter"`` stored matrices alone. ``"auto"`` is ``"matrix"``, but
            for single experts where they would make more than 2,000 components.
        scheduler: For a forecast of λ: the optimizer's scheduler, one for each of several optimizers, or a function of the
            optimizer step (from 1) that the learning rate is in proportion to. It is read, never stepped.
        total_steps: For a forecast of λ: optimizer steps of the whole run.
        forces: Whether to find at each sample what the step did to the squared norm of each matrix: by alignment, injection and
            decay. For AdamW; it reads the optimizer's state, and the weights once more before the step.
        alerts: Thresholds of the rules that every sample is judged by (docs/alerts.md): the defaults, the path of a TOML file, a
            dictionary or `AlertSettings`; False for no alerts.
        on_alert: Called with each `Alert` of a warning or an error.
        webhook: A URL that each of them is posted to, as Slack's incoming webhooks take it; it is never logged.
        stop_on: Severity (``"error"``, ``"warning"``) of an alert from which `stop_requested` is True.
        resume: A `state_dict` to go on from: no new baseline is taken, and the history in ``output_dir`` goes on.
        process_group: The processes that measure together: all of them (``"auto"``), a process group of torch, or None for
            this process alone, which then has to have every weight.
        join_timeout: Seconds to wait when it is made until every process has made one.

    Attributes:
        output_dir: The run's directory.
        last: The last sample, or None; always None on other than the main process.

    Raises:
        ConfigurationError: For arguments out of range, unknown names, a directory that cannot be written, a model without
            a weight matrix that can be measured, a process that makes no monitor.
        MissingDependencyError: For a named tracker whose library is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        every_n_steps: int | Callable[[int], bool] = 100,
        output_dir: str | Path | None = None,
        trackers: Iterable[str | Tracker] = (),
        pictures_every: int = EVERY,
        detail: Detail = "kind",
        kinds: Mapping[str, str] | None = None,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        resolution: Resolution | Literal["auto"] = "auto",
        scheduler: Any = None,
        total_steps: int | None = None,
        forces: bool = False,
        alerts: AlertSettings | Mapping[str, Any] | str | Path | bool = True,
        on_alert: Callable[[Alert], object] | None = None,
        webhook: str | None = None,
        stop_on: str | None = None,
        resume: Mapping[str, Any] | None = None,
        process_group: Any | Literal["auto"] | None = "auto",
        join_timeout: float = JOIN_TIMEOUT,
    ) -> None:
        # Not before they are needed: importing the package should take no time to speak of.
        from weibull_monitor.alerts.dispatch import AlertOptions
        from weibull_monitor.scaling.law import ScalingLaw
        from weibull_monitor.scaling.tracking import BudgetTracker

        self._model = model
        self._ranks = Ranks.of(process_group)
        self._guard = Guard()
        self._recorder: Recorder | None = None
        with self._ranks.joining(join_timeout) if self._ranks else nullcontext():
            told = AlertOptions.of(alerts, on_alert, webhook, stop_on)
            trackers = trackers if isinstance(trackers, str) else list(trackers)
            self._due = check_options(every_n_steps, trackers, detail)
            self._reader = ModelReader(model, finder(kinds, include, exclude, resolution), self._ranks)
            if self._ranks is None and not self.discovery.components:
                raise ConfigurationError(nothing_to_measure(model, self.discovery))
            self.output_dir = (
                Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}" if output_dir is None else Path(output_dir)
            )
            if self.is_main:
                self._recorder = Recorder(self.output_dir, trackers, detail, told, self._guard, pictures_every)
        self._reader.agree()
        if not self.discovery.components:
            raise ConfigurationError(nothing_to_measure(model, self.discovery))
        self._budgets = BudgetTracker(optimizer)
        self._law = ScalingLaw(self._budgets, scheduler, total_steps)
        self._forces = self._force_reader() if forces else None
        self._step, self._sampled = 0, -1
        if self._recorder is not None:
            self._recorder.expect(self._attention())
        self._baseline: dict[str, Reference] = {}
        self._resumed_from: int | None = None
        self._begun = self._closed = self._noted = self._called = False
        self._recorded: tuple[Component, ...] = ()
        self._pending: deque[_Sampling] = deque()
        self.last: Snapshot | None = None
        if self.is_main:
            self._log_table()
        if resume is not None:
            self.load_state_dict(resume)
            self._guard("preparing to measure", self._reader.prepare)
        else:
            self._guard("taking the baseline", self._take_baseline)
        if self._recorder is not None:
            self._recorder.take_over()

    @property
    def discovery(self) -> Discovery:
        """The components that are measured, and what is not and why; on all processes together."""
        return self._reader.discovery

    @property
    def is_main(self) -> bool:
        """Whether this process has the samples and writes."""
        return self._ranks is None or self._ranks.is_main

    @property
    def stop_requested(self) -> int:
        """Whether an alert of the severity ``stop_on`` has been told: 0 no; 1 stop; 2 the weights are worth saving, and stop.

        Known on the main process; always 0 on others.
        """
        return self._recorder.decision if self._recorder is not None else 0

    def step(self, step: int | None = None, last: bool = False) -> None:
        """To be called right after ``optimizer.step()``, before the scheduler moves on. Samples if it is time to.

        Args:
            step: Optimizer steps taken since training began, if you count yourself; by default, calls of this method. A step
                that is not above the one before is that step again, and nothing happens.
            last: Whether this is the last step of training.
        """
        if step is not None and step <= self._step:
            self._explain(step)
            return
        if step is not None and step > self._step + 1 and not self._called:
            self._guard.once(
                f"the first call was step(step={step}) after {self._step} steps: pass the number of optimizer steps taken since "
                "training began, and call step after each of them",
                key="first step",
            )
        self._called = True
        missed = step is not None and step > self._step + 1
        self._step = self._step + 1 if step is None else step
        if self._noted:
            self._noted = False
        else:
            self._guard("reading the optimizer's parameter groups", self._budgets.advance, missed=missed)
        if (last or self._guard("asking the schedule", self._is_due)) and not self._over:
            self._guard("sampling", self._sample_and_log)
        elif self._pending:
            self._guard("taking delivery of a sample", self._deliver)
        if self._forces is not None and not self._over:
            self._guard("measuring the norms before the next step", self._prepare_forces)

    def _explain(self, step: int) -> None:
        """Says once why a call with a step that is not above the one before does nothing."""
        if step < self._step:
            message = f"step went back from {self._step} to {step}; pass the steps since training began"
            self._guard.once(message, key="step went back")
        elif step == 0 and not self._called:
            self._guard.once(
                "step(step=0) is the baseline, from before the first optimizer step, so this step is not counted; pass the "
                "number of optimizer steps taken, which is 1 after the first",
                key="first step",
            )

    def optimizer_stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Where several optimizers step at different times: says before `step` which of them have. Unsaid, all have.

        Args:
            optimizer: One that has just stepped, before its scheduler moves on.
        """
        self._noted = True
        self._guard("reading the optimizer's parameter groups", lambda: self._budgets.advance(optimizer))

    def add_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Follows one more optimizer from now on.

        What its parameters have spent is known, and so their budget ratio, if it has not stepped before.
        """
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
        if self._guard("following other optimizers", self._budgets.follow, optimizers):
            self._guard("reading the schedule", self._law.set_scheduler, scheduler)

    def sample(self) -> Snapshot | None:
        """Measures now, off schedule, and returns the sample without logging it. What goes wrong is raised.

        Returns:
            The sample; None on other than the main process. All processes have to call this.
        """
        self._deliver(wait=True)
        return self._snapshot(self._queue())

    def finish(self) -> None:
        """Samples the last step, unless it was sampled. To be called while the weights are still those of that step."""
        if self._over:
            return
        if self._sampled != self._step:
            self._guard("sampling the last step", self._sample_and_log)
        elif not self._begun:
            self._begin()
        self._settle()
        if self._recorder is not None:
            self._recorder.finish()

    def close(self, sample_last: bool = True) -> None:
        """Finishes, and closes history and trackers. May be called again.

        Args:
            sample_last: Whether the weights are still those of the last step, and all processes have come here.
        """
        if self._closed:
            return
        if sample_last:
            self.finish()
        self._settle()
        self._closed = True
        if self._recorder is not None:
            self._recorder.close()

    def __enter__(self) -> WeibullMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(sample_last=self._ranks is None or kind is None)  # the other processes may not come to sample

    def state_dict(self, wait: bool = True) -> dict[str, Any]:
        """What a resumed run needs that the history does not hold: the step, and what each parameter group has spent.

        Args:
            wait: Whether to wait for samples that are on their way from an accelerator, and judge them first. Without it a
                resumed run has not seen them.
        """
        if wait:
            self._settle()
        state = {"step": self._step, "budgets": self._budgets.state(wait), "watched": self._budgets.watched()}
        alerts = self._recorder.alerts() if self._recorder is not None else None
        return state | ({"alerts": alerts} if alerts else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken: history and baseline continue, budgets are restored.

        To be called before the first `step`. A state that holds nothing but ``step`` will do; what the optimizer has spent is
        then unknown, and so is everything that follows from it.
        """
        self._step = int(state["step"])
        self._budgets.restore(state.get("budgets"), state.get("watched"))
        self._resumed_from, self.last, self._sampled = self._step, None, self._step
        if (recorder := self._recorder) is not None:
            alerts = state.get("alerts") or {}
            self._guard("reading the baseline of the resumed run", lambda: self._recall_baseline(recorder, alerts))

    @property
    def _over(self) -> bool:
        """Whether there is nothing more to do. Another monitor may have taken over; on many ranks they go on in step."""
        replaced = self._recorder is not None and self._recorder.closed and self._ranks is None
        return self._closed or replaced or (self._ranks is not None and self._ranks.broken)

    def _is_due(self) -> bool:
        return self._due(self._step)

    def _force_reader(self) -> ForceReader:
        from weibull_monitor.scaling.force_reader import ForceReader

        return ForceReader(self._reader, self._budgets, self._ranks)

    def _prepare_forces(self) -> None:
        if self._forces is not None and self._due(self._step + 1):
            self._forces.before()

    def _take_baseline(self) -> None:
        self._sampled = self._step
        self.last = self._snapshot(self._queue())
        if self.last is not None:
            self._baseline = {n: Reference(fit.k, fit.lambda_) for n, fit in self.last.fits.items() if fit.available}

    def _recall_baseline(self, recorder: Recorder, alerts: Mapping[str, Any]) -> None:
        self._baseline = {}
        history = read_history(recorder.path)
        recorder.recall(alerts, history, until=self._step)
        if history.baseline is None:
            raise LookupError(f"{history.path} holds no sample of step 0: there will be no drift and no budget ratio")
        scales = history.baseline.values("lambda")
        self._baseline = {name: Reference(k, scales[name]) for name, k in history.baseline.values("k").items()}
        self._law.recall(history.snapshots, until=self._step)

    def _sample_and_log(self) -> None:
        if not self._begun:
            self._begin()
        self._sampled = self._step
        self._pending.append(self._queue())
        self._deliver()

    def _deliver(self, wait: bool = False) -> None:
        """Logs the samples that have arrived, in their order; all of them if they are waited for."""
        while self._pending:
            if not (wait or len(self._pending) > IN_FLIGHT or self._pending[0].reading.ready()):
                return
            self._log(self._snapshot(self._pending.popleft()))

    def _settle(self) -> None:
        """Waits for samples that are on their way, and logs them: what fails with one does not keep back the next."""
        while self._pending:
            self._guard("taking delivery of a sample", lambda: self._deliver(wait=True))

    def _log(self, snapshot: Snapshot | None) -> None:
        if self._recorder is None or snapshot is None:
            return
        if [c.name for c in self._recorded] != [c.name for c in snapshot.components]:
            self._record(snapshot.components, snapshot.step)
        self.last = snapshot
        self._recorder.log(snapshot)

    def _begin(self) -> None:
        """Writes the run's record and baseline: at the first sample and not before, since a resumption has neither."""
        self._begun = True
        if self._recorder is not None:
            self._record(self.discovery.components, self._resumed_from)
            if self.last is not None and self.last.step == 0:
                self._recorder.log(replace(self.last, baseline=self._baseline))

    def _record(self, components: tuple[Component, ...], resumed_from: int | None) -> None:
        """Writes the record of a run that begins, goes on, or measures something else from now on."""
        self._recorded = components
        if self._recorder is not None:
            self._recorder.begin(self._run_record(components, resumed_from))

    def _queue(self) -> _Sampling:
        """Reads everything that belongs to the step just taken; on an accelerator the weights are queued, not waited for."""
        from weibull_monitor.scaling.wire import pack

        started = time.perf_counter()
        what = "reading the optimizer's parameter groups"  # whatever comes of it, the other ranks wait for the sum
        here = self._guard(what, lambda: self._budgets.by_parameter(self._reader.optimized())) or {}
        forces = None
        if self._forces is not None and self._step > 0:
            forces = self._forces.collect()
            for key, message in by_reason(self._forces.reasons, "have no forces").items():
                self._guard.once(message, key=key)
        reading = self._reader.read(self._step, pack(here) if self._ranks is not None else None)
        return _Sampling(
            step=self._step,
            time=time.time(),
            components=self.discovery.components,
            reading=reading,
            stepped=here,
            outlook=self._law.look(self._step, here),
            forces=forces,
            seconds=time.perf_counter() - started,
        )

    def _snapshot(self, sampling: _Sampling) -> Snapshot | None:
        """The sample, waiting for its numbers if need be; to be called in the order of the samples."""
        from weibull_monitor.scaling.wire import unpack

        started = time.perf_counter()
        measured = sampling.reading.measurement()
        for key, message in by_reason(measured.problems, "have no fit").items():
            self._guard.once(message, key=key)
        if not self.is_main:
            return None
        stepped = unpack(measured.notes) | sampling.stepped
        step, components, fits = sampling.step, sampling.components, measured.fits
        scaling = self._law.at(step, components, fits, self._baseline, stepped, sampling.outlook)
        return Snapshot(
            step=step,
            time=sampling.time,
            components=components,
            fits=fits,
            scaling=scaling,
            baseline=self._baseline,
            forces=self._forces.forces(sampling.forces, stepped) if self._forces and sampling.forces else {},
            unchanged=self._count_unchanged(step, fits, scaling),
            seconds=sampling.seconds + time.perf_counter() - started,
        )

    def _count_unchanged(self, step: int, fits: Mapping[str, WeibullFit], scaling: Mapping[str, Scaling]) -> int | None:
        """Trainable components with η > 0 whose counts are those of the last logged sample."""
        if self.last is None or self.last.step == step:
            return None
        before, spent = self.last.fits, self.last.scaling
        return sum(
            name in before
            and before[name].checksum == fits[name].checksum
            and (scaling[name].eta or 0.0) > 0.0
            and (scaling[name].eta_sum is None or scaling[name].eta_sum != spent.get(name, NO_SCALING).eta_sum)
            for name in self._reader.trainable() & fits.keys()
        )

    def _log_table(self) -> None:
        logger.info("weibull_monitor measures\n%s", render(self.discovery))
        for message in by_reason({s.name: s.reason for s in self.discovery.skipped}, "cannot be measured").values():
            logger.warning("weibull_monitor: %s", message)
        if different := self._reader.different:
            logger.warning("weibull_monitor: %s", differs(different))

    def _attention(self) -> list[dict[str, Any]]:
        return [asdict(kind) for kind in self._reader.table.attention]

    def _run_record(self, components: tuple[Component, ...], resumed_from: int | None) -> RunRecord:
        config = getattr(self._model, "config", None)
        return RunRecord(
            started=round(time.time(), 3),
            resumed_from=resumed_from,
            model={
                "class": type(self._model).__name__,
                "model_type": getattr(config, "model_type", None),
                "parameters": self.discovery.elements,
            },
            world_size=self._ranks.size if self._ranks else 1,
            protocol={
                "fit": "middle-80 % probability plot from bit-pattern counts",
                "bins_per_octave": 2**MANTISSA_BITS,
            },
            optimizers=self._guard("describing the optimizers", self._budgets.describe) or (),
            total_steps=self._law.total_steps,
            attention=self._attention(),
            components=components,
            skipped={skipped.name: skipped.reason for skipped in self.discovery.skipped},
        )
