"""A Hugging Face Trainer of a tiny Llama on the bytes of this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import llama
from transformers import Trainer, TrainerCallback, TrainingArguments

from weibull_monitor import read_history

Q0 = "model.layers.0.self_attn.q_proj.weight"


class Bytes(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """This file, as bytes."""

    def __init__(self) -> None:
        self.tokens = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()

    def __len__(self) -> int:
        return len(self.tokens) // 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self.tokens[index * 32 : index * 32 + 32]
        return {"input_ids": window, "labels": window}


def trainer(where: Path, *callbacks: TrainerCallback, model: Any = None, **options: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(where),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    return Trainer(
        model=llama() if model is None else model,
        args=TrainingArguments(**given | options),
        train_dataset=Bytes(),
        eval_dataset=torch.utils.data.Subset(Bytes(), range(4)),
        callbacks=list(callbacks),
    )


def steps(where: Path) -> list[int]:
    return [snapshot.step for snapshot in read_history(where).snapshots]
