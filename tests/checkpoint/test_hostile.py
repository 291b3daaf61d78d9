"""Files that were made to do harm: each is refused with a sentence of ours, nothing of it runs, and memory stays bounded."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint.files import most_memory, small

from weibull_monitor.checkpoint import scan
from weibull_monitor.checkpoint.formats.files import MAX_HEADER
from weibull_monitor.cli.main import main
from weibull_monitor.errors import CheckpointError


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = entry([2, 2], [0, 16])
BAD_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "it has 0 bytes"),
    "header beyond the file": (safetensors({"a": GOOD}, bytes(16), length=10_000), "its header would have 10,000"),
    "huge header": (safetensors({"a": GOOD}, bytes(16), length=2**40), "its header would have"),
    "negative header": (safetensors({"a": GOOD}, bytes(16), length=2**64 - 1), "its header would have"),
    "no JSON": (safetensors(b"{" * 50), "invalid JSON"),
    "deep JSON": (safetensors(b'{"a":' + b"[" * 200_000), "nested far more"),
    "a list": (safetensors(b"[]"), "invalid type: sequence"),
    "no UTF-8": (safetensors(b'{"\xff\xfe": 1}'), "invalid UTF-8"),
    "a key twice": (
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}', bytes(4)),
        "invalid JSON",
    ),
    "a number for a tensor": (safetensors({"a": 3}), "invalid type: integer"),
    "a missing field": (safetensors({"a": {"dtype": "F32", "shape": [1]}}), "missing field"),
    "unknown dtype": (safetensors({"a": entry([1], [0, 4], "Q7")}, bytes(4)), "unknown variant `Q7`"),
    "dtype of another type": (safetensors({"a": entry([1], [0, 4], ["F32"])}, bytes(4)), "invalid type: sequence"),
    "negative shape": (safetensors({"a": entry([-2, -2], [0, 16])}, bytes(16)), "invalid value: integer `-2`"),
    "NaN shape": (
        safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
        "invalid JSON",
    ),
    "fractional shape": (safetensors({"a": entry([1.0], [0, 4])}, bytes(4)), "invalid type: floating point"),
    "true as a shape": (safetensors({"a": entry([True], [0, 4])}, bytes(4)), "invalid type: boolean"),
    "endless digits": (
        safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,4]}}'),
        "number out of range",
    ),
    "overflowing product": (safetensors({"a": entry([2**31, 2**31, 2**31], [0, 16])}, bytes(16)), "overflow"),
    "too many dimensions": (safetensors({"a": entry([1] * 1000, [0, 4])}, bytes(4)), "impossible shape"),
    "size is not shape": (safetensors({"a": entry([3, 3], [0, 16])}, bytes(16)), "invalid shape, data type, or offset"),
    "misordered offsets": (safetensors({"a": entry([2, 2], [16, 0])}, bytes(16)), "invalid offset for tensor `a`"),
    "three offsets": (safetensors({"a": entry([2, 2], [0, 16, 32])}, bytes(16)), "invalid length 3"),
    "out of range": (safetensors({"a": entry([2, 2], [1000, 1016])}, bytes(16)), "invalid offset for tensor `a`"),
    "overlap": (safetensors({"a": GOOD, "b": entry([2, 2], [8, 24])}, bytes(24)), "invalid offset for tensor `b`"),
    "the same place": (safetensors({"a": GOOD, "b": GOOD}, bytes(16)), "invalid offset"),
    "a gap": (safetensors({"a": GOOD, "b": entry([2, 2], [20, 36])}, bytes(36)), "invalid offset for tensor `b`"),
    "truncated": (safetensors({"a": GOOD}, bytes(15)), "not fully covered.*truncated"),
    "data after the end": (safetensors({"a": GOOD}, bytes(17)), "not fully covered.*truncated or corrupted"),
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_safetensors(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, says = BAD_SAFETENSORS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        scan(path)
    assert main(["scan", str(path)]) == 1
    out = capsys.readouterr()
    assert out.err.count("\n") == 1
    assert not out.out


JSON_BOMBS = [
    b"[],",
    b"{},",
    b'"ab",',
    b"1e5,",
    b'{"a":0},',
    b"[[]],",
    b'{"a":{},"b":0},',
    b"[],        ",
    b"{},             ",
]


@pytest.mark.parametrize("unit", JSON_BOMBS, ids=repr)
def test_a_json_bomb(unit: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth of the largest index, and a sixteenth of the memory that it may take."""
    most = MAX_HEADER // 16
    monkeypatch.setattr("weibull_monitor.checkpoint.formats.files.MAX_HEADER", most)
    text = b'{"a":[' + unit * ((most - 100) // len(unit)) + b"0]}"
    (tmp_path / "model.safetensors.index.json").write_bytes(text)

    def refused() -> None:
        with pytest.raises(CheckpointError, match=r"no weight_map|nested far more"):
            scan(tmp_path)

    assert most_memory(refused) < 400 / 16


def test_keys_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = MAX_HEADER // 16
    monkeypatch.setattr("weibull_monitor.checkpoint.formats.files.MAX_HEADER", most)
    text = b"{" + b",".join(b'"%07x":1' % n for n in range(most // 13)) + b"}"
    (tmp_path / "model.safetensors.index.json").write_bytes(text)

    def refused() -> None:
        with pytest.raises(CheckpointError, match="no weight_map"):
            scan(tmp_path)

    assert most_memory(refused) < 400 / 16


HEADERS = """
import sys
from pathlib import Path
import torch
from weibull_monitor.checkpoint.formats.safetensors import read_safetensors
from weibull_monitor.errors import CheckpointError
used = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = used()
refused = 0
for path in sys.argv[1:]:
    try:
        read_safetensors(Path(path))
    except CheckpointError:
        refused += 1
print(refused, used() - before)
"""


def test_the_largest_headers_of_safetensors(tmp_path: Path) -> None:
    """The library parses the header in memory of its own, so the memory is that of a process."""
    units = [*JSON_BOMBS, b"0,", b'"",']
    for number, unit in enumerate(units):
        text = b'{"a":[' + unit * ((MAX_HEADER - 100) // len(unit)) + b"0]}"
        (tmp_path / f"{number}.safetensors").write_bytes(safetensors(text))
    command = [sys.executable, "-c", HEADERS, *map(str, sorted(tmp_path.iterdir()))]
    refused, above = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert refused == len(units)
    assert above < 450


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a/../b", "a\\b", "", "x\0y", 7, None, ["a"]]
)
def test_an_index_that_leads_elsewhere(name: Any, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="not in its own directory"):
        scan(tmp_path)


def test_an_index_that_is_wrong(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path, max_shard_size="20kB")
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    for content, says in (
        ({}, "no weight_map"),
        ({"weight_map": []}, "no weight_map"),
        ({"weight_map": {"a": "missing.safetensors"}}, "No such file.*names it: incomplete download"),
        ({"weight_map": table["weight_map"] | {"a": "model-00001-of-00004.safetensors"}}, "where it is not"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=says):
            scan(tmp_path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe.safetensors", tmp_path / "loop.safetensors"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    (tmp_path / "dangling.bin").symlink_to(tmp_path / "nowhere")
    for path, says in (
        (pipe, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (loop, "cannot be opened"),
        (tmp_path / "dangling.bin", "cannot be opened"),
        (tmp_path / "nowhere", "cannot be opened"),
        (Path("a\0b"), "cannot be opened"),
    ):
        with pytest.raises(CheckpointError, match=says):
            scan(path)


def test_a_folder_that_holds_itself(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_experts", "huge", "nested", "broken", "pipe"])
def test_a_configuration_that_asks_for_too_much(name: str, tmp_path: Path) -> None:
    """The weights are measured all the same, by their names."""
    path = tmp_path / "config.json"
    small().save_pretrained(tmp_path)
    config = json.loads(path.read_text())
    if name == "huge":
        path.write_text(json.dumps(config | {"x": "y" * (1 << 21)}))
    elif name == "nested":
        path.write_text(json.dumps(config | {"text_config": {"vision": [{"n_layer": 10**9}]}}))
    elif name == "broken":
        path.write_text("{")
    elif name == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_text(json.dumps(config | {name: 10**8}))
    history = scan(tmp_path)
    assert len(history.components) == 15
    notes = " ".join(history.runs[-1].model["notes"])
    assert "class" not in history.runs[-1].model
    assert ("its config.json is not used" in notes) == (name != "pipe")
