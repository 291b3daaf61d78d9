"""Lightning's `Trainer`, imported as ``lightning`` or as ``pytorch_lightning``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import is_not
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weibull_monitor.alerts.dispatch import SAVE_AND_STOP
from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.scaling.deepspeed import engine_of
from weibull_monitor.scaling.optimizers import innermost

from .lightning_host import LoggerTracker, callback_class, measured, schedule_of
from .options import CallbackOptions

if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Callback
else:
    _Callback = callback_class()


class WeibullCallback(CallbackOptions, _Callback):
    """Logs k and λ of every weight matrix while the Trainer trains: ``Trainer(callbacks=[WeibullCallback()])``.

    It writes to every logger of the Trainer at Lightning's own step, and to ``<output_dir>/weibull/history.jsonl``. Its steps
    are those of the optimizer, whatever the accumulation; where several optimizers take turns, batches in which any of them
    stepped. Resumed, it goes on with the history and the baseline of the run that wrote the checkpoint.

    Its arguments are those of `CallbackOptions`: ``every_n_steps``, ``trackers``, ``pictures_every``, ``output_dir``
    (``trainer.log_dir`` by default, or where the resumed run has it), ``detail``, ``kinds``, ``include``, ``exclude``,
    ``resolution``, ``alerts``, ``on_alert``, ``webhook``, ``stop_on``: then ``<output_dir>/weibull/stopped.ckpt`` is saved
    before training ends.
    """

    _hooks: Sequence[Any] = ()
    _followed: Sequence[Any] = ()
    _state: Mapping[str, Any] = {}
    _trainer: Any = None
    _stepped = False
    _asked_at = 0
    _engine_steps: int | None = None

    @property
    def state_key(self) -> str:
        """The same whatever the options, so that they can change on resumption; Lightning refuses a second callback."""
        return "weibull_monitor"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Takes the baseline, or goes on where the checkpoint, or the last `fit`, ended."""
        self._state, self.monitor = self.state_dict(), None
        if trainer.fast_dev_run:
            return
        place = self._guard("finding trainer.log_dir", lambda: trainer.log_dir)  # every process has to take part
        self.monitor = self._guard("setting up weibull_monitor", lambda: self._begin(trainer, pl_module, place))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Follows the Trainer's optimizers where they have been replaced."""
        if self.monitor is not None and self._replaced(trainer.optimizers):
            rules, _ = self._guard("reading the schedule", lambda: schedule_of(trainer, pl_module)) or ([], None)
            self.monitor.follow_optimizers(trainer.optimizers, rules)
            self._bind(trainer, self.monitor)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Samples if optimizers take turns or DeepSpeed steps (one is sampled right after its step), and stops if asked to."""
        if self._engine_steps is not None and self._engine_steps != (steps := trainer.strategy.model.global_steps):
            self._engine_steps, self._stepped = steps, True
        if self.monitor is not None and self._stepped:
            self._stepped = False
            self.monitor.step()
        step = trainer.global_step // max(1, len(trainer.optimizers))
        if step != self._asked_at and not trainer.should_stop:
            self._asked_at = step
            if decision := self._stop_decision(step, trainer.world_size):
                if decision == SAVE_AND_STOP:
                    place = trainer.strategy.broadcast(str(self.monitor.output_dir) if self.monitor is not None else "")
                    trainer.save_checkpoint(Path(place, "weibull", "stopped.ckpt"))
                trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Samples the last step, unless it was, and closes the history and the trackers."""
        self._end(sample_last=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Closes the history and the trackers of a training that was interrupted."""
        self._end(sample_last=trainer.world_size == 1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the step, what each parameter group has spent, and where the history lies."""
        if self.monitor is None:
            return dict(self._state)
        place = str(self.monitor.output_dir.resolve())
        return self.monitor.state_dict() | {"global_step": self._trainer.global_step, "output_dir": place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from `state_dict` when training starts."""
        self._state, self.monitor = dict(state_dict), None

    def _begin(self, trainer: Any, pl_module: Any, log_dir: str | None) -> WeibullMonitor:
        resume: dict[str, Any] | None = None
        if trainer.global_step > 0:
            resume = dict(self._state)
            if resume.get("global_step") != trainer.global_step:
                resume = {"step": trainer.global_step // max(1, len(trainer.optimizers))}
        kept = Path((resume or {}).get("output_dir", ""), "weibull")
        place = self._output_dir or (kept.parent if kept.is_dir() else log_dir or trainer.default_root_dir)
        if self._trackers is None and not trainer.loggers and trainer.is_global_zero:
            self._guard.once(f"the Trainer has no logger: k and λ are in {place}/weibull/history.jsonl only")
        rules, total = self._guard("reading the schedule", lambda: schedule_of(trainer, pl_module)) or ([], None)
        monitor = WeibullMonitor(
            measured(trainer, pl_module),
            trainer.optimizers,
            output_dir=place,
            trackers=[LoggerTracker(x, trainer) for x in trainer.loggers] if self._trackers is None else self._trackers,
            scheduler=rules,
            total_steps=total,
            resume=resume,
            **self._options,
        )
        self._trainer, self._stepped = trainer, False
        self._bind(trainer, monitor)
        return monitor

    def _bind(self, trainer: Any, monitor: WeibullMonitor) -> None:
        """Has every optimizer say when it has stepped."""
        self._unbind()
        self._engine_steps, self._followed = None, list(trainer.optimizers)
        if any(
            map(engine_of, trainer.optimizers)
        ):  # it steps the optimizer under it once a group, on part of the weights
            self._engine_steps = trainer.strategy.model.global_steps
            return
        for optimizer in map(innermost, trainer.optimizers):
            hook = optimizer.register_step_post_hook(partial(self._after_step, monitor))
            self._hooks = [*self._hooks, hook]

    def _after_step(self, monitor: WeibullMonitor, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Called by the optimizer itself: micro-batches and skipped steps do not count, and no scheduler has moved on."""
        if len(self._hooks) == 1:
            monitor.step()
        else:
            monitor.optimizer_stepped(optimizer)
            self._stepped = True

    def _replaced(self, optimizers: Sequence[Any]) -> bool:
        return len(optimizers) != len(self._followed) or any(map(is_not, self._followed, optimizers))

    def _unbind(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._followed = (), ()

    def _end(self, sample_last: bool) -> None:
        self._unbind()
        if self.monitor is not None:
            self.monitor.close(sample_last)
