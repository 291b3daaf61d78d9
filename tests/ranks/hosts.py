"""The Hugging Face Trainer, Lightning and Accelerate with models spread over ranks; run on each rank by `launch`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0", "HF_HUB_OFFLINE": "1"}

import tiny_models
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from weibull_monitor import fit_weibull, read_history
from weibull_monitor.integrations.transformers import WeibullCallback
from weibull_monitor.model.components.names import clean_name

STEPS, EVERY, SAVED = 6, 2, 3
ETA, WEIGHT_DECAY = 1e-2, 0.1
Fits = dict[str, tuple[float, float]]


def llama() -> LlamaForCausalLM:
    """The same small Llama on every rank, of odd sizes."""
    sizes = {"vocab_size": 67, "hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 3}
    return tiny_models.llama(**sizes, pad_token_id=None)


class Tokens(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.randint(67, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def gathered(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every whole parameter, gathered here, in the test, by the means of each engine."""
    fsdp1 = isinstance(model, FullyShardedDataParallel)
    with FullyShardedDataParallel.summon_full_params(model, writeback=False) if fsdp1 else nullcontext():
        for name, parameter in model.named_parameters():
            if hasattr(parameter, "ds_tensor"):
                import deepspeed

                with deepspeed.zero.GatheredParameters([parameter]):
                    yield clean_name(name), parameter.detach().clone()
            else:
                yield clean_name(name), parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def fits_of(model: nn.Module) -> Fits:
    """k and λ of every matrix, from the gathered weights."""
    out = {}
    for name, weight in gathered(model):
        if weight.dim() == 2:
            fit = fit_weibull(weight.detach())
            out[name] = (fit.k, fit.lambda_)
    return out


class Gathering(TrainerCallback):
    """Fits the gathered weights whenever the monitor samples."""

    def __init__(self) -> None:
        self.fits: dict[int, Fits] = {}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.fits[state.global_step + 1] = fits_of(model)


@contextmanager
def as_on_an_accelerator() -> Iterator[None]:
    """Accelerate offers FSDP and DeepSpeed on accelerators only; here it takes the CPU for one."""
    before = PartialState._prepare_backend
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    try:
        yield
    finally:
        PartialState._prepare_backend = before
        for name in [n for n in os.environ if n.startswith(("ACCELERATE_", "FSDP_"))]:
            del os.environ[name]
        AcceleratorState._reset_state(reset_partial_state=True)


def zero(stage: int) -> dict[str, Any]:
    """A configuration of DeepSpeed as the Trainer takes it: it makes the scheduler, and the engine steps it."""
    return {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
    }


def fsdp(version: int, **options: Any) -> dict[str, Any]:
    """The Trainer's arguments for FSDP1 or FSDP2."""
    layers = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    return {"fsdp": True, "fsdp_config": {"version": version, **layers, **options}}


ON_CPU = {"sync_module_states": False, "state_dict_type": "SHARDED_STATE_DICT"}
"""What FSDP1 needs there: Accelerate looks for an accelerator to sync on, and torch crashes when it gathers a state dict."""
TRAINER: dict[str, dict[str, Any]] = {
    "ddp": {"use_cpu": True},
    "fsdp2": fsdp(2),
    "fsdp1": fsdp(1, **ON_CPU),
    "fsdp1_flat": fsdp(1, use_orig_params=False, **ON_CPU),
    "zero2": {"deepspeed": zero(2)},
    "zero3": {"deepspeed": zero(3)},
}


def hf(directory: Path, engine: str, resume: bool) -> tuple[dict[int, Fits], Any]:
    """Trains with the Trainer; gives the fits of the gathered weights, and the history as the main rank reads it."""
    if "deepspeed" in TRAINER[engine]:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles an extension, for minutes
    with nullcontext() if engine == "ddp" else as_on_an_accelerator():
        arguments = TrainingArguments(
            output_dir=str(directory / engine),
            max_steps=STEPS,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=ETA,
            weight_decay=WEIGHT_DECAY,
            optim="adamw_torch",
            save_steps=SAVED,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **TRAINER[engine],
        )
        gathering = Gathering()
        trainer = Trainer(
            llama(),
            arguments,
            train_dataset=Tokens(),
            callbacks=[WeibullCallback(every_n_steps=EVERY), gathering],
        )
        trainer.train(resume_from_checkpoint=resume or None)
    dist.barrier()
    rates = {row["step"]: row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row}
    return gathering.fits, rates


def with_the_trainer(directory: Path, engines: list[str]) -> dict[str, Any]:
    """For each engine, a training, and another from the checkpoint in the middle of it."""
    found: dict[str, Any] = {}
    for engine in engines:
        fits, rates = hf(directory, engine, resume=False)
        first = read(directory / engine)
        if dist.get_rank() == 0:
            shutil.rmtree(directory / engine / f"checkpoint-{STEPS}")
        dist.barrier()
        again, _ = hf(directory, engine, resume=True)
        found[engine] = {"fits": fits, "rates": rates, "history": first, "again": again}
        found[engine]["resumed"] = read(directory / engine)
    return found


def read(directory: Path) -> dict[int, dict[str, dict[str, float]]]:
    """By step and column, the values of every component."""
    if dist.get_rank() != 0:
        return {}
    columns = ("k", "lambda", "eta", "weight_decay")
    return {s.step: {column: dict(s.values(column)) for column in columns} for s in read_history(directory).snapshots}
