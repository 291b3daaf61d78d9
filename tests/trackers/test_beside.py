"""What TensorBoard and W&B get beside the metrics is what the documentation says, and through every host."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trackers.wandb_offline import history as wandb_rows

from weibull_monitor import WeibullMonitor
from weibull_monitor.history.alert import Alert, Finding

pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
pytest.importorskip("matplotlib", reason="needs the report extra")
pytest.importorskip("plotly", reason="needs the report extra")
wandb = pytest.importorskip("wandb", reason="needs the wandb extra")
from trackers.test_tensorboard import scalars  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
BANDS = {f"weibull_band/{name}_{end}" for name in ("selection", "transmission") for end in ("low", "high")}


def tensorboard_tags(directory: Path) -> dict[str, list[int]]:
    """Tags of scalars and images below a directory, with their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[int]] = {}
    for file in directory.rglob("events.*"):
        reader = EventAccumulator(str(file), size_guidance={"images": 0})
        reader.Reload()
        found |= {tag: [step for step, _ in points] for tag, points in scalars(file.parent).items()}
        found |= {tag: [image.step for image in reader.Images(tag)] for tag in reader.Tags()["images"]}
    return found


def wandb_keys(directory: Path, step: str = "weibull_step") -> dict[str, list[int]]:
    """Keys of the rows of the offline runs below a directory, with their steps."""
    found: dict[str, list[int]] = {}
    for row in wandb_rows(directory):
        # Of a file, a row has several entries below the key.
        for key in {re.sub(r"^(weibull_(?:pictures|tables)/\w+)/.*", r"\1", key) for key in row}:
            found.setdefault(key, []).append(row.get(step, -1))
    return found


def test_every_row_of_the_table_of_what_they_get_beside_is_true(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    from weibull_monitor.trackers.tensorboard import TensorBoardTracker

    tensorboard = TensorBoardTracker(tmp_path / "tb")
    optimizer = torch.optim.AdamW(tiny_model.parameters())
    with WeibullMonitor(
        tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tensorboard, "wandb"]
    ) as monitor:
        train(tiny_model, optimizer, 3, monitor.step)
        finding = Finding("dead", "error", 3, "a", ("a",), 1, "zeros", 0.5, (None, 0.1), None, "Look.")
        tensorboard.alert(Alert("begins", 3, 3, finding))
    logged = {"TensorBoard": set(tensorboard_tags(tmp_path / "tb")), "W&B": set(wandb_keys(tmp_path))}
    rows = re.findall(r"^\| ([TW][^|]*) \| `(weibull_[^`]+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert len(rows) == 12
    for trackers, key in rows:
        for name in trackers.split(", "):
            assert key.replace("<rule>", "dead") in logged[name], f"{name} has no {key}"
    metrics = set(re.findall(r"^\| `(weibull_[^/]+)/", PAGE.read_text(), flags=re.MULTILINE))
    beside = {key for keys in logged.values() for key in keys if key.split("/")[0] not in metrics | {"_step"}}
    assert {key for key in beside if key.startswith("weibull_")} <= {key for _, key in rows}


def test_under_the_transformers_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    from every_host import STEPS, Network, Stream, optimizer_of

    from weibull_monitor.integrations.transformers import WeibullCallback

    model = Network()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        logging_steps=1,
        save_strategy="no",
        report_to=["tensorboard", "wandb"],
        disable_tqdm=True,
        use_cpu=True,
    )
    with wandb.init(dir=str(tmp_path)):
        transformers.Trainer(
            model,
            arguments,
            train_dataset=Stream(),
            data_collator=lambda examples: examples[0],
            optimizers=optimizer_of(model),
            callbacks=[WeibullCallback(every_n_steps=1, pictures_every=5)],
        ).train()
    assert len(list(tmp_path.rglob("events.*"))) == 1  # through the Trainer's own writer, also at the end
    drawn = [4, 9, STEPS]
    tags = tensorboard_tags(tmp_path)
    assert tags["weibull_pictures/k"] == tags["weibull_pictures/lambda"] == tags["weibull_pictures/drift"] == drawn
    assert tags["weibull_band/selection_low"] == list(range(STEPS + 1))
    keys = wandb_keys(tmp_path, "train/global_step")
    assert keys["weibull_pictures/heatmap"] == keys["weibull_tables/fits"] == drawn
    assert keys["train/loss"] == list(range(1, STEPS + 1))  # nothing of the Trainer's was dropped


@pytest.mark.filterwarnings("ignore")
def test_under_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs the lightning extra")
    from every_host import STEPS, Lit, Stream
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    from weibull_monitor.integrations.lightning import WeibullCallback

    class Logs(Lit):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    loggers = [
        TensorBoardLogger(tmp_path, name="tb"),
        WandbLogger(save_dir=tmp_path, offline=True),
        CSVLogger(tmp_path, name="csv"),
    ]
    lightning.Trainer(
        max_steps=STEPS,
        logger=loggers,
        log_every_n_steps=1,
        callbacks=[WeibullCallback(every_n_steps=1, pictures_every=5)],
        **options,
    ).fit(Logs(), torch.utils.data.DataLoader(Stream(), batch_size=None))
    wandb.finish()
    tags = tensorboard_tags(tmp_path / "tb")
    assert len(list((tmp_path / "tb").rglob("events.*"))) == 1
    assert len(tags["weibull_pictures/k"]) == len(tags["weibull_pictures/drift"]) == 3
    assert set(tags) >= BANDS
    keys = wandb_keys(tmp_path)
    assert keys["weibull_pictures/heatmap"] == keys["weibull_tables/fits"] == [4, 9, STEPS]
    assert set(keys) >= BANDS
    assert len(keys["loss"]) == STEPS
    (header, *_) = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()
    assert "weibull_band" not in header  # other loggers get the metrics alone
