"""A Hugging Face Trainer whose weights are broken on the way, for alerts to stop it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

Q0 = "model.layers.0.self_attn.q_proj.weight"


def scale(parameter: torch.Tensor, factor: float) -> None:
    with torch.no_grad():
        parameter.mul_(factor)


def hf(where: Path, step: int = 4, factor: float = 50.0, announced: bool = False, **options: Any) -> Any:
    """A Trainer of ten steps whose W_q is scaled at the beginning of step 4 or another, announced or not; and its callback."""
    pytest.importorskip("transformers", reason="needs the transformers extra")
    import transformers
    from tiny_models import llama

    from weibull_monitor.integrations.transformers import WeibullCallback

    tokens = torch.arange(64 * 32).remainder(251).view(64, 32)
    arguments = transformers.TrainingArguments(
        output_dir=str(where),
        max_steps=10,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        weight_decay=0.1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo" if "LOCAL_RANK" in os.environ else None,
    )

    class Fault(transformers.TrainerCallback):  # type: ignore[name-defined,misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step + 1 == step:
                if announced:
                    callback.monitor.expect_change(Q0)
                scale(model.get_parameter(Q0), factor)

    callback = WeibullCallback(every_n_steps=1, **options)
    run = transformers.Trainer(
        model=llama(),
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[callback, Fault()],
    )
    return run, callback
