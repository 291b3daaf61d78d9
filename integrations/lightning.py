"""The callback for Lightning's `Trainer`, imported as ``lightning`` or as ``pytorch_lightning``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weibull_monitor.alerts.stop import StopRequest
from weibull_monitor.errors import shielded
from weibull_monitor.monitor.monitor import WeibullMonitor

from .lightning_host import LoggerTracker, callback_class, is_last_batch, measured
from .lightning_steps import OptimizerHooks, schedule_of
from .options import CallbackOptions

if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Callback
else:
    _Callback = callback_class()

BORROWED = ("log", "log_dict")
"""Methods of the module that Lightning sets on each callback: they would keep the module."""


class WeibullCallback(CallbackOptions, _Callback):
    """Logs k and λ of every weight matrix while the Trainer trains: ``Trainer(callbacks=[WeibullCallback()])``.

    It writes to every logger of the Trainer at Lightning's own step, and to ``<output_dir>/weibull/history.jsonl``. It counts
    optimizer steps, with or without gradient accumulation; if several optimizers take turns, it counts the batches in which any
    of them stepped. A resumed run continues the history and the baseline of the run that wrote the checkpoint.

    Its arguments are those of `CallbackOptions`, documented in `MonitorOptions`. The default of ``output_dir`` is the directory
    of the resumed run, or ``trainer.log_dir``. With ``stop_on``, ``<output_dir>/weibull/stopped.ckpt`` is saved before training
    ends.
    """

    _hooks: OptimizerHooks | None = None
    _state: Mapping[str, Any] = {}
    _trainer: Any = None
    _asked_at = 0

    @property
    def state_key(self) -> str:
        """Depends on ``name`` only, so that other options can change on resumption. Lightning refuses a second one."""
        name = self._options["name"]
        return f"weibull_monitor/{name}" if name else "weibull_monitor"

    @shielded("beginning")
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Takes the baseline, or continues from the checkpoint or the last `fit`."""
        self._state, self.monitor = self.state_dict(), None
        if trainer.fast_dev_run:
            return
        place = self._guard("finding trainer.log_dir", lambda: trainer.log_dir)  # every process has to take part
        self.monitor = self._guard("setting up weibull_monitor", self._begin, trainer, pl_module, place)

    @shielded("following the optimizers")
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Follows the Trainer's optimizers where they have been replaced."""
        if self.monitor is not None and self._hooks is not None and self._hooks.replaced():
            self._hooks.remove()
            rules, _ = self._guard("reading the schedule", schedule_of, trainer, pl_module) or ([], None)
            self.monitor.follow_optimizers(trainer.optimizers, rules)
            self._hooks = OptimizerHooks(trainer, self.monitor)

    @shielded("the end of a batch")
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Samples if several optimizers take turns or DeepSpeed steps, and stops training if an alert asks for it."""
        if self.monitor is not None and self._hooks is not None and self._hooks.take():
            self.monitor.step()
        if self.monitor is not None and is_last_batch(trainer):
            # Weight averaging replaces the weights in on_train_end.
            self._guard("sampling the last step", self.monitor.finish)
        step = trainer.global_step // max(1, len(trainer.optimizers))
        if step != self._asked_at and not trainer.should_stop:
            self._asked_at = step
            if request := self._stop_request(step, trainer.world_size):
                if request is StopRequest.SAVE_AND_STOP:
                    place = trainer.strategy.broadcast(str(self.monitor.output_dir) if self.monitor is not None else "")
                    trainer.save_checkpoint(Path(place, "weibull", "stopped.ckpt"))
                trainer.should_stop = True

    @shielded("ending")
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Samples the last step, unless it was sampled, and closes the history and the trackers."""
        self._end(sample_last=True)

    @shielded("ending")
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Closes the history and the trackers after training was interrupted."""
        self._end(sample_last=trainer.world_size == 1)

    @shielded("keeping the state of the monitor", lambda self: dict(self._state))
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the step, what each parameter group has spent, and the directory of the history."""
        if self.monitor is None or self._trainer is None:
            return dict(self._state)
        place = str(self.monitor.output_dir.resolve())
        return self.monitor.state_dict() | {"global_step": self._trainer.global_step, "output_dir": place}

    def __getstate__(self) -> dict[str, Any]:
        """As in `CallbackOptions`, with the state, from which the copy can continue."""
        kept = {name: value for name, value in super().__getstate__().items() if name not in BORROWED}
        return {**kept, "_state": self.state_dict(), "_hooks": None, "_trainer": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from `state_dict` when training starts."""
        self._state, self.monitor = dict(state_dict), None

    def _begin(self, trainer: Any, pl_module: Any, log_dir: str | None) -> WeibullMonitor:
        resume: dict[str, Any] | None = None
        if trainer.global_step > 0:
            resume = dict(self._state)
            if resume.get("global_step") != trainer.global_step:
                resume = {"step": trainer.global_step // max(1, len(trainer.optimizers))}
        kept = Path(str((resume or {}).get("output_dir", "")), "weibull")
        place = self._output_dir or (kept.parent if kept.is_dir() else log_dir or trainer.default_root_dir)
        if self._trackers is None and not trainer.loggers and trainer.is_global_zero:
            self._say_where("the Trainer has no logger", Path(place).absolute())
        rules, total = self._guard("reading the schedule", schedule_of, trainer, pl_module) or ([], None)
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
        self._trainer, self._hooks = trainer, OptimizerHooks(trainer, monitor)
        return monitor

    def _end(self, sample_last: bool) -> None:
        if self._hooks is not None:
            self._guard("removing the hooks", self._hooks.remove)
        self._hooks = None
        if self.monitor is not None:
            self.monitor.close(sample_last)
            self._state, self._trainer = self.state_dict(), None
        for name in BORROWED:
            self.__dict__.pop(name, None)
