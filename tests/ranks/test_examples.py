"""The examples for many processes run by the commands in their documentation, and leave a history."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weibull_monitor import read_history

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
COMMANDS = {
    "fsdp2_loop.py": TORCHRUN,
    "trainer_fsdp.py": LAUNCH,
    "trainer_fsdp.py --engine zero3": TORCHRUN,
    "accelerate_loop.py": TORCHRUN,
    "lightning_parallel.py --strategy model-parallel": [],
    "deepspeed_loop.py": TORCHRUN,
}


@pytest.mark.parametrize("example", COMMANDS)
def test_an_example_runs_on_two_processes(example: str, tmp_path: Path) -> None:
    for library in ("transformers", "accelerate", *(["lightning"] if "lightning" in example else [])):
        pytest.importorskip(library, reason=f"the example needs {library}")
    if ("deepspeed" in example or "zero" in example) and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs DeepSpeed: pip install deepspeed")
    script, *options = example.split()
    command = [sys.executable, *COMMANDS[example], str(ROOT / "examples" / script), *options]
    command += ["--max-steps", "5", "--every-n-steps", "2", "--output-dir", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true" if "loop" in script else "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    # gloo's threads now and then abort a process that has come to its end (torch 2.13): what it wrote is judged below
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr[-3000:]
    assert done.stdout.count("Every sample of every matrix:") == 1  # of the main process alone
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0, 1, 2, 4, 5]
    assert [run.world_size for run in history.runs] == [2]
    for snapshot in history.snapshots[1:]:
        assert len(snapshot.values("eta")) == len(snapshot.values("k")) > 10
