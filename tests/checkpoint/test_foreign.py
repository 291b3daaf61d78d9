"""Files that are not checkpoints are refused by name, with what to do."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint.files import small
from safetensors.torch import save_file

from weibull_monitor.checkpoint import scan
from weibull_monitor.checkpoint.formats.files import MAX_HEADER, MAX_INDEX, read_json
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.errors import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4937253424\n"
FOREIGN: dict[str, tuple[bytes, str]] = {
    "model.safetensors": (POINTER, "Git LFS pointer.*git lfs pull"),
    "pytorch_model.bin": (POINTER, "Git LFS pointer.*git lfs pull"),
    "model.safetensors.index.json": (POINTER, "Git LFS pointer.*git lfs pull"),
    "page.safetensors": (b"\n<!DOCTYPE html><html><head>", "web page.*download it again"),
    "page.bin": (b"<html lang='en'>", "web page"),
    "answer.bin": (b'{"error":"Repository not found"}', "download that failed"),
    "entry.bin": (b"Entry not found", "download that failed"),
    "empty.bin": (b"", "is empty.*cut off"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch\x1a\x05", "ONNX model; scan the PyTorch checkpoint"),
    "renamed.bin": (b"\x08\x08\x12\x07pytorch\x1a\x05", "ONNX model"),
    "model.gguf": (b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),
    "ggml-base.bin": (b"lmgg" + bytes(40), "GGML"),
    "model.bin": (b"\x06\0\0\0\x10\0TransformerSpec\0\x07\0\0\0", "CTranslate2"),
    "tf_model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "TensorFlow.*save_pretrained"),
    "model.ckpt.index": (bytes(40), "TensorFlow checkpoint"),
    "model.ckpt.data-00000-of-00001": (bytes(40), "TensorFlow checkpoint"),
    "flax_model.msgpack": (b"\x83\xa5model" + bytes(40), "Flax checkpoint"),
    "weights.npy": (b"\x93NUMPY\x01\0", "NumPy array"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    content, says = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        scan(tmp_path / name)


def test_archives_of_checkpoints(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(8, 8)}, tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt.gz").write_bytes(gzip.compress(data))
    with tarfile.open(tmp_path / "model.tar", "w") as tar:
        tar.add(tmp_path / "model.pt", "model.pt")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / f"model{method}.zip", "w", method) as archive:
            archive.writestr("model.pt", data)
    np.savez(tmp_path / "plain.npz", a=np.ones((8, 8)))
    np.savez_compressed(tmp_path / "small.npz", a=np.ones((8, 8)))
    for name, says in (
        ("model.pt.gz", "compressed; unpack it"),
        ("model.tar", "tar archive; unpack it"),
        ("model0.zip", "unpack it"),
        ("model8.zip", "unpack it"),
        ("plain.npz", "NumPy archive"),
        ("small.npz", "NumPy archive"),
    ):
        with pytest.raises(CheckpointError, match=says):
            scan(tmp_path / name)


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    for name in ("model.onnx", "tf_model.h5", "flax_model.msgpack", "model-q4.gguf"):
        (tmp_path / name).write_bytes(bytes(64))
        with pytest.raises(CheckpointError, match=f"no checkpoint that can be read: {name} is"):
            scan(tmp_path)
        (tmp_path / name).unlink()


def test_a_configuration_that_is_a_pointer(tmp_path: Path) -> None:
    """The weights are measured by their names, and the note says how the configuration comes."""
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(POINTER)
    assert "git lfs pull" in " ".join(scan_all(tmp_path).checkpoints[0].notes)


def test_a_missing_shard(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path, max_shard_size="20kB")
    (tmp_path / "model-00002-of-00004.safetensors").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"-00002-of-.*the index names it: incomplete download\? \(1 of"):
        scan(tmp_path)


def test_an_index_of_many_experts(tmp_path: Path) -> None:
    """An index of 20 MB is read; one that is nested, or larger than any, is not."""
    save_file({"layers.0.mlp.up_proj.weight": torch.randn(16, 16)}, tmp_path / "model-00001-of-00001.safetensors")
    shard = "model-00001-of-00001.safetensors"
    many = {
        f"model.layers.{n // 2000}.mlp.experts.{n % 2000}.gate_proj.weight_scale_inv": shard for n in range(200_000)
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": many}))
    assert MAX_HEADER < index.stat().st_size < MAX_INDEX
    assert len(read_json(index, MAX_INDEX)["weight_map"]) == 200_000
    with pytest.raises(CheckpointError, match="where it is not"):
        scan(tmp_path)
    index.write_bytes(b'{"weight_map":[' + b"[]," * (MAX_HEADER // 2) + b"0]}")
    with pytest.raises(CheckpointError, match="nested far more"):
        scan(tmp_path)


def test_a_torch_file_with_the_name_of_another_format(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"a.weight": torch.randn(8, 8)}, tmp_path / "m.safetensors", _use_new_zipfile_serialization=zipped)
        assert len(scan(tmp_path / "m.safetensors").components) == 1


def test_a_real_archive_in_memory_is_not_mistaken() -> None:
    from weibull_monitor.checkpoint.formats.foreign import MAGIC, foreign

    out = io.BytesIO()
    torch.save({"a": torch.randn(4, 4)}, out)
    assert foreign(out.getvalue()[:MAGIC], Path("model.bin")) is None
