"""Samples beside the rows of a run's owner, under every order of calls, as W&B's own file has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trackers.wandb_offline import history, records

from weibull_monitor.trackers import as_trackers

wandb = pytest.importorskip("wandb", reason="needs the wandb extra")

STEPS = 40
KEY = "weibull_k/attn_q"
Log = Callable[..., None]


def counts_from_0(log: Log, n: int) -> None:
    log({"loss": n}, step=n - 1)


def counts_from_1(log: Log, n: int) -> None:
    log({"loss": n}, step=n)


def passes_no_step(log: Log, n: int) -> None:
    log({"loss": n})


def in_two_parts(log: Log, n: int) -> None:
    log({"rate": n}, commit=False)
    log({"loss": n})


def in_two_parts_with_a_step(log: Log, n: int) -> None:
    log({"rate": n}, step=n)
    log({"loss": n}, step=n)


def each_tenth_step(log: Log, n: int) -> None:
    if n % 10 == 0:
        log({"loss": n}, step=n)


def each_tenth_without_a_step(log: Log, n: int) -> None:
    if n % 10 == 0:
        log({"loss": n})


def counts_micro_batches(log: Log, n: int) -> None:
    log({"loss": n}, step=4 * n)


def counts_its_rows(log: Log, n: int) -> None:
    if n % 10 == 0:
        log({"loss": n}, step=n // 10)


def counts_epochs(log: Log, n: int) -> None:
    if n % 20 == 0:
        log({"loss": n}, step=n // 20 - 1)


def the_same_step_again(log: Log, n: int) -> None:
    if n % 10 == 0:
        log({"rate": n}, step=n // 10)
        log({"loss": n}, step=n // 10)


def logs_nothing(log: Log, n: int) -> None:
    """An owner who only opens the run."""


OWNERS = {
    counts_from_0: STEPS,
    counts_from_1: STEPS,
    passes_no_step: STEPS,
    in_two_parts: STEPS,
    in_two_parts_with_a_step: STEPS,
    each_tenth_step: STEPS // 10,
    each_tenth_without_a_step: STEPS // 10,
    counts_micro_batches: STEPS,
    counts_its_rows: STEPS // 10,
    counts_epochs: STEPS // 20,
    the_same_step_again: STEPS // 10,
    logs_nothing: 0,
}
FOLLOWED = {counts_from_0: -1, counts_from_1: 0, each_tenth_step: 0, in_two_parts_with_a_step: 0}
"""What W&B's step of a row is beside the optimizer step."""


def schedule(every: int) -> list[int]:
    return sorted({n for n in range(1, STEPS + 1) if n % every == 0} | {1, 2, 4, 8, 16, 32})


@pytest.mark.parametrize(("first", "every"), [("owner", 10), ("monitor", 1)])
@pytest.mark.parametrize("owner", OWNERS)
def test_no_row_of_the_owner_and_no_sample_is_lost(
    owner: Callable[[Log, int], None], first: str, every: int, tmp_path: Path
) -> None:
    run = wandb.init(dir=str(tmp_path))
    (tracker,) = as_trackers(["wandb"], tmp_path / "run")
    sampled = schedule(every)
    tracker.log({KEY: 0.0}, 0)
    for n in range(1, STEPS + 1):
        for who in ("owner", "monitor") if first == "owner" else ("monitor", "owner"):
            if who == "owner":
                owner(wandb.log, n)
            elif n in sampled:
                tracker.log({KEY: float(n)}, n)
                tracker.settle()
    tracker.close()
    assert "_log" not in vars(run)  # the run is as it was
    wandb.log({"later": 1.0}, step=run.step + 5)
    run.finish()
    rows = history(tmp_path)
    theirs = [row for row in rows if "loss" in row]
    assert len(theirs) == OWNERS[owner]
    assert [row["loss"] for row in theirs] == sorted(row["loss"] for row in theirs)
    assert all(row["rate"] == row["loss"] for row in theirs if "rate" in row)
    if "parts" in owner.__name__ or "again" in owner.__name__:
        assert len([row for row in rows if "rate" in row]) == OWNERS[owner]
    assert [(row["weibull_step"], row[KEY]) for row in rows if KEY in row] == [(n, float(n)) for n in (0, *sampled)]
    if owner in FOLLOWED:
        assert [row["_step"] for row in theirs] == [row["loss"] + FOLLOWED[owner] for row in theirs]
    assert "later" in rows[-1]


def test_two_models_in_one_run_share_rows(tmp_path: Path) -> None:
    run = wandb.init(dir=str(tmp_path))
    both = [as_trackers(["wandb"], tmp_path / name)[0] for name in ("student", "teacher")]
    for n in range(9):
        for name, tracker in zip(("student", "teacher"), both, strict=True):
            tracker.log({f"{name}/{KEY}": float(n)}, n)
        if n:
            run.log({"loss": n}, step=n - 1)
    both[0].close()
    run.log({"loss": 9}, step=8)
    both[1].close()
    run.finish()
    rows = history(tmp_path)
    assert [row["loss"] for row in rows if "loss" in row] == list(range(1, 10))
    for name in ("student", "teacher"):
        assert [row[f"{name}/{KEY}"] for row in rows if f"{name}/{KEY}" in row] == list(range(9))


def test_a_killed_run_loses_a_few_steps_at_most(tmp_path: Path) -> None:
    """Accelerate's `accelerator.log` once per epoch, with the optimizer steps, as transformers' examples have it."""
    pytest.importorskip("accelerate", reason="needs the transformers extra")
    script = """
        import sys, torch, wandb
        from accelerate import Accelerator
        from weibull_monitor.integrations.accelerate import AccelerateMonitor
        accelerator = Accelerator(cpu=True, log_with="wandb", project_dir=sys.argv[1])
        accelerator.init_trackers("x", init_kwargs={"wandb": {"dir": sys.argv[1]}})
        model = torch.nn.TransformerEncoderLayer(16, 2, 32)
        optimizer = torch.optim.AdamW(model.parameters())
        model, optimizer = accelerator.prepare(model, optimizer)
        monitor = AccelerateMonitor(accelerator, model, optimizer, every_n_steps=1)
        for n in range(1, 61):
            accelerator.backward(model(torch.randn(2, 3, 16)).square().mean())
            optimizer.step(); monitor.step(); optimizer.zero_grad()
            if n % 25 == 0:
                accelerator.log({"loss": n}, step=n)
        print(accelerator.get_tracker("wandb").run.step, flush=True)  # W&B has received everything
        sys.stdin.readline()
    """
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    logged = [(25, 25), (50, 50)]
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        losses, samples, deadline = [], 0, time.monotonic() + 60
        while (losses != logged or samples < 61 - 15) and time.monotonic() < deadline:  # W&B's service writes on
            time.sleep(0.1)
            rows = [
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                for file in tmp_path.rglob("run-*.wandb")
                for record in records(file)
                if record.WhichOneof("record_type") == "history"
            ]
            losses = [(row["loss"], row["_step"]) for row in rows if "loss" in row]
            samples = len([row for row in rows if "weibull_k/attn_o" in row])
    finally:
        process.kill()
        process.communicate()
    assert losses == logged
    assert samples >= 61 - 15
