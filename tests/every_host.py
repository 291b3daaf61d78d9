"""The same training of a small network under every host: a bare loop, Accelerate, the Hugging Face Trainer and Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor

accelerate = pytest.importorskip("accelerate", reason="needs the transformers extra")
lightning = pytest.importorskip("lightning", reason="needs the lightning extra")
transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from weibull_monitor.integrations.accelerate import AccelerateMonitor  # noqa: E402
from weibull_monitor.integrations.lightning import WeibullCallback as LightningCallback  # noqa: E402
from weibull_monitor.integrations.transformers import WeibullCallback as TransformersCallback  # noqa: E402

STEPS, EVERY, SAVED = 12, 5, 6
SAMPLED = [0, 1, 2, 4, 5, 8, 10, 12]


class Network(nn.Module):
    """Two attention-like matrices and a feed-forward pair, and their loss: what every host can train."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(32, 32), "k_proj": nn.Linear(32, 32)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(32, 64), "fc2": nn.Linear(64, 32)})
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05, generator=generator)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x + torch.tanh(self.self_attn["q_proj"](x)) * self.self_attn["k_proj"](x)
        return {"loss": (self.mlp["fc2"](torch.relu(self.mlp["fc1"](y))) - x).square().mean()}


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """The batches of every training here, in order; one may raise instead."""

    def __init__(self, start: int = 0, raises: Mapping[int, BaseException] | None = None) -> None:
        generator = torch.Generator().manual_seed(2)
        self.batches = torch.randn(STEPS, 8, 32, generator=generator)
        self.start, self.raises = start, raises or {}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for i in range(self.start, STEPS):
            if i in self.raises:
                raise self.raises[i]
            yield {"x": self.batches[i]}


def optimizer_of(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 3.0}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / STEPS)


Trackers = Any
Train = Callable[..., None]


def bare(where: Path, trackers: Trackers = (), raises: Any = None, resume: bool = False, every: Any = EVERY) -> None:
    model = Network()
    optimizer, scheduler = optimizer_of(model)
    state = torch.load(where / "state.pt", weights_only=False) if resume else None
    if state:
        for part, saved in zip((model, optimizer, scheduler), state, strict=False):
            part.load_state_dict(saved)
    resumed = state[3] if state else None
    with WeibullMonitor(
        model,
        optimizer,
        every_n_steps=every,
        output_dir=where,
        trackers=trackers,
        scheduler=scheduler,
        total_steps=STEPS,
        resume=resumed,
    ) as monitor:
        for step, batch in enumerate(Stream(SAVED if resume else 0, raises), SAVED if resume else 0):
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()
            monitor.step()
            scheduler.step()
            if step + 1 == SAVED:
                parts = [part.state_dict() for part in (model, optimizer, scheduler, monitor)]
                torch.save(parts, where / "state.pt")


def with_accelerate(
    where: Path, trackers: Trackers = (), raises: Any = None, resume: bool = False, every: Any = EVERY
) -> None:
    accelerator = accelerate.Accelerator(cpu=True, project_dir=str(where))
    model = Network()
    optimizer, scheduler = optimizer_of(model)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    options = {"every_n_steps": every, "trackers": trackers, "scheduler": scheduler, "total_steps": STEPS}
    monitor = AccelerateMonitor(accelerator, model, optimizer, **options)
    accelerator.register_for_checkpointing(monitor)
    if resume:
        accelerator.load_state(str(where / "state"))
    with monitor:
        for step, batch in enumerate(Stream(SAVED if resume else 0, raises), SAVED if resume else 0):
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            monitor.step()
            scheduler.step()
            optimizer.zero_grad()
            if step + 1 == SAVED:
                accelerator.save_state(str(where / "state"))


def with_transformers(
    where: Path, trackers: Trackers = (), raises: Any = None, resume: bool = False, every: Any = EVERY
) -> None:
    model = Network()
    arguments = transformers.TrainingArguments(
        output_dir=str(where),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        max_grad_norm=0.0,
        logging_strategy="no",
        save_steps=SAVED,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    transformers.Trainer(
        model,
        arguments,
        train_dataset=Stream(0, raises),
        data_collator=lambda examples: examples[0],
        optimizers=optimizer_of(model),
        callbacks=[TransformersCallback(every_n_steps=every, trackers=[*trackers])],
    ).train(resume_from_checkpoint=resume or None)


class Lit(lightning.LightningModule):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        network = Network()
        self.self_attn, self.mlp = network.self_attn, network.mlp

    forward = Network.forward

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self(**batch)["loss"]

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = optimizer_of(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def with_lightning(
    where: Path, trackers: Trackers = (), raises: Any = None, resume: bool = False, every: Any = EVERY
) -> None:
    callbacks = [
        LightningCallback(every_n_steps=every, trackers=trackers, output_dir=where),
        lightning.pytorch.callbacks.ModelCheckpoint(where, "saved", every_n_train_steps=SAVED, save_top_k=-1),
    ]
    lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(
        Lit(),
        torch.utils.data.DataLoader(Stream(SAVED if resume else 0, raises), batch_size=None),
        ckpt_path=where / "saved.ckpt" if resume else None,
        **({"weights_only": False} if resume else {}),
    )


HOSTS = {
    "bare": bare,
    "accelerate": with_accelerate,
    "transformers": with_transformers,
    "lightning": with_lightning,
}
