"""The callback for the HF Trainer in TRL's, with LoRA: adapters are components of their own, the frozen base is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from weibull_monitor import read_history

pytest.importorskip("trl", reason="needs trl")
pytest.importorskip("peft", reason="needs peft")

from datasets import Dataset
from peft import LoraConfig
from tiny_models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from weibull_monitor.integrations.transformers import WeibullCallback

Q0 = "model.layers.0.self_attn.q_proj"


class Tampering(TrainerCallback):
    """Doubles a frozen weight in the middle of training."""

    def __init__(self) -> None:
        self.weight: torch.Tensor | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 2:
            (self.weight,) = (p for n, p in model.named_parameters() if n.endswith(f"{Q0}.base_layer.weight"))
            assert not self.weight.requires_grad
            with torch.no_grad():
                self.weight.mul_(2)


def test_adapters_move_and_the_frozen_base_is_read_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tampering = Tampering()
    SFTTrainer(
        model=llama(),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", pad_token="!"),
        train_dataset=Dataset.from_list([{"text": "To be, or not to be, that is the question"}] * 16),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=4,
            max_length=32,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
        ),
        callbacks=[WeibullCallback(every_n_steps=1), tampering],
    ).train()

    history = read_history(tmp_path)
    assert [snapshot.step for snapshot in history.snapshots] == [0, 1, 2, 3, 4]
    kinds = {component.name: component.kind for component in history.components}
    adapters = [name for name, kind in kinds.items() if kind.startswith("adapter_")]
    assert len(adapters) == 2 * 2 * 2  # two blocks, two modules, A and B
    assert kinds[f"{Q0}.weight"] == "attn_q"

    base = [k for _, k in history.series(f"{Q0}.weight", "lambda")]
    assert tampering.weight is not None
    assert base == pytest.approx([base[0]] * 3 + [2 * base[0]] * 2, rel=1e-6)
    moved = {name: [v for _, v in history.series(name, "lambda")] for name in adapters}
    assert all(values[-1] != values[0] for values in moved.values())
    starts = {history.series(name)[0][0] for name in adapters if "lora_B" in name}
    assert min(starts) > 0  # B is all zero before the first step
    last = history.snapshots[-1]
    assert set(last.values("eta")) == set(adapters)  # no optimizer holds the base
    assert "have no fit" not in caplog.text  # a B that begins at zero is how LoRA is made
