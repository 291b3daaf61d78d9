"""Pickles that were made to do harm: nothing of them runs, and memory stays bounded."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.files import most_memory, save_dcp

from weibull_monitor.checkpoint import scan
from weibull_monitor.checkpoint.formats.files import siblings
from weibull_monitor.checkpoint.formats.pickles import MAX_INSTRUCTIONS, flatten, read_pickle
from weibull_monitor.errors import CheckpointError


class Harm:
    """Writes a file when it is unpickled by somebody who lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def zipped(data: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, storage in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", storage)
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_pickled_code_does_not_run(suffix: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"weight": torch.ones(4, 4), "harm": Harm(ran)}, tmp_path / f"model{suffix}")
    with pytest.raises(CheckpointError, match=r"asks for '\w+\.system', which could run code. Nothing of it was run"):
        scan(tmp_path / f"model{suffix}")
    (tmp_path / f"bare{suffix}").write_bytes(pickle.dumps(Harm(ran)))
    with pytest.raises(CheckpointError, match="bare pickle, which could run code"):
        scan(tmp_path / f"bare{suffix}")
    assert not ran.exists()
    torch.load(tmp_path / f"model{suffix}", weights_only=False)
    assert ran.exists()  # it would have


def test_pickled_code_beside_the_weights_does_not_run(tmp_path: Path) -> None:
    """Among settings it is a name that nothing calls; in the table of the weights it is refused, however deep that lies."""
    ran, weights = tmp_path / "ran", {"q_proj.weight": torch.randn(16, 16)}
    for legacy in (False, True):
        path = tmp_path / "last.ckpt"
        torch.save(
            {"state_dict": weights, "extra": Harm(ran), "args": {"x": [Harm(ran)]}},
            path,
            _use_new_zipfile_serialization=not legacy,
        )
        assert len(scan(path).components) == 1
        for table in (
            {"state_dict": weights | {"x": Harm(ran)}},
            {"encoder": weights | {"x": {"y": Harm(ran)}, "z": Harm(ran)}},
        ):
            torch.save(table, path, _use_new_zipfile_serialization=not legacy)
            with pytest.raises(CheckpointError, match=r"asks for '\w+\.system', which could run code"):
                scan(path)
    assert not ran.exists()


def test_pickled_code_in_a_distributed_checkpoint_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    save_dcp({"w": torch.ones(8, 8)}, tmp_path / "dcp")
    (tmp_path / "dcp" / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": Harm(ran)}))
    with pytest.raises(CheckpointError, match="could run code"):
        scan(tmp_path / "dcp")
    assert not ran.exists()


REFUSED: dict[str, tuple[bytes, str]] = {
    "a method of an allowed class": (b"cbuiltins\ngetattr\n.", "'builtins.getattr'"),
    "a dotted name": (b"\x80\x04\x8c\x05torch\x8c\x0f_utils.__dict__\x93.", "could run code"),
    "a call of a string": (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls something that is not a function"),
    "state for a class": (b"ccollections\nOrderedDict\n}b.", "changes something that is not an object"),
    "an extension": (b"\x82\x01.", "do not need"),
    "an instance, the old way": (b"(icollections\nOrderedDict\n.", "do not need"),
    "a list as a key": (b"}](.K\x01s.", "not a valid table|as a key"),
    "a nested tuple as a key": (b"})" + b"\x85" * 100_000 + b"K\x01s.", "has a tuple as a key"),
    "a huge number": (b"I" + b"9" * 100_000 + b"\n.", "more than 32 digits"),
    "a long of 2 GB": (b"\x8b\xff\xff\xff\x7f.", "more than 255 bytes"),
    "bytes of 2**60": (b"\x8e" + (1 << 60).to_bytes(8, "little") + b".", "not a valid table"),
    "a byte array of 2**60": (b"\x96" + (1 << 60).to_bytes(8, "little") + b".", "do not need"),
    "a text of 2**31": (b"X\xff\xff\xff\x7f.", "not a valid table"),
    "a frame of 2**60": (b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b".", "not a valid table"),
    "a note at 2**32": (b"K\x01r\xff\xff\xff\xff.", ""),
    "an unknown note": (b"h\x05.", "not a valid table"),
    "an empty stack": (b"0.", "not a valid table"),
    "nothing": (b"", "not a valid table"),
    "no end": (b"]" * 1000, "not a valid table"),
    "a bomb of memory": (b"cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pickles(name: str) -> None:
    allowed = frozenset({"collections.OrderedDict", "builtins.bytearray"})
    data, says = REFUSED[name]
    if says:
        with pytest.raises(CheckpointError, match=says):
            read_pickle(data, "it", allowed)
    else:  # harmless here
        read_pickle(data, "it", allowed)


PICKLE_BOMBS = [
    b"]",
    b"}",
    b"N",
    b"]q\x01",
    b"}K\x01K\x01s",
    b"ccollections\nOrderedDict\n)R",
    b")\x85",
    b"G" + bytes(8),
    b"X\x01\0\0\0\xc3",
]


@pytest.mark.parametrize("unit", PICKLE_BOMBS, ids=repr)
def test_the_largest_pickle(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the instructions that are carried out, and a hundredth of the memory that they may take."""
    monkeypatch.setattr("weibull_monitor.checkpoint.formats.pickles.MAX_INSTRUCTIONS", MAX_INSTRUCTIONS // 100)

    def refused() -> None:
        with pytest.raises(CheckpointError, match=r"more than 40,000 instructions|not a valid table"):
            read_pickle(unit * 50_000 + b".", "it", frozenset({"collections.OrderedDict"}))

    assert most_memory(refused) < 400 / 100 + len(unit) * 50_000 * 3 / (1 << 20)


def test_one_long_name_for_many_entries() -> None:
    """A pickle holds a string once and refers to it with two bytes; a path is a string of its own for each entry."""
    name = b"X" + (4000).to_bytes(4, "little") + b"k" * 4000
    entries = b"".join(b"X\x06\0\0\0%06d}" % n for n in range(60_000))  # 60,000 tables, in one whose name is long
    data = b"\x80\x02}" + name + b"}(" + entries + b"us."

    def refused() -> None:
        with pytest.raises(CheckpointError, match="too many entries"):
            flatten(read_pickle(data, "it", None))

    assert most_memory(refused) < 120


def test_one_long_file_name_for_many_shards(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not in its own directory"):
        siblings(tmp_path / "index", ["n" * 1_000_000] * 1000)
    names = ["model-00001-of-00002.safetensors"] * 200_000
    assert most_memory(lambda: siblings(tmp_path / "index", names)) < 8


def test_a_zip_bomb(tmp_path: Path) -> None:
    for name, content, says in (
        ("compressed storage", zipped(b"N.", {"0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED), "is compressed"),
        ("no torch.save", zipped(b"N.").replace(b"data.pkl", b"data.xyz"), "no data.pkl"),
        ("cut off", zipped(b"N." * 100)[:-40], "not a complete zip"),
        ("only a beginning", b"PK\x03\x04" + bytes(100), "not a complete zip"),
    ):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=says):
            scan(tmp_path / "model.bin")
        assert name


def tampered(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Rewrites the pickle of a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    data = change(records["data.pkl"])
    path.write_bytes(zipped(data, {n[5:]: r for n, r in records.items() if n.startswith("data/")}))


def test_a_tensor_that_leaves_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for before, after, says in (
        (b"K\x04K\x04\x86q", b"K\x05K\x04\x86q", "does not lie within"),  # a shape larger than the storage
        (b"K\x04K\x01\x86q", b"K\x00K\x00\x86q", "does not lie within"),  # strides that repeat one element
        (b"K\x04K\x04\x86q", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86q", "does not lie within"),
        (b"K\x04K\x04\x86q", b"J\xff\xff\xff\xffK\x04\x86q", "not one of a tensor"),  # a negative size
    ):
        torch.save({"w": torch.ones(4, 4)}, path)
        tampered(path, lambda data, before=before, after=after: data.replace(before, after, 1))
        with pytest.raises(CheckpointError, match=says):
            scan(path)


def test_tensors_on_top_of_one_another(tmp_path: Path) -> None:
    """A thousand different views of one storage would be a thousand reads of it."""
    storage = torch.randn(1 << 16)
    torch.save({f"w{n}": storage[n : n + 60_000].view(100, 600) for n in range(1000)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="its tensors have"):
        scan(tmp_path / "model.pt")


def test_other_files(tmp_path: Path) -> None:
    for name, content, says in (
        ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("text.pt", b"hello", "not a checkpoint"),
        ("empty.ckpt", b"", "is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=says):
            scan(tmp_path / name)


class Metadata:
    """Builds tables of a distributed checkpoint that torch would not write."""

    @staticmethod
    def saved(tmp_path: Path) -> tuple[Path, Any]:
        import torch.distributed.checkpoint as dcp

        folder = save_dcp({"layers": {"w": torch.randn(16, 16)}}, tmp_path / "dcp")
        return folder, dcp.FileSystemReader(folder).read_metadata()

    @staticmethod
    def write(folder: Path, metadata: Any) -> None:
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_tables_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    from dataclasses import replace

    folder, good = Metadata.saved(tmp_path)
    (index,) = good.storage_data
    info, tensor = good.storage_data[index], good.state_dict_metadata["layers.w"]
    (chunk,) = tensor.chunks

    def with_storage(**changes: Any) -> Any:
        return replace(good, storage_data={index: replace(info, **changes)})

    def with_chunks(*chunks: Any, size: Any = tensor.size) -> Any:
        return replace(good, state_dict_metadata={"layers.w": replace(tensor, chunks=list(chunks), size=size)})

    half = replace(chunk, sizes=torch.Size([8, 16]))
    for metadata, says in (
        (with_storage(relative_path="../../etc/passwd"), "not in its own directory"),
        (with_storage(relative_path="missing"), "No such file"),
        (with_storage(offset=10**12), "not where the table says"),
        (with_storage(offset=1), "not where the table says"),
        (with_storage(length=10**12), "not where the table says"),
        (with_storage(offset=-5), "an entry of its table of shards is invalid"),
        (with_storage(transform_descriptors=["zstd"]), "compressed or encrypted"),
        (with_chunks(half), "do not make up its shape"),
        (with_chunks(half, half), "do not make up its shape"),
        (with_chunks(replace(chunk, offsets=torch.Size([1, 0]))), "do not make up its shape"),
        (
            with_chunks(replace(chunk, sizes=torch.Size([32, 8])), size=torch.Size([32, 8])),
            None,
        ),  # as many elements: read
        (with_chunks(replace(chunk, sizes=torch.Size([32, 16])), size=torch.Size([32, 16])), "does not have the shape"),
        (replace(good, storage_data={}), "does not say where"),
        (replace(good, storage_data=None), "does not say what it holds"),
        ({"no": "metadata"}, "does not say what it holds"),
    ):
        Metadata.write(folder, metadata)
        if says is None:
            assert len(scan(folder).components) == 1
        else:
            with pytest.raises(CheckpointError, match=says):
                scan(folder)
    Metadata.write(folder, good)
    assert len(scan(folder).components) == 1


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.randn(512, 512)}, path)
    monkeypatch.setattr("weibull_monitor.checkpoint.stream.WINDOW", 4096)

    def cut(_: str, done: int, total: int) -> None:
        if done < total / 2:
            os.truncate(path, 300_000)

    with pytest.raises(CheckpointError, match="ends before what it says"):
        scan(path, progress=cut)
