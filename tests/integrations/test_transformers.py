"""The callback in the real Hugging Face Trainer, with the real TensorBoard and W&B, reading back what they wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from trackers.test_tensorboard import scalars
from trackers.wandb_offline import history as wandb_rows

from weibull_monitor import ConfigurationError, MemoryTracker, fit_weibull, read_history

transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from small_trainer import Q0, steps, trainer  # noqa: E402
from tiny_models import llama  # noqa: E402

from weibull_monitor.integrations.transformers import WeibullCallback  # noqa: E402

ROOT = Path(__file__).parents[2]


def test_one_callback_and_nothing_else(tmp_path: Path) -> None:
    model = llama()
    before = fit_weibull(model.get_parameter(Q0))
    trainer(tmp_path, WeibullCallback(every_n_steps=3), model=model).train()
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 6]
    history = read_history(tmp_path)
    series = dict(history.series(Q0))
    assert series[0] == pytest.approx(before.k, rel=1e-8)
    assert series[6] == pytest.approx(fit_weibull(model.get_parameter(Q0)).k, rel=1e-8)
    assert {c.kind for c in history.components} >= {"attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "lm_head"}
    assert history.runs[0].model["model_type"] == "llama"


def test_rates_are_those_of_the_step_just_taken(tmp_path: Path) -> None:
    run = trainer(tmp_path, WeibullCallback(every_n_steps=1), lr_scheduler_type="linear", max_steps=5)
    run.train()
    used = dict(read_history(tmp_path).series(Q0, "eta"))
    assert used == pytest.approx({step: 1e-3 * (1 - (step - 1) / 5) for step in range(1, 6)})
    decays = read_history(tmp_path).snapshots[-1].values("weight_decay")
    assert set(decays.values()) == {0.1}


def test_tensorboard_has_our_curves_beside_the_trainers_in_one_file(tmp_path: Path, documented_key: Any) -> None:
    trainer(tmp_path, WeibullCallback(every_n_steps=2), report_to=["tensorboard"]).train()
    files = list(tmp_path.glob("runs/*/events.*"))
    assert len(files) == 1  # TensorBoard's Python loader follows only one file a directory
    curves = scalars(files[0].parent)
    ours = {key: points for key, points in curves.items() if key.startswith("weibull_")}
    assert len(ours) > 50
    assert all(documented_key(key) for key in ours)
    assert [step for step, _ in ours["weibull_k/attn_q"]] == [0, 1, 2, 4, 6]
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4, 5, 6]
    for points in ours.values():
        assert len({step for step, _ in points}) == len(points)
    last = read_history(tmp_path).snapshots[-1].values("k")
    kinds = [last[f"model.layers.{block}.self_attn.q_proj.weight"] for block in (0, 1)]
    assert ours["weibull_k/attn_q"][-1][1] == pytest.approx(sum(kinds) / 2, rel=1e-6)


def test_wandb_has_our_rows_on_the_trainers_axis_and_all_of_its_own(tmp_path: Path, documented_key: Any) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the wandb extra")
    with wandb.init(dir=str(tmp_path)):
        trainer(tmp_path, WeibullCallback(every_n_steps=2), report_to=["wandb"]).train()
    rows = wandb_rows(tmp_path)
    ours = [row for row in rows if "weibull_k/attn_q" in row]
    assert [row["train/global_step"] for row in ours] == [0, 1, 2, 4, 6]
    for row in ours:
        logged = [key for key in row if key.startswith("weibull_")]
        assert len(logged) > 40
        assert all(documented_key(key) for key in logged)
    assert [row["train/global_step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]


def test_a_wandb_that_raises_in_the_middle_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the wandb extra")

    class Lost(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                real = wandb.run.log

                def log(row: Mapping[str, Any], **options: Any) -> None:
                    if any(key.startswith("weibull_") for key in row):
                        raise wandb.errors.CommError("lost")
                    real(row, **options)

                monkeypatch.setattr(wandb.run, "log", log)

    with wandb.init(dir=str(tmp_path)):
        trainer(tmp_path, WeibullCallback(every_n_steps=1), Lost(), report_to=["wandb"]).train()
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 5, 6]
    told = [record.getMessage() for record in caplog.records if "lost" in record.getMessage()]
    assert [message.split(" failed")[0] for message in told] == ["logging to WandbTracker", "drawing for WandbTracker"]
    rows = wandb_rows(tmp_path)
    assert [row["train/global_step"] for row in rows if "weibull_k/attn_q" in row] == [0, 1, 2]
    assert len([row for row in rows if "train/loss" in row]) == 6


def test_the_loss_is_bit_identical_and_log_history_has_nothing_of_ours(tmp_path: Path) -> None:
    plain = trainer(tmp_path / "plain", max_steps=8)
    plain.train()
    watched = trainer(tmp_path / "watched", WeibullCallback(every_n_steps=1, detail="component"), max_steps=8)
    watched.train()
    keys = [sorted(row) for row in plain.state.log_history]
    assert [sorted(row) for row in watched.state.log_history] == keys
    assert [r.get("loss") for r in watched.state.log_history] == [r.get("loss") for r in plain.state.log_history]
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_steps_are_optimizer_steps_under_accumulation_and_evaluation(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        WeibullCallback(every_n_steps=2),
        gradient_accumulation_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=5,
    )
    run.train()
    assert steps(tmp_path) == [0, 1, 2, 4, 5]
    assert read_history(tmp_path).series(Q0, "eta")[-1][0] == 5


@pytest.mark.parametrize("by", ["torch_compile=True", "torch.compile(model)"])
def test_a_compiled_model_has_its_own_names(tmp_path: Path, by: str) -> None:
    model = llama()
    if by == "torch_compile=True":
        options: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "eager"}
        given: Any = model
    else:
        options, given = {"remove_unused_columns": False}, torch.compile(model, backend="eager")
    trainer(tmp_path, WeibullCallback(every_n_steps=2), model=given, max_steps=2, **options).train()
    assert dict(read_history(tmp_path).series(Q0))[2] == pytest.approx(fit_weibull(model.get_parameter(Q0)).k, rel=1e-8)


def test_peft_wrapped_and_partly_frozen(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, which dev installs")
    base = llama()
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    trainer(tmp_path, WeibullCallback(every_n_steps=2), model=model, max_steps=4, learning_rate=1e-2).train()
    history = read_history(tmp_path)
    kinds = {c.name: c.kind for c in history.components}
    assert kinds[Q0] == "attn_q"
    adapters = [name for name, kind in kinds.items() if kind.startswith("adapter_")]
    assert len(adapters) == 8
    lambdas = [value for _, value in history.series(Q0, "lambda")]
    assert len(lambdas) == 4
    assert len(set(lambdas)) == 1  # the base is frozen
    moved = [value for _, value in history.series(next(n for n in adapters if "lora_A" in n), "lambda")]
    assert len(set(moved)) > 1


def test_the_last_step_is_sampled_when_training_stops_early_or_a_best_model_is_loaded(tmp_path: Path) -> None:
    class StopAt5(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 5

    weights = {}

    class Keep(transformers.TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            weights[state.global_step + 1] = model.get_parameter(Q0).detach().clone()

    trainer(
        tmp_path,
        WeibullCallback(every_n_steps=100),
        StopAt5(),
        Keep(),
        max_steps=50,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the best is the first: loading it changes the weights
    ).train()
    series = dict(read_history(tmp_path).series(Q0, "lambda"))
    assert list(series) == [0, 1, 2, 4, 5]
    assert series[5] == pytest.approx(fit_weibull(weights[5]).lambda_, rel=1e-8)
    assert series[5] != pytest.approx(fit_weibull(weights[1]).lambda_, rel=1e-5)


def test_training_twice_begins_a_new_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, WeibullCallback(every_n_steps=2), max_steps=3)
    run.train()
    run.train()
    assert steps(tmp_path) == [0, 1, 2, 3]
    assert len(read_history(tmp_path).runs) == 1
    lines = [json.loads(line) for line in (tmp_path / "weibull/history.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines].count("run") == 2


def test_trackers_of_ones_own_and_another_directory(tmp_path: Path) -> None:
    memory = MemoryTracker()
    callback = WeibullCallback(
        every_n_steps=2, trackers=[memory], output_dir=tmp_path / "elsewhere", detail="component"
    )
    trainer(tmp_path / "run", callback, max_steps=2).train()
    assert [step for step, _ in memory.records] == [0, 1, 2]
    assert f"weibull_component/{Q0}/k" in memory.records[0][1]
    assert steps(tmp_path / "elsewhere") == [0, 1, 2]
    assert not (tmp_path / "run/weibull").exists()


def test_a_place_that_cannot_be_written_is_a_warning_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path, WeibullCallback(output_dir="/dev/null/x"), max_steps=3)
    run.train()
    assert run.state.global_step == 3
    warnings = [r.getMessage() for r in caplog.records if r.name == "weibull_monitor" and r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "cannot be written" in warnings[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every_n_steps": 0}, "at least 1"),
        ({"every_n_steps": -1}, "at least 1"),
        ({"detail": "x"}, "detail is 'x'"),
        ({"trackers": ["nope"]}, "'nope' is not a tracker"),
        ({"trackers": "nope"}, "'nope' is not a tracker"),
    ],
    ids=str,
)
def test_wrong_options_are_typed_errors_before_there_is_a_trainer(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        WeibullCallback(**options)
