"""The callback for the Hugging Face `Trainer` and its subclasses: TRL's trainers, `Seq2SeqTrainer`, …"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from weibull_monitor.alerts.stop import StopRequest
from weibull_monitor.errors import shielded
from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.trackers import Tracker

from .options import CallbackOptions  # relative: this folder is packaged under another name
from .report_to import trackers_of, trial_of

STATE_KEY = "weibull_monitor"
"""Key under ``stateful_callbacks`` in the ``trainer_state.json`` of each checkpoint: a few numbers per parameter group."""


class WeibullCallback(CallbackOptions, TrainerCallback):
    """Logs k and λ of every weight matrix while the Trainer trains: ``Trainer(..., callbacks=[WeibullCallback()])``.

    It writes to the trackers in ``args.report_to`` (TensorBoard, W&B, …) beside the Trainer's own curves, and to the history
    in ``<output_dir>/weibull/history.jsonl``. It adds nothing to ``state.log_history``, and ends training only if ``stop_on``
    is given. Under ``trainer.hyperparameter_search``, each trial has its history beside its checkpoints, in
    ``<output_dir>/run-<n>/weibull``.

    Its arguments are those of `CallbackOptions`, documented in `MonitorOptions`. The default of ``output_dir`` is
    ``args.output_dir``.
    """

    _followed: int | None = None

    @property
    def _state_key(self) -> str:
        return f"{STATE_KEY}/{self._options['name']}" if self._options["name"] else STATE_KEY

    @shielded("beginning")
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        lr_scheduler: Any = None,
        **kwargs: Any,
    ) -> None:
        """Takes the baseline, or continues from the checkpoint."""
        if self.monitor is not None:  # the training before was interrupted
            self._guard("closing the last monitor", self.monitor.close, sample_last=False)
        self.monitor = None
        if model is None:
            return
        resume = None
        if state.global_step > 0:
            kept = (state.stateful_callbacks or {}).get(
                self._state_key
            )  # of trainer_state.json, which may hold anything
            resume = (dict(kept) if isinstance(kept, Mapping) else {}) | {"step": state.global_step}
        trackers: Iterable[str | Tracker] | None = self._trackers
        if trackers is None and state.is_world_process_zero:
            trackers = self._guard("finding the Trainer's trackers", trackers_of, args, self._guard)
        self.monitor = self._guard(
            "setting up weibull_monitor",
            WeibullMonitor,
            model,
            optimizer,
            output_dir=self._output_dir or args.output_dir,
            trackers=trackers or (),
            scheduler=lr_scheduler if isinstance(lr_scheduler, LRScheduler) else None,
            total_steps=state.max_steps if state.max_steps > 0 else None,
            resume=resume,
            trial=self._guard("finding the trial", trial_of, args, state) if state.is_hyper_param_search else None,
            **self._options,
        )
        self._followed = id(optimizer)
        nowhere = self._trackers is None and not set(args.report_to or ()) - {"none"}
        if self.monitor is not None and nowhere and self.monitor.is_main:
            self._say_where("report_to is empty", self.monitor.output_dir)

    @shielded("following the optimizer")
    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Follows another optimizer, where the callback handler has been given one."""
        if self.monitor is not None and optimizer is not None and id(optimizer) != self._followed:
            self._followed = id(optimizer)  # the monitor keeps the one before, so that no other can have its id
            self.monitor.follow_optimizers(optimizer)

    @shielded("a step of the monitor")
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Samples if it is time to. The scheduler has not stepped yet, and ``global_step`` does not count this step yet."""
        if self.monitor is not None:
            step = state.global_step + 1
            self.monitor.step(step, last=step >= state.max_steps)

    @shielded("the end of a step")
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts the state where the next checkpoint takes it from, and stops training if an alert asks for it."""
        if self.monitor is not None and isinstance(state.stateful_callbacks, dict):
            state.stateful_callbacks[self._state_key] = self.monitor.state_dict(wait=control.should_save)
        if request := self._stop_request(state.global_step, args.world_size):
            control.should_training_stop = True
            control.should_save |= request is StopRequest.SAVE_AND_STOP

    @shielded("the end of an epoch")
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Samples the last step of a training run that was stopped early, before the best model may be loaded."""
        if self.monitor is not None and control.should_training_stop:
            self.monitor.finish()

    @shielded("ending")
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the history and the trackers."""
        if self.monitor is not None:
            self.monitor.close(sample_last=not args.load_best_model_at_end)
        self.__dict__.pop("_followed", None)
