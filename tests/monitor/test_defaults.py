"""What a process has set for itself, such as a default device, and what it lacks, such as the package's metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weibull_monitor
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.reader import History
from weibull_monitor.version import installed_version


class Block(nn.Module):
    """Attention whose parts are known only by what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixed, self.back = nn.LayerNorm(64), nn.Linear(64, 192), nn.Linear(64, 64)
        self.wide, self.narrow = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.mixed(self.norm(x)).chunk(3, -1))
        x = x + self.back(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.narrow(self.wide(x).relu())


@contextmanager
def default_device(device: str) -> Iterator[None]:
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None if before.type == "cpu" else before)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def trained(place: Path, within: Callable[[], Any], **options: Any) -> History:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(100, 64), Block(), Block(), nn.Linear(64, 100))
    batches = torch.randint(0, 100, (6, 4, 16))
    with within():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = WeibullMonitor(model, optimizer, every_n_steps=2, output_dir=place, **options)
        for x in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
            optimizer.step()
            monitor.step()
        monitor.close()
    return read_history(place)


@pytest.mark.parametrize("options", [{}, {"resolution": "head"}], ids=["matrices", "heads"])
@pytest.mark.parametrize(
    "within",
    [
        pytest.param(lambda: default_device("meta"), id="device"),  # what is made there by mistake has no values
        pytest.param(lambda: torch.device("meta"), id="device for a while"),
        pytest.param(lambda: default_dtype(torch.bfloat16), id="bfloat16"),
        pytest.param(lambda: default_dtype(torch.float64), id="float64"),
    ],
)
def test_defaults_of_the_process_change_nothing(
    within: Callable[[], Any], options: dict[str, Any], tmp_path: Path
) -> None:
    plain = trained(tmp_path / "plain", lambda: default_dtype(torch.float32), **options).snapshots
    found = trained(tmp_path / "other", within, **options).snapshots
    assert {"attn_q", "attn_k", "attn_v", "attn_o", "ffn_in", "ffn_out"} <= {c.kind for c in plain[-1].components}
    assert [s.components for s in found] == [s.components for s in plain]
    assert [dict(s.columns) for s in found] == [dict(s.columns) for s in plain]


def test_a_package_without_metadata_records_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied into another project, or put on the path."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    installed_version.cache_clear()
    try:
        assert weibull_monitor.__version__ == "unknown"
        history = trained(tmp_path, lambda: default_dtype(torch.float32))
    finally:
        installed_version.cache_clear()
    assert history.runs[0].version == "unknown"
    assert [s.step for s in history.snapshots] == [0, 1, 2, 4, 6]
