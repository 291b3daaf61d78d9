"""The same training under every host, with a situation of the user's in it, without or with the monitor."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import lightning
import torch
import torch.distributed as dist
import transformers
from torch import nn

from weibull_monitor import WeibullMonitor
from weibull_monitor.integrations.accelerate import AccelerateMonitor
from weibull_monitor.integrations.lightning import WeibullCallback as LightningCallback
from weibull_monitor.integrations.transformers import WeibullCallback as TransformersCallback

from .situations import STEPS, Network, Situation, Training, batches, optimizer_of, used

Host = Callable[[Situation, Path, bool], tuple[Training, list[Any]]]
"""Trains; gives back what happened, and the monitors or callbacks that watched."""


class Batches(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """The batches, over and over, the same on every rank."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"x": batch} for batch in itertools.cycle(batches()))


def prepared(situation: Situation) -> tuple[Network, torch.optim.Optimizer]:
    model = Network()
    situation.before(model)
    return model, optimizer_of(model)


def options_of(situation: Situation, where: Path, watched: bool) -> list[dict[str, Any]]:
    """The options of each monitor that a training has."""
    given = {"every_n_steps": 1, "output_dir": where, **situation.options}
    names = given.pop("names", None)
    several = [given | {"name": name, "include": parts} for name, parts in names.items()] if names else [given]
    return several if watched else []


def loop(model: nn.Module, training: Training, situation: Situation, monitors: list[Any], backward: Any = None) -> None:
    """A loop of one's own, prepared by Accelerate or not."""
    training.weights[0] = used(training.model)
    with contextlib.ExitStack() as stack:
        for monitor in monitors:
            stack.enter_context(monitor)
        for step, batch in enumerate(batches(), 1):
            situation.at_step(step, training)
            training.optimizer.zero_grad()
            loss = model(batch)["loss"]
            (backward or torch.Tensor.backward)(loss)
            training.optimizer.step()
            training.weights[step] = used(training.model)
            for monitor in monitors:
                monitor.step()


def bare(
    situation: Situation, where: Path, watched: bool, wrap: Callable[[nn.Module], nn.Module] = lambda m: m
) -> tuple[Training, list[Any]]:
    network, optimizer = prepared(situation)
    model = wrap(network)
    monitors = [WeibullMonitor(model, optimizer, **options) for options in options_of(situation, where, watched)]

    def replace(new: torch.optim.Optimizer) -> None:
        training.optimizer = new
        for monitor in monitors:
            monitor.follow_optimizers(new)

    training = Training(network, optimizer, replace)
    loop(model, training, situation, monitors)
    return training, monitors


def with_accelerate(situation: Situation, where: Path, watched: bool) -> tuple[Training, list[Any]]:
    accelerator = accelerate.Accelerator(cpu=True, project_dir=str(where))
    network, unprepared = prepared(situation)
    model, optimizer = accelerator.prepare(network, unprepared)
    monitors = [AccelerateMonitor(accelerator, model, optimizer, **o) for o in options_of(situation, where, watched)]

    def replace(new: torch.optim.Optimizer) -> None:
        training.optimizer = accelerator.prepare(new)
        for monitor in monitors:
            monitor.monitor.follow_optimizers(training.optimizer)

    training = Training(network, optimizer, replace)
    loop(model, training, situation, monitors, accelerator.backward)
    return training, monitors


class Act(transformers.TrainerCallback):
    """Does what the user does; stands before the monitor in the list."""

    def __init__(self, training: Training, situation: Situation) -> None:
        self.training, self.situation = training, situation

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.training.weights[0] = used(self.training.model)

    def on_step_begin(self, args: Any, state: Any, *more: Any, **kwargs: Any) -> None:
        self.situation.at_step(state.global_step + 1, self.training)

    def on_optimizer_step(self, args: Any, state: Any, *more: Any, **kwargs: Any) -> None:
        self.training.weights[state.global_step + 1] = used(self.training.model)


def with_transformers(situation: Situation, where: Path, watched: bool) -> tuple[Training, list[Any]]:
    network, optimizer = prepared(situation)

    def replace(new: torch.optim.Optimizer) -> None:
        training.optimizer = trainer.optimizer = trainer.accelerator.prepare(new)
        trainer.callback_handler.optimizer = trainer.optimizer

    training = Training(network, optimizer, replace)
    callbacks = [TransformersCallback(**options) for options in options_of(situation, where, watched)]
    arguments = transformers.TrainingArguments(
        output_dir=str(where),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        max_grad_norm=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        accelerator_config={"dispatch_batches": False, "split_batches": False},
    )
    trainer = transformers.Trainer(
        network,
        arguments,
        train_dataset=Batches(),
        data_collator=lambda examples: examples[0],
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        callbacks=[Act(training, situation), *callbacks],
    )
    trainer.train()
    return training, callbacks


class Lit(lightning.LightningModule):  # type: ignore[name-defined,misc]
    """The network as a module of Lightning: its parts are the module's, under the same names."""

    def __init__(self, network: Network, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.made = optimizer
        for name, part in (*network.named_children(), *network.named_parameters(recurse=False)):
            setattr(self, name, part)
        self.__dict__["network"] = network  # not as a child

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.network(**batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.made


class ActInLightning(lightning.Callback):  # type: ignore[name-defined,misc]
    """Does what the user does; stands before the monitor in the list."""

    def __init__(self, training: Training, situation: Situation) -> None:
        self.training, self.situation = training, situation

    def on_train_start(self, *args: Any) -> None:
        self.training.weights[0] = used(self.training.model)

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.situation.at_step(trainer.global_step + 1, self.training)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.training.weights[trainer.global_step] = used(self.training.model)


def with_lightning(situation: Situation, where: Path, watched: bool) -> tuple[Training, list[Any]]:
    network, optimizer = prepared(situation)

    def replace(new: torch.optim.Optimizer) -> None:
        training.optimizer = module.made = new
        trainer.strategy.setup_optimizers(trainer)

    training = Training(network, optimizer, replace)
    module = Lit(network, optimizer)
    callbacks = [LightningCallback(trackers=(), **options) for options in options_of(situation, where, watched)]
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=dist.get_world_size() if dist.is_initialized() else 1,
        logger=False,
        callbacks=[ActInLightning(training, situation), *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=where,
    )
    trainer.fit(module, torch.utils.data.DataLoader(Batches(), batch_size=None))
    return training, callbacks


HOSTS: dict[str, Host] = {
    "bare": bare,
    "accelerate": with_accelerate,
    "transformers": with_transformers,
    "lightning": with_lightning,
}
