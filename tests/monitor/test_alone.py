"""One rank of several that measures alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from weibull_monitor import WeibullMonitor, fit_weibull


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """The first of two, whose collectives do nothing."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


def test_a_sharded_matrix_is_named_and_a_whole_one_measured(two_ranks: None, tmp_path: Path) -> None:
    mesh = init_device_mesh("cpu", (2,))
    model = nn.ModuleDict({name: nn.Linear(64, 64, bias=False) for name in ("sharded", "replicated", "plain")})
    for name, placement in (("sharded", Shard(0)), ("replicated", Replicate())):
        weight = distribute_tensor(model[name].weight.detach(), mesh, [placement], src_data_rank=None)
        model[name].weight = nn.Parameter(weight)
    monitor = WeibullMonitor(model, output_dir=tmp_path, process_group=None)
    monitor.step()
    monitor.close()
    assert monitor.last is not None
    assert set(monitor.last.fits) == {"replicated.weight", "plain.weight"}
    with torch.no_grad():
        whole = model["replicated"].weight.to_local()  # type: ignore[operator, union-attr]
    assert monitor.last.fits["replicated.weight"].k == pytest.approx(fit_weibull(whole).k, abs=1e-9)
    [skipped] = monitor.discovery.skipped
    assert skipped.name == "sharded.weight"
    assert "holds 2,048 of its 4,096 elements" in skipped.reason
    assert "process_group=None" in skipped.reason
