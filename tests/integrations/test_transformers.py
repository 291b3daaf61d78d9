"""The callback in the real Hugging Face Trainer, with the real TensorBoard and W&B, reading back what they wrote."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from trackers.test_tensorboard import scalars
from trackers.wandb_offline import history as wandb_rows

from weibull_monitor import ConfigurationError, MemoryTracker, fit_weibull, read_history

transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed  # noqa: E402

from weibull_monitor.integrations.transformers import STATE_KEY, WeibullCallback  # noqa: E402

ROOT = Path(__file__).parents[2]
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


def llama() -> LlamaForCausalLM:
    set_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def trainer(where: Path, *callbacks: transformers.TrainerCallback, model: Any = None, **options: Any) -> Trainer:
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


def test_all_processes_measure_and_the_main_one_writes(tmp_path: Path) -> None:
    """Two real processes with gloo under torchrun: one history, written by the main one, of the right steps."""
    program = tmp_path / "two.py"
    program.write_text(
        f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}]\n"
        "from pathlib import Path\n"
        "from integrations.test_transformers import trainer, WeibullCallback\n"
        "callback = WeibullCallback(every_n_steps=2)\n"
        f"run = trainer(Path({str(tmp_path / 'run')!r}), callback, max_steps=4, ddp_backend='gloo')\n"
        "run.train()\n"
        "assert callback.monitor.is_main == run.is_world_process_zero()\n"
        "assert (callback.monitor.last is None) != run.is_world_process_zero()\n"
        "import torch; torch.distributed.destroy_process_group(); import os; os._exit(0)  # gloo may abort at exit\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert steps(tmp_path / "run") == [0, 1, 2, 4]
    lines = (tmp_path / "run/weibull/history.jsonl").read_text()
    assert (lines.count('"type":"run"'), lines.count('"type":"snapshot"')) == (1, 4)
    assert read_history(tmp_path / "run").runs[0].world_size == 2


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


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "cosine"}
    trainer(tmp_path / "whole", WeibullCallback(every_n_steps=3), **options).train()

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parts", WeibullCallback(every_n_steps=3), Stop(), **options).train()
    assert steps(tmp_path / "parts") == [0, 1, 2, 3, 4, 6]
    resumed, memory = WeibullCallback(every_n_steps=3, trackers=[tracker := MemoryTracker()]), tracker
    trainer(tmp_path / "parts", resumed, **options).train(resume_from_checkpoint=True)

    whole, parts = read_history(tmp_path / "whole"), read_history(tmp_path / "parts")
    assert [s.step for s in parts.snapshots] == [s.step for s in whole.snapshots] == [0, 1, 2, 3, 4, 6, 8]
    for a, b in zip(whole.snapshots, parts.snapshots, strict=True):
        assert a.columns == b.columns
    assert [run.resumed_from for run in parts.runs] == [None, 4]
    assert [step for step, _ in memory.records] == [6, 8]
    saved = json.loads((tmp_path / "whole/checkpoint-8/trainer_state.json").read_text())
    state = saved["stateful_callbacks"][STATE_KEY]
    assert state["step"] == 8
    assert memory.records[-1][1]["weibull_scaling/t_over_tau"] == pytest.approx(state["budgets"][0][0][1])
    assert len(json.dumps(state)) < 300  # no per-matrix values in the checkpoint
    assert "weibull_class/selection_drift_pct" in memory.records[-1][1]


def test_a_checkpoint_saved_without_the_callback_can_be_resumed_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, **options).train()
    trainer(tmp_path, WeibullCallback(every_n_steps=1), **options).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert steps(tmp_path) == [3, 4]
    assert "no sample of step 0" in caplog.text
    assert (tmp_path / "checkpoint-4/trainer_state.json").exists()


def test_restoring_callback_states_keeps_the_callback_at_work(tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, WeibullCallback(every_n_steps=1), **options).train()
    memory = MemoryTracker()
    trainer(
        tmp_path,
        WeibullCallback(every_n_steps=1, trackers=[memory]),
        restore_callback_states_from_checkpoint=True,
        **options,
    ).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [step for step, _ in memory.records] == [3, 4]


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


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform cannot kill a process without a word")
def test_killed_in_the_middle_and_resumed_nothing_recorded_is_lost(tmp_path: Path) -> None:
    """The demo itself: SIGKILL after the checkpoint of step 10, then the same command with --resume."""
    command = [sys.executable, str(ROOT / "examples/quickstart_transformers.py")]
    command += ["--output-dir", str(tmp_path), "--report-to", "tensorboard"]
    command += ["--max-steps", "24", "--save-steps", "10", "--every-n-steps", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            file = tmp_path / "weibull/history.jsonl"
            if (tmp_path / "checkpoint-10/trainer_state.json").exists() and file.read_bytes().count(b'"step":12,'):
                break
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    before = (tmp_path / "weibull/history.jsonl").read_bytes()
    recorded = {s.step: s.columns for s in read_history(tmp_path).snapshots}
    assert set(recorded) >= {0, 1, 2, 4, 8, 12}

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "weibull/history.jsonl").read_bytes().startswith(before)  # appended, never rewritten
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0, 1, 2, 4, 8, 12, 16, 20, 24]
    for snapshot in history.snapshots:
        if snapshot.step in recorded and snapshot.step <= 10:
            assert snapshot.columns == recorded[snapshot.step]
    assert [run.resumed_from for run in history.runs] == [None, 10]
    assert "attn_q" in done.stdout
    curves = [scalars(d) for d in sorted((tmp_path / "runs").iterdir())]
    assert [step for step, _ in curves[-1]["weibull_k/attn_q"]] == [12, 16, 20, 24]


HOT = {"learning_rate": 1e-2, "weight_decay": 1.0, "max_steps": 16, "optim": "adamw_torch"}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
def test_the_trainers_schedule_is_read_for_a_forecast(tmp_path: Path, schedule: str) -> None:
    tracker = MemoryTracker()
    options = HOT | {"lr_scheduler_type": schedule, "warmup_steps": 2}
    run = trainer(tmp_path, WeibullCallback(every_n_steps=2, trackers=[tracker]), **options)
    run.train()
    plain = trainer(tmp_path / "plain", **options)
    plain.train()
    rates = [row["learning_rate"] for row in run.state.log_history if "learning_rate" in row]
    assert rates == [row["learning_rate"] for row in plain.state.log_history if "learning_rate" in row]
    key, kinds = "weibull_scaling/lambda_forecast/", {"attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up"}
    late = dict(tracker.records)[12]
    assert {k.removeprefix(key) for k in late if k.startswith(key)} >= kinds
    end = tracker.records[-1][1]
    for kind in kinds:
        assert late[key + kind] == pytest.approx(end[f"weibull_lambda/{kind}"], rel=0.1)
        assert end[key + kind] == pytest.approx(end[f"weibull_lambda/{kind}"], rel=1e-8)
    history = read_history(tmp_path)
    assert history.runs[0].total_steps == 16
    assert [o["class"] for o in history.runs[0].optimizers] == ["AdamW"]
    assert history.snapshots[-1].withheld == {"kind_not_covered": 2}  # embedding and head


def test_a_resumed_trainer_forecasts_as_an_uninterrupted_one(tmp_path: Path) -> None:
    options = HOT | {"save_strategy": "steps", "save_steps": 8, "lr_scheduler_type": "cosine"}
    trainer(tmp_path, WeibullCallback(every_n_steps=2), **options).train()
    whole = {s.step: (s.columns, s.withheld) for s in read_history(tmp_path).snapshots}
    assert any(value is not None for value in whole[14][0]["lambda_forecast"])
    trainer(tmp_path, WeibullCallback(every_n_steps=2), **options).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-8")
    )
    history = read_history(tmp_path)
    assert history.runs[-1].resumed_from == 8
    assert {s.step: (s.columns, s.withheld) for s in history.snapshots} == whole


def test_a_checkpoint_without_the_optimizer_is_a_reset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = HOT | {"save_strategy": "steps", "save_steps": 8}
    trainer(tmp_path, WeibullCallback(every_n_steps=2), **options).train()
    (tmp_path / "checkpoint-8" / "optimizer.pt").unlink()
    trainer(tmp_path, WeibullCallback(every_n_steps=2), **options).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-8")
    )
    last = read_history(tmp_path).snapshots[-1]
    assert set(last.withheld) == {"optimizer_reset"}
    assert not last.values("lambda_forecast")
    assert caplog.text.count("the optimizer's state was reset in mid-run") == 1


def test_a_schedule_that_follows_the_loss_has_no_forecast(tmp_path: Path) -> None:
    options = HOT | {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 4}
    trainer(tmp_path, WeibullCallback(every_n_steps=4), **options).train()
    assert read_history(tmp_path).snapshots[-1].withheld["no_schedule"] > 10
