"""The part ``fields`` of `hostile.py`: valid files in which one field is another value, with every command that reads them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hostile.configurations import GOOD
from hostile.fields import Case, in_json, in_lines, in_pickle, in_safetensors, in_settings, in_zip, some
from hostile.inputs import Model, write_history
from hostile.isolated import run_isolated
from hostile.running import Tally, call, run_command

from weibull_monitor import WeibullMonitor
from weibull_monitor.alerts import AlertSettings
from weibull_monitor.checkpoint.formats.files import read_json

EXECUTED = Path("/tmp/weibull-executed")
"""Pickles here would make this file."""
MODELS: dict[str, dict[str, Any]] = {
    "llama": GOOD,
    "bert": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50},
    "detr": {"model_type": "detr", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "use_timm_backbone": False},
    "whisper": {"model_type": "whisper", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 60},
    "qwen3_moe": {"model_type": "qwen3_moe", "hidden_size": 32, "num_experts": 4, "num_hidden_layers": 2},
    "llava": {"model_type": "llava", "text_config": GOOD, "vision_config": {"hidden_size": 32, "num_hidden_layers": 2}},
    "wav2vec2": {"model_type": "wav2vec2", "conv_dim": [8, 8], "conv_stride": [2, 2], "conv_kernel": [3, 3], "hidden_size": 32},
}  # fmt: skip
Run = Callable[[str, Tally], object]
"""Runs something on the file that is there, given a label."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        cases: Its cases.
        file: The file that is changed.
        runs: What reads it.
        each: How many of these are run for a file.
    """

    cases: Iterator[Case]
    file: Path
    runs: list[Run]
    each: int = 1


def fields(options: argparse.Namespace, folder: Path) -> Tally:
    total, made = Tally(), formats(folder)
    logging.getLogger("weibull_monitor").propagate = False
    EXECUTED.unlink(missing_ok=True)
    for name in options.only.split(",") if options.only else made:
        tally, format_ = Tally(), made[name]()
        cases = some(format_.cases, options.count, options.seed)

        def job(label: str, make: Callable[[], bytes], format_: Format, into: Tally) -> None:
            format_.file.write_bytes(make())
            for run in random.Random(label).sample(format_.runs, min(format_.each, len(format_.runs))):
                run(label, into)

        run_isolated([(label, partial(job, label, make, format_)) for label, make in cases], tally)
        if EXECUTED.exists():
            tally.faults.append("something was executed")
        print(
            f"{name}: {len(cases):,} files, {tally.tried:,} tried, {tally.read:,} read, {len(tally.faults)} faults",
            flush=True,
        )
        print(*(f"  {fault}" for fault in tally.faults[:60]), sep="\n", flush=True)
        total += tally
    return total


def formats(folder: Path) -> dict[str, Callable[[], Format]]:
    """What makes each format."""
    from checkpoint.test_fuzz import FORMATS
    from hostile.test_configurations import checkpoint

    def weights(kind: str, cases: Callable[[bytes], Iterator[Case]]) -> Format:
        place = folder / kind
        place.mkdir()
        file = place / (adapter if kind == "adapter" else FORMATS[kind])(place)[0]
        return Format(cases(file.read_bytes()), file, _scans(place, folder))

    def trainer_state() -> Format:
        run = folder / "run"
        run.mkdir()
        for step in (10, 20):
            place = checkpoint(run / f"checkpoint-{step}", {})
            (place / "config.json").unlink()
            rows = [{"step": n, "learning_rate": 1e-3, "loss": 2.0, "epoch": 0.1} for n in (5, step)]
            (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": rows}))
        file = place / "trainer_state.json"
        return Format(in_json(file.read_bytes()), file, _scans(run, folder, "--weight-decay", "0.1"))

    def config(name: str) -> Format:
        place = checkpoint(folder / name, {})
        file = place / "config.json"
        file.write_text(json.dumps(MODELS[name]))
        commands = [["scan", str(place)], ["components", str(place)], ["components", str(file), "--list"]]
        return Format(in_json(file.read_bytes()), file, _commands(commands))

    def history() -> Format:
        file = write_history(folder / "history", 5)
        shutil.copytree(folder / "history", folder / "good")
        runs = _reads(folder / "history", folder)
        return Format(in_lines(file.read_bytes()), file, [*runs, _resumed(folder / "history", lambda: {"step": 5})], 4)

    def settings() -> Format:
        write_history(folder / "set", 4)
        rules = {f.name: getattr(AlertSettings(), f.name) for f in dataclasses.fields(AlertSettings)}
        keys = {n: [k.name for k in dataclasses.fields(r)] for n, r in rules.items() if dataclasses.is_dataclass(r)}
        file = folder / "thresholds.toml"
        return Format(in_settings(keys), file, _commands([["alerts", str(folder / "set"), "--config", str(file)]]))

    def state() -> Format:
        write_history(folder / "stateful", 4)
        file = folder / "state.json"
        monitor = _monitored(folder / "before", Model(), None)
        monitor.step()
        monitor.step()
        file.write_text(json.dumps(monitor.state_dict()))
        run = _resumed(folder / "stateful", lambda: read_json(file))
        return Format(in_json(file.read_bytes()), file, [run])

    return {
        "history": history,
        "safetensors": lambda: weights("safetensors", in_safetensors),
        "index": lambda: weights("index", in_json),
        "torch.save": lambda: weights("torch.save", in_zip),
        "lightning": lambda: weights("lightning", in_zip),
        "legacy": lambda: weights("legacy", in_pickle),
        "dcp": lambda: weights("dcp", in_pickle),
        "adapter": lambda: weights("adapter", in_json),
        "trainer_state": trainer_state,
        "settings": settings,
        "state": state,
        **{f"config of {name}": partial(config, name) for name in MODELS},
    }


def _commands(commands: list[list[str]]) -> list[Run]:
    return [partial(run_command, words) for words in commands]


def _scans(place: Path, folder: Path, *more: str) -> list[Run]:
    run, out = str(place), str(folder / "out")
    return _commands(
        [
            ["scan", run, *more],
            ["scan", run, "--json", "-", *more],
            ["scan", run, "--csv", "-", *more],
            ["scan", run, "--html", f"{out}.html", *more],
            ["scan", run, "--output", out, *more],
            ["scan", run, "--resolution", "head", "--neighbours", "3", *more],
        ]
    )


def _reads(place: Path, folder: Path) -> list[Run]:
    run, good, page = str(place), str(folder / "good"), str(folder / "page.html")
    return _commands(
        [
            ["report", run, "-o", page],
            ["report", run, good, "-o", page],
            ["alerts", run],
            ["alerts", run, "--recorded"],
            ["compare", run],
            ["compare", run, "--list"],
            ["compare", run, "--step", "3"],
            ["watch", run, "--once"],
            ["sweep", run, good],
            ["sweep", run, good, "--json"],
            ["sweep", run, "--plot", str(folder / "sweep.png")],
            ["wandb-workspace", "team/project", "--run", run, "--dry-run"],
        ]
    )


def _monitored(folder: Path, model: Model, state: Any) -> WeibullMonitor:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return WeibullMonitor(
        model, optimizer, every_n_steps=1, output_dir=folder, trackers=[], resume=state, adaptive=True
    )


def _resumed(place: Path, state: Callable[[], Any]) -> Run:
    """A training that goes on with the history at a place, and from a state."""

    def train() -> None:
        copy = place.with_name("resumed")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        model = Model()
        monitor = _monitored(copy, model, state())
        for _ in range(2):
            model(torch.randint(0, 50, (2, 4))).square().mean().backward()
            monitor.step()
        monitor.state_dict()
        monitor.close()

    return lambda label, tally: call(train, f"{label}, in a training", tally)


def adapter(place: Path) -> list[str]:
    """A LoRA adapter, as PEFT saves it."""
    from safetensors.torch import save_file

    names = [f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{ab}.weight" for i in range(2) for ab in "AB"]
    save_file(
        {name: torch.randn(8, 32) if "lora_A" in name else torch.randn(32, 8) for name in names},
        place / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": False, "target_modules": ["q_proj"]}
    settings |= {
        "base_model_name_or_path": "someone/evil",
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {},
        "fan_in_fan_out": False,
    }
    (place / "adapter_config.json").write_text(json.dumps(settings))
    return ["adapter_config.json"]
