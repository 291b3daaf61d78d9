"""Lightning's strategies on the CPU; run on each rank by `launch`."""

# ruff: noqa: E402 (DeepSpeed and Lightning look at the environment when they are imported)

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0", "TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "localhost"}
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from hosts import ETA, WEIGHT_DECAY, Fits, Tokens, fits_of, llama, read
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from weibull_monitor.integrations.lightning import WeibullCallback

EPOCHS, ACCUMULATED = 2, 2


class Lit(pl.LightningModule):
    """A language model whose learning rate falls at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = llama()

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=ETA, weight_decay=WEIGHT_DECAY)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Sharded(Lit):
    """With FSDP2 along one dimension of the mesh and tensor parallelism along the other."""

    def configure_model(self) -> None:
        tp, dp = self.device_mesh["tensor_parallel"], self.device_mesh["data_parallel"]
        for layer in self.model.model.layers:
            if tp.size() > 1:
                parallelize_module(layer.mlp, tp, {"gate_proj": ColwiseParallel(), "down_proj": RowwiseParallel()})
            if dp.size() > 1:
                fully_shard(layer, mesh=dp)
        if dp.size() > 1:
            fully_shard(self.model, mesh=dp)


class FSDPOnCPU(FSDPStrategy):
    """Lightning offers it on CUDA only, by the type of the strategy; torch must be made to accept the CPU."""

    def _setup_model(self, model: Any) -> Any:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


class DeepSpeedOnCPU(DeepSpeedStrategy):
    """Lightning offers it on CUDA only, by a look at the accelerator."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


class Gathering(pl.Callback):
    """Fits the gathered weights after each step of the optimizer."""

    def __init__(self) -> None:
        self.fits: dict[int, Fits] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if trainer.global_step not in self.fits:
            self.fits[trainer.global_step] = fits_of(trainer.strategy.model)


def strategy(name: str) -> tuple[Any, type[Lit]]:
    if name == "ddp":
        return DDPStrategy(), Lit
    if name == "model_parallel":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), Sharded
    if name == "fsdp":
        return FSDPOnCPU(auto_wrap_policy=ModuleWrapPolicy({LlamaDecoderLayer})), Lit
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles an extension, for minutes
    config = {
        "zero_optimization": {"stage": int(name[-1]), "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": 2,
    }
    return DeepSpeedOnCPU(config=config), Lit


def with_the_trainer(directory: Path, strategies: list[str]) -> dict[str, Any]:
    """For each strategy the fits of the gathered weights by step, and the history as the main rank reads it."""
    found: dict[str, Any] = {}
    for name in strategies:
        place = directory / name
        chosen, module = strategy(name)
        gathering = Gathering()
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=dist.get_world_size(),
            strategy=chosen,
            max_epochs=EPOCHS,
            limit_train_batches=6,
            accumulate_grad_batches=ACCUMULATED,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=place,
            callbacks=[WeibullCallback(every_n_steps=2), gathering],
        )
        data = torch.utils.data.DataLoader(Tokens(), batch_size=2)
        trainer.fit(module(), data)
        dist.barrier()
        found[name] = {"fits": gathering.fits, "history": read(place), "steps": trainer.global_step}
    return found
