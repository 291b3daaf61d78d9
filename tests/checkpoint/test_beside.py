"""What training checkpoints keep beside the weights stays inert, and every way in which `torch.save` keeps weights is read."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import functools
import pathlib
import random
import re
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint.files import small
from checkpoint.test_scan import assert_same, counts, monitored
from torch import nn

from weibull_monitor.checkpoint import scan
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.errors import CheckpointError


class Colour(enum.Enum):
    RED = 1


class Table(dict[str, int]):
    """A table of a class of its own."""


class Outer:
    class Inner:
        """A class within a class."""

    def method(self) -> None:
        """A method."""


def scheduler(kind: Callable[..., Any], *args: Any) -> Any:
    return kind(torch.optim.AdamW([nn.Parameter(torch.zeros(2))]), *args)


BESIDE: dict[str, Any] = {
    "set": {1, (2, 3)},
    "frozenset": frozenset({1}),
    "complex": 1j,
    "bytearray": bytearray(b"a"),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "enum": Colour.RED,
    "partial": functools.partial(torch.optim.AdamW, lr=1e-3),
    "class": torch.optim.AdamW,
    "inner class": Outer.Inner,
    "object of an inner class": Outer.Inner(),
    "method": Outer().method,
    "function": nn.functional.gelu,
    "builtin": len,
    "optimizer": torch.optim.AdamW([nn.Parameter(torch.zeros(2))]),
    "scheduler": scheduler(torch.optim.lr_scheduler.CosineAnnealingLR, 10),
    "sequence of schedulers": scheduler(lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.LinearLR(o)], [5])),
    "defaultdict": collections.defaultdict(list, {1: [2]}),
    "deque": collections.deque([1, 2]),
    "numpy scalar": np.float64(3),
    "numpy array": np.arange(6.0).reshape(2, 3),
    "numpy generator": np.random.default_rng(),
    "random state": (random.getstate(), np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002
    "path": pathlib.Path("a/b"),
    "windows path": pathlib.PureWindowsPath("a"),
    "namespaces": [argparse.Namespace(a=1), types.SimpleNamespace(a=1)],
    "decimal": decimal.Decimal("1.1"),
    "uuid": uuid.UUID(int=5),
    "regular expression": re.compile("a+"),
    "table of a class": Table(a=1),
    "loss": nn.CrossEntropyLoss(weight=torch.rand(8)),
    "module": nn.Linear(4, 4),
    "strange keys": {(1, (2, 3)): 1, Colour.RED: 2, frozenset({1}): 3, (torch.float32, torch.device("cpu")): 4},
    "large number": 2**3000,
    "tensors of other kinds": [torch.ones(2, 2).to_sparse(), torch.empty(2, 2, device="meta")],
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_objects_beside_the_weights(protocol: int, zipped: bool, tmp_path: Path) -> None:
    weights = {"layers.0.self_attn.q_proj.weight": torch.randn(64, 64)}
    refused = {}
    for name, extra in BESIDE.items():
        for where in ("hyper_parameters", "seen"):
            state = {"epoch": 3, "global_step": 7, "state_dict": weights, where: {"x": extra}}
            path = tmp_path / "last.ckpt"
            torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            try:
                assert [s.step for s in scan(path).snapshots] == [7]
            except CheckpointError as error:
                refused[name, where] = str(error)
    assert not refused


def test_every_way_of_torch_save(tmp_path: Path) -> None:
    """The format from before version 1.6, a model saved as a whole, and a model in a table of others."""
    model = small("llama")
    model.config.save_pretrained(tmp_path / "model")
    expected = monitored(model, tmp_path / "run")
    path = tmp_path / "model" / "pytorch_model.bin"
    for zipped in (True, False):
        for state in (model.state_dict(), model, {"model": model, "ema": None, "epoch": 2}):
            torch.save(state, path, _use_new_zipfile_serialization=zipped)
            assert_same(tmp_path / "model", expected)


def test_a_legacy_file_that_is_cut_off(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(64, 64)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pt").read_bytes()
    (tmp_path / "old.pt").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        scan(tmp_path / "old.pt")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_torchscript(tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Linear(32, 48), nn.Conv1d(4, 8, 3))
    torch.jit.script(layer).save(tmp_path / "model.jit")
    fits = scan_all(tmp_path / "model.jit").checkpoints[0].fits
    expected = monitored(layer, tmp_path / "run")
    assert {n: counts(f) for n, f in fits.items()} == {n: counts(f) for n, f in expected.fits.items()}


class Wrapped(torch.Tensor):
    """A tensor that is made of two others, as those of torchao are."""

    data_: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, data: torch.Tensor, scale: torch.Tensor) -> Wrapped:
        made: Wrapped = torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)  # type: ignore[attr-defined]
        return made

    def __init__(self, data: torch.Tensor, scale: torch.Tensor) -> None:
        self.data_, self.scale = data, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["data_", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(function)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_tensors_of_other_kinds_are_named_and_skipped(tmp_path: Path) -> None:
    dense = torch.randn(16, 16)
    state = {
        "layers.0.q_proj.weight": dense,
        "sparse": dense.to_sparse(),
        "rows": dense.to_sparse_csr(),
        "meta": torch.empty(16, 16, device="meta"),
        "wrapped": Wrapped(dense.to(torch.int8), torch.ones(16)),
        "array": dense.numpy(),
        "complex": torch.view_as_complex(torch.randn(4, 4, 2)),
        "layers.0._extra_state": types.SimpleNamespace(a=1),
    }
    torch.save(state, tmp_path / "model.pt")
    found = scan_all(tmp_path / "model.pt").checkpoints[0]
    assert list(found.fits) == ["layers.0.q_proj.weight"]
    assert found.skipped == {
        "sparse": "its layout is sparse",
        "rows": "its layout is sparse",
        "meta": "it is on the meta device and has no values",
        "wrapped": "it is made of other tensors (Wrapped)",
        "array": "it is a NumPy array; save it as a tensor",
        "complex": "its dtype is complex64, not a float type",
    }


DTENSOR = """
import sys, torch
import torch.distributed as dist
from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
sharded = distribute_tensor(torch.randn(16, 16), DeviceMesh("cpu", [0]), [Shard(0)])
torch.save({"a.weight": torch.randn(16, 16), "b.weight": sharded}, sys.argv[1])
"""


def test_a_dtensor_is_named_and_skipped(tmp_path: Path) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", DTENSOR, str(tmp_path / "model.pt")], check=True, capture_output=True)
    found = scan_all(tmp_path / "model.pt").checkpoints[0]
    assert list(found.fits) == ["a.weight"]
    assert "it is a DTensor" in found.skipped["b.weight"]


def test_what_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.randn(8, 8))
    optimizer = torch.optim.AdamW([parameter])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save(argparse.Namespace(lr=1), tmp_path / "args.pt")
    torch.save(Outer(), tmp_path / "object.bin")
    with pytest.raises(CheckpointError, match="state of an optimizer"):
        scan(tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"holds no tensors, and asks for '.*Outer'"):
        scan(tmp_path / "object.bin")
