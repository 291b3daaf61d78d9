"""The examples for many processes leave a history: one runs by each launcher's real command, the others on forked ranks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weibull_monitor import read_history

from .launch import launch

ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "fsdp2_loop.py": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "trainer_fsdp.py": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--main_process_port", "0"),
    ],
    "lightning_parallel.py --strategy model-parallel": [],
}
FORKED = ["trainer_fsdp.py --engine zero3", "accelerate_loop.py", "deepspeed_loop.py"]


def command_of(example: str, where: Path) -> tuple[str, list[str]]:
    """The script and its options for a few steps; skips the test where a library is missing."""
    for library in ("transformers", "accelerate", *(["lightning"] if "lightning" in example else [])):
        pytest.importorskip(library, reason=f"the example needs {library}")
    if ("deepspeed" in example or "zero" in example) and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs DeepSpeed: pip install deepspeed")
    script, *options = example.split()
    return script, [*options, "--max-steps", "5", "--every-n-steps", "2", "--output-dir", str(where)]


def assert_complete(where: Path) -> None:
    history = read_history(where)
    assert [s.step for s in history.snapshots] == [0, 1, 2, 4, 5]
    assert [run.world_size for run in history.runs] == [2]
    for snapshot in history.snapshots[1:]:
        assert len(snapshot.values("eta")) == len(snapshot.values("k")) > 10


@pytest.mark.parametrize("example", LAUNCHERS)
def test_an_example_runs_by_its_launcher(example: str, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true" if "loop" in example else "false"}
    # gloo's threads now and then abort a process that has come to its end (torch 2.13), and the launcher then ends the other
    # one, wherever it is: what was written is judged below, and the example is run again where it is not all there.
    for place in (tmp_path / str(attempt) for attempt in range(4)):
        place.mkdir()
        script, options = command_of(example, place)
        command = [sys.executable, *LAUNCHERS[example], str(ROOT / "examples" / script), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=place, env=environment)
        printed = done.stdout.count("Every sample of every matrix:")  # by the main process alone
        aborted = "terminate called without an active exception" in done.stderr
        assert done.returncode == 0 or aborted, done.stderr[-3000:]
        if printed or not aborted:
            break
    assert printed == 1
    assert_complete(place)


@pytest.mark.parametrize("example", FORKED)
def test_an_example_runs_on_two_ranks(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, options = command_of(example, tmp_path / "run")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true" if "loop" in script else "false")
    main, other = launch("examples:run", 2, tmp_path, script, options)
    assert main.count("Every sample of every matrix:") == 1
    assert "Every sample" not in other
    assert_complete(tmp_path / "run")
