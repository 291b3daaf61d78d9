"""Trains a small Llama-style model with Lightning, with k and λ of every weight matrix beside the loss.

    python examples/quickstart_lightning.py
    tensorboard --logdir runs/lightning

Needs ``pip install '.[lightning,tensorboard]' transformers``, no network and no GPU; about a minute on two cores.
"""

from __future__ import annotations

import argparse
import warnings

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from small_llama import LibrarySources, small_llama

from weibull_monitor import read_history
from weibull_monitor.integrations.lightning import WeibullCallback
from weibull_monitor.report.text.run import summarize


class LanguageModel(L.LightningModule):
    """The model, its loss, and AdamW with a cosine schedule: nothing of it is particular to weibull_monitor."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.model = small_llama()
        self._steps = steps

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=200, help="optimizer steps (default: 200)")
    parser.add_argument(
        "--output-dir", default="runs/lightning", help="where everything goes (default: runs/lightning)"
    )
    parser.add_argument("--logger", default="tensorboard", choices=["tensorboard", "csv"], help="the Trainer's logger")
    parser.add_argument("--every-n-steps", type=int, default=50, help="steps between samples (default: 50)")
    parser.add_argument("--resume", default=None, metavar="CKPT", help="a checkpoint to continue from")
    options = parser.parse_args()

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    L.seed_everything(0, verbose=False)
    logger = {"tensorboard": TensorBoardLogger, "csv": CSVLogger}[options.logger](options.output_dir, name="")
    monitoring = WeibullCallback(every_n_steps=options.every_n_steps)
    trainer = L.Trainer(
        max_steps=options.max_steps,
        accelerator="auto",
        devices=1,
        logger=logger,
        callbacks=[monitoring],  # the only line for the monitor
        log_every_n_steps=20,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(LibrarySources(), batch_size=8, shuffle=True)
    trainer.fit(LanguageModel(options.max_steps), data, ckpt_path=options.resume)

    if monitoring.monitor is not None:
        place = monitoring.monitor.output_dir
        print("\n" + summarize(read_history(place)))
        print(f"\nEvery sample of every matrix:  {place}/weibull/history.jsonl  (weibull_monitor.read_history)")
    if options.logger == "tensorboard":
        print(f"The curves beside the loss:    tensorboard --logdir {options.output_dir}")


if __name__ == "__main__":
    main()
