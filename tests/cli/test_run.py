"""``weibull-monitor run``: programs of others, as they are, and with a monitor in their Trainers."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weibull_monitor import read_history
from weibull_monitor.cli import run
from weibull_monitor.cli.main import main, parser
from weibull_monitor.monitor.options import option_fields

OBJECTS = {"example_inputs", "on_alert"}
"""Options that a command line cannot pass."""
MONITORED = [sys.executable, "-m", "weibull_monitor", "run"]


def launch(
    *arguments: str, where: Path, options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command with ``python ARGUMENTS`` as the program."""
    command = [*MONITORED, *options, "--", sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=where, env=os.environ | environment)


def given(*words: str) -> dict[str, Any]:
    return run.options_of(parser().parse_args(["run", *words]))


def test_every_option_of_a_callback_can_be_passed() -> None:
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    taken = {action.dest for action in commands.choices["run"]._actions} - {"help"}
    assert (taken - run.NOT_OPTIONS) | {"kinds"} == set(option_fields(host=False)) - OBJECTS
    assert {"kind", "log", "program"} <= taken


def test_only_what_is_given_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert given("--", "python", "--every-n-steps", "7") == {}
    assert given("--every-n-steps", "5", "--output-dir", "x", "--kind", "mix=mixer", "trl", "sft") == {
        "every_n_steps": 5,
        "output_dir": str(tmp_path / "x"),
        "kinds": {"mix": "mixer"},
    }
    assert given("--trackers", "memory, tensorboard", "--alerts", "off", "--forces", "--", "x") == {
        "trackers": ["memory", "tensorboard"],
        "alerts": False,
        "forces": True,
    }


def test_words_of_the_program_are_the_programs() -> None:
    options = parser().parse_args(["run", "--log", "-", "--", "trl", "--", "--log", "x"])
    assert options.program == ["--", "trl", "--", "--log", "x"]
    assert options.log == "-"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "name a program after --"),
        (["--"], 2, "name a program after --"),
        (["--", "no-such-program"], 127, "no-such-program was not found"),
        (["--", str(Path(__file__))], 126, "cannot be executed; try python"),
        (["--name", "§", "--", "python"], 1, "name is '§'; it must be"),
        (["--alerts", "no.toml", "--", "python"], 1, "no.toml"),
    ],
)
def test_what_is_wrong_is_said_before_the_program_begins(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == code
    out = capsys.readouterr()
    assert says in out.err
    assert out.err.count("\n") == 1
    assert not out.out


def test_a_program_that_trains_nothing_is_as_before(tmp_path: Path) -> None:
    program = """
import subprocess, sys
print([m for m in ("torch", "logging", "json", "weibull_monitor") if m in sys.modules], flush=True)
print([p for p in sys.path if "startup" in p], flush=True)
names = "sys.meta_path[0].__name__"
print(eval(names), subprocess.run([sys.executable, "-c", f"import sys; print({names})"], capture_output=True, text=True).stdout)
print("wrong", file=sys.stderr)
sys.exit(7)
"""
    done = launch("-c", program, where=tmp_path)
    assert done.stdout.split("\n") == ["[]", "[]", "First First", "", ""]  # in processes that it starts too
    assert done.stderr == "wrong\n"
    assert done.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_the_program_is_the_process_that_was_started(tmp_path: Path) -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    command = [*MONITORED, "--", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.terminate()
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("broken", [False, True])
def test_the_users_own_start_up_module_is_executed_as_before(tmp_path: Path, broken: bool) -> None:
    own = "import sys\nprint('own', __name__, file=sys.stderr)\n" + ("raise ValueError('broken')\n" if broken else "")
    (tmp_path / "sitecustomize.py").write_text(own)
    program = "import sys; print(sys.modules['sitecustomize'].__file__)" if not broken else "print(1)"
    done = launch("-c", program, where=tmp_path, PYTHONPATH=str(tmp_path))
    plain = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
    assert done.stderr == 2 * plain.stderr  # once more when weibull-monitor itself starts
    assert "own sitecustomize" in plain.stderr


def test_a_python_without_this_package_says_so_once(tmp_path: Path) -> None:
    for name in ("lightning", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"print({name!r})")
    done = launch("-S", "-c", "import lightning", where=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.stdout, done.stderr) == ("lightning\n", "")  # without site nothing is hooked
    environment = run.environment({}, "-") | {"PYTHONPATH": run.environment({}, "-")["PYTHONPATH"] + f":{tmp_path}"}
    bare = [sys.executable, "-I", "-c", "import sys; print(sys._base_executable)"]
    base = subprocess.run(bare, capture_output=True, text=True).stdout.strip()
    done = subprocess.run(
        [base, "-c", "import lightning, transformers"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout == "lightning\ntransformers\n"
    if done.stderr:  # unless the package is installed there too
        assert done.stderr.count("measures nothing (No module named 'weibull_monitor')") == 1


TRAINS = """
import sys
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

for name in ("plain", "own"):
    words = ["fit", "--config", f"{name}.yaml", f"--trainer.default_root_dir={name}"]
    print(*(type(callback).__name__ for callback in LightningCLI(BoringModel, BoringDataModule, args=words).trainer.callbacks))
sys.exit(5)
"""
CONFIG = """
trainer:
  max_steps: 12
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
"""
OWN = """
  callbacks:
    - class_path: weibull_monitor.integrations.lightning.WeibullCallback
      init_args: { every_n_steps: 5 }
"""


def test_the_command_line_of_lightning_is_monitored_once(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the lightning extra")
    pytest.importorskip("jsonargparse", reason="the command line of Lightning needs jsonargparse")
    (tmp_path / "train.py").write_text(TRAINS)
    (tmp_path / "plain.yaml").write_text(CONFIG)
    (tmp_path / "own.yaml").write_text(CONFIG + OWN)
    done = launch("train.py", where=tmp_path, options=("--every-n-steps", "3"))
    assert done.returncode == 5, done.stderr
    assert [line.split().count("WeibullCallback") for line in done.stdout.splitlines()] == [1, 1]
    sampled = {name: [s.step for s in read_history(tmp_path / name).snapshots] for name in ("plain", "own")}
    assert sampled == {"plain": [0, 1, 2, 3, 4, 6, 8, 9, 12], "own": [0, 1, 2, 4, 5, 8, 10, 12]}
    assert "weibull_monitor" not in done.stderr
    log = (tmp_path / run.LOG).read_text()
    assert f"the Trainer has no logger: k and λ are in {tmp_path / 'plain' / 'weibull'} only" in log
    assert f"to look at them: weibull-monitor watch {tmp_path / 'own'}" in log


def test_the_command_line_of_trl_is_monitored(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="needs trl")
    from tiny_models import llama
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    llama().save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", pad_token="!").save_pretrained(
        tmp_path / "model"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(16 * (json.dumps({"text": "To be, or not to be"}) + "\n"))
    options = {"model_name_or_path": "model", "dataset_name": "data", "output_dir": "out", "max_steps": 3}
    options |= {"max_length": 32, "per_device_train_batch_size": 2, "learning_rate": 0.01, "save_strategy": "no"}
    options |= {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True}
    (tmp_path / "sft.yaml").write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in options.items()))
    command = [*MONITORED, "--every-n-steps", "2", "--", sys.executable, "-m", "trl.cli.main"]
    done = subprocess.run(
        [*command, "sft", "--config", "sft.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    history = read_history(tmp_path / "out")
    assert [s.step for s in history.snapshots] == [0, 1, 2, 3]
    assert {"attn_q", "ffn_down"} <= {component.kind for component in history.components}
    assert "weibull" not in (done.stdout + done.stderr).lower()
