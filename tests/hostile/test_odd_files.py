"""What stands where a file is expected, and is none: each command refuses it in a line, and waits for nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hostile.configurations import GOOD
from hostile.inputs import write_history
from hostile.running import Tally, run_command
from weibull_monitor.history.record import FILE

Put = Callable[[Path], None]


def pipe(place: Path) -> None:
    os.mkfifo(place)


def link_to_itself(place: Path) -> None:
    place.symlink_to(place.name)


def zeros_without_end(place: Path) -> None:
    place.symlink_to("/dev/zero")


def nothing(place: Path) -> None:
    place.symlink_to("/dev/null")


def directory(place: Path) -> None:
    (place / "x").mkdir(parents=True)


def dangling(place: Path) -> None:
    place.symlink_to(place.parent / "there is none")


def sparse(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(1 << 28)


def unreadable(place: Path) -> None:
    place.write_bytes(b"{}")
    place.chmod(0)


ODD = [pipe, link_to_itself, zeros_without_end, nothing, directory, dangling, sparse, unreadable]


def refused(words: list[str], put: Put) -> None:
    """Runs a command, which has to end, and to read nothing or say what is wrong."""
    tally = Tally()
    run_command(words, put.__name__, tally)
    assert not tally.faults


@pytest.mark.parametrize("put", ODD, ids=lambda put: put.__name__)
def test_a_history(put: Put, tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir(parents=True)
    put(tmp_path / FILE)
    run = str(tmp_path)
    for words in (
        ["report", run, "-o", f"{run}/p.html"],
        ["alerts", run],
        ["watch", run, "--once"],
        ["sweep", run, run],
    ):
        refused(words, put)
    refused(["alerts", str(tmp_path / FILE)], put)


@pytest.mark.parametrize("put", ODD, ids=lambda put: put.__name__)
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "config.json",
        "adapter_config.json",
        ".metadata",
    ],
)
def test_a_file_of_a_checkpoint(name: str, put: Put, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if name.endswith(("config.json", ".bin")):
        save_file({"model.layers.0.self_attn.q_proj.weight": torch.randn(64, 64)}, folder / "model.safetensors")
    put(folder / name)
    refused(["scan", str(folder)], put)
    refused(["scan", str(folder / name)], put)
    if name == "config.json":
        refused(["components", str(folder / name)], put)


@pytest.mark.parametrize("put", ODD, ids=lambda put: put.__name__)
def test_alert_settings(put: Put, tmp_path: Path) -> None:
    write_history(tmp_path / "run", 2)
    put(tmp_path / "t.toml")
    refused(["alerts", str(tmp_path / "run"), "--config", str(tmp_path / "t.toml")], put)


@pytest.mark.parametrize("put", [pipe, link_to_itself, nothing, directory, dangling], ids=lambda put: put.__name__)
def test_where_a_page_is_written(put: Put, tmp_path: Path) -> None:
    write_history(tmp_path / "run", 2)
    put(tmp_path / "p.html")
    refused(["report", str(tmp_path / "run"), "-o", str(tmp_path / "p.html")], put)


def test_a_history_that_changes_while_it_is_read(tmp_path: Path) -> None:
    good = write_history(tmp_path / "good", 4).read_bytes()
    file = tmp_path / "run" / FILE
    file.parent.mkdir(parents=True)
    done = threading.Event()

    def change() -> None:
        cut = 0
        while not done.is_set():
            cut = (cut + 997) % len(good)
            file.write_bytes(good[:cut] if cut % 2 else good + good[cut:])

    file.write_bytes(good)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            for words in (["alerts", str(tmp_path / "run")], ["watch", str(tmp_path / "run"), "--once"]):
                refused(words, nothing)
    finally:
        done.set()
        thread.join()


def test_a_configuration_that_changes_while_it_is_read(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.randn(64, 64)}, folder / "model.safetensors")
    whole, done = json.dumps(GOOD).encode(), threading.Event()
    (folder / "config.json").write_bytes(whole)

    def change() -> None:
        cut = 0
        while not done.is_set():
            cut = (cut + 7) % len(whole)
            (folder / "config.json").write_bytes(whole[:cut])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            refused(["scan", str(folder)], nothing)
    finally:
        done.set()
        thread.join()
