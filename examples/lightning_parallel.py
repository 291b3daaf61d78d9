"""Trains with Lightning on two processes: DDP, or FSDP2 through its ModelParallelStrategy; on GPUs, or on the CPU.

    python examples/lightning_parallel.py
    python examples/lightning_parallel.py --strategy model-parallel

The callback is the same as on one process. Every rank measures its own shards, and rank 0 writes.
Needs ``pip install '.[lightning]' transformers`` and no network; half a minute on two cores.
"""

from __future__ import annotations

import argparse
import warnings

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from small_llama import LibrarySources, small_llama
from torch.distributed.fsdp import fully_shard

from weibull_monitor import read_history
from weibull_monitor.integrations.lightning import WeibullCallback
from weibull_monitor.report.text.run import summarize


class LanguageModel(L.LightningModule):
    """The model, its loss, and AdamW with a cosine schedule."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.model = small_llama(width=128, blocks=2)
        self._steps = steps

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ShardedLanguageModel(LanguageModel):
    """Of which each process holds a part."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for layer in self.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=40, help="optimizer steps (default: 40)")
    parser.add_argument("--output-dir", default="runs/lightning_parallel", help="where everything goes")
    parser.add_argument("--every-n-steps", type=int, default=20, help="steps between samples (default: 20)")
    parser.add_argument("--strategy", default="ddp", choices=["ddp", "model-parallel"])
    parser.add_argument("--devices", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args()

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    L.seed_everything(0, verbose=False)
    sharded = options.strategy == "model-parallel"
    trainer = L.Trainer(
        max_steps=options.max_steps,
        accelerator="auto",
        devices=options.devices,
        strategy=ModelParallelStrategy(options.devices, 1) if sharded else DDPStrategy(),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=options.output_dir,
        callbacks=[WeibullCallback(every_n_steps=options.every_n_steps)],  # as on one process
    )
    data = torch.utils.data.DataLoader(LibrarySources(), batch_size=4, shuffle=True)
    trainer.fit((ShardedLanguageModel if sharded else LanguageModel)(options.max_steps), data)

    if trainer.is_global_zero:
        print("\n" + summarize(read_history(options.output_dir)))
        print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")


if __name__ == "__main__":
    main()
