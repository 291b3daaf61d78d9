"""The Hugging Face `Trainer` (and what derives from it: TRL's trainers, `Seq2SeqTrainer`, …)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from weibull_monitor.components import Resolution
from weibull_monitor.guard import Guard
from weibull_monitor.monitor import WeibullMonitor, check_options
from weibull_monitor.snapshot import Detail
from weibull_monitor.trackers import Tracker

from .report_to import trackers_of  # relative: this folder is packaged under another name

STATE_KEY = "weibull_monitor"
"""Under ``stateful_callbacks`` in each checkpoint's ``trainer_state.json``: a few numbers a parameter group."""


class WeibullCallback(TrainerCallback):
    """Logs k and λ of every weight matrix while the Trainer trains: ``Trainer(..., callbacks=[WeibullCallback()])``.

    It writes to the trackers in ``args.report_to`` (TensorBoard, W&B) beside the Trainer's own curves, and to the history in
    ``<output_dir>/weibull/history.jsonl``. It adds nothing to ``state.log_history``, and never ends a training run.

    Args:
        every_n_steps: Distance between samples in optimizer steps, beside a few early ones; or a function of the step.
        trackers: ``"auto"`` for those in ``args.report_to``, or names and objects as `WeibullMonitor` takes them.
        output_dir: Where the history goes; by default ``args.output_dir``.
        detail: ``"kind"`` logs about 60 metrics whatever the model's depth, ``"component"`` three more a matrix.
        kinds: Regular expressions on parameter names, and the kinds of what they match; they override recognition.
        include: Regular expressions on names: only what one of them matches is measured; ``exclude``: that is not.
        resolution: ``"auto"``, ``"parameter"``, ``"matrix"`` or ``"head"``, as `WeibullMonitor` takes it.

    Attributes:
        monitor: The `WeibullMonitor` at work, from the beginning of training; None before, and on other than the main process.

    Raises:
        ConfigurationError: For an argument out of range or an unknown name.
    """

    def __init__(
        self,
        every_n_steps: int | Callable[[int], bool] = 100,
        *,
        trackers: Literal["auto"] | Iterable[str | Tracker] = "auto",
        output_dir: str | Path | None = None,
        detail: Detail = "kind",
        kinds: Mapping[str, str] | None = None,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        resolution: Resolution | Literal["auto"] = "auto",
    ) -> None:
        self._trackers = None if trackers == "auto" else [trackers] if isinstance(trackers, str) else list(trackers)
        check_options(every_n_steps, self._trackers or (), detail)
        self._output_dir = output_dir
        self._options: dict[str, Any] = {"every_n_steps": every_n_steps, "detail": detail, "resolution": resolution}
        self._options |= {"kinds": kinds, "include": include, "exclude": exclude}
        self._guard = Guard()
        self.monitor: WeibullMonitor | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes the baseline, or goes on where the checkpoint that is resumed from was saved."""
        self.monitor = None
        if not state.is_world_process_zero or model is None:
            return
        resume = None
        if state.global_step > 0:
            resume = dict((state.stateful_callbacks or {}).get(STATE_KEY) or {}) | {"step": state.global_step}
        trackers: Iterable[str | Tracker] | None = self._trackers
        if trackers is None:
            trackers = self._guard("finding the Trainer's trackers", lambda: trackers_of(args, self._guard))
        self.monitor = self._guard(
            "setting up weibull_monitor",
            lambda: WeibullMonitor(
                model,
                optimizer,
                output_dir=self._output_dir or args.output_dir,
                trackers=trackers or (),
                resume=resume,
                world_size=args.world_size,
                **self._options,
            ),
        )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Samples if it is time to: the scheduler has not moved on yet, and ``global_step`` is still that of the step before."""
        if self.monitor is not None:
            step = state.global_step + 1
            self.monitor.step(step, last=step >= state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts what a resumed run will need where the next checkpoint takes it from."""
        if self.monitor is not None and isinstance(state.stateful_callbacks, dict):
            state.stateful_callbacks[STATE_KEY] = self.monitor.state_dict()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Samples the last step of a training that was stopped early, before a best model may be loaded over it."""
        if self.monitor is not None and control.should_training_stop:
            self.monitor.finish()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the history and the trackers."""
        if self.monitor is not None:
            self.monitor.close(sample_last=not args.load_best_model_at_end)
