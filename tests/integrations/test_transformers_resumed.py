"""Resuming from the Hugging Face Trainer's checkpoints, and its schedules, which forecasts are made of."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ranks.launch import started
from trackers.test_tensorboard import scalars

from weibull_monitor import MemoryTracker, read_history

transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from small_trainer import steps, trainer  # noqa: E402

from weibull_monitor.integrations.transformers import STATE_KEY, WeibullCallback  # noqa: E402

ROOT = Path(__file__).parents[2]
HOT = {"learning_rate": 1e-2, "weight_decay": 1.0, "max_steps": 16, "optim": "adamw_torch"}


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
    assert steps(tmp_path) == [2, 3, 4]  # what was loaded, and the steps after it
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


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform cannot kill a process without a word")
def test_killed_in_the_middle_and_resumed_nothing_recorded_is_lost(tmp_path: Path) -> None:
    """The demo itself: SIGKILL after the checkpoint of step 6, then the same command with --resume."""
    command = [str(ROOT / "examples/quickstart_transformers.py")]
    command += ["--output-dir", str(tmp_path), "--report-to", "tensorboard"]
    command += ["--max-steps", "12", "--save-steps", "6", "--every-n-steps", "4"]
    process = started(*command)
    try:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.is_alive():
            file = tmp_path / "weibull/history.jsonl"
            if (tmp_path / "checkpoint-6/trainer_state.json").exists() and file.read_bytes().count(b'"step":8,'):
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    before = (tmp_path / "weibull/history.jsonl").read_bytes()
    recorded = {s.step: s.columns for s in read_history(tmp_path).snapshots}
    assert set(recorded) >= {0, 1, 2, 4, 8}

    resumed = started(*command, "--resume", prints_to=str(tmp_path / "printed.txt"))
    resumed.join(600)
    printed = (tmp_path / "printed.txt").read_text()
    assert resumed.exitcode == 0, printed[-3000:]
    assert (tmp_path / "weibull/history.jsonl").read_bytes().startswith(before)  # appended, never rewritten
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0, 1, 2, 4, 8, 12]
    for snapshot in history.snapshots:
        if snapshot.step in recorded and snapshot.step <= 6:
            assert snapshot.columns == recorded[snapshot.step]
    assert [run.resumed_from for run in history.runs] == [None, 6]
    assert "attn_q" in printed
    curves = [scalars(d) for d in sorted((tmp_path / "runs").iterdir(), key=lambda run: run.stat().st_mtime_ns)]
    assert [step for step, _ in curves[-1]["weibull_k/attn_q"]] == [8, 12]


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


def test_a_schedule_that_follows_the_loss_has_no_forecast(tmp_path: Path) -> None:
    options = HOT | {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 4}
    trainer(tmp_path, WeibullCallback(every_n_steps=4), **options).train()
    assert read_history(tmp_path).snapshots[-1].withheld["no_schedule"] > 10
