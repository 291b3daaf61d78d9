"""Fixtures shared by all tests. Models are built from configs; nothing is downloaded."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads gain nothing on tiny models, and wait for each other for long where other processes are at work. Read when torch and
# numpy are imported; also by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

from weibull_monitor.checkpoint.child import process

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined, so before any test imports one


SLOW = {"ranks", "wild", "test_benchmark_gpu.py", "test_ptx.py", "test_tour.py", "test_transformers_resumed.py"}
"""Files and folders that take long. With them first, two processes that take file after file end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.isdisjoint(item.path.parts))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """What several tests share is the same whichever of them comes first."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_process_for_models() -> Iterator[None]:
    """Models that configurations describe are built in one process, which takes seconds to start."""
    with process():
        yield


@pytest.fixture(autouse=True)
def _no_run_is_left_open() -> Iterator[None]:
    """A run that a test leaves open in a tracker would get what later tests log."""
    yield
    if getattr(sys.modules.get("wandb"), "run", None) is not None:
        sys.modules["wandb"].finish()
    if (mlflow := sys.modules.get("mlflow")) is not None and mlflow.active_run() is not None:
        mlflow.end_run()
    current = getattr(sys.modules.get("trackio.context_vars"), "current_run", None)
    if current is not None and current.get() is not None:
        sys.modules["trackio"].finish()
        current.set(None)


class Block(nn.Module):
    """A block with W_q, W_k, W_o and a feed-forward pair, named as everywhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("q_proj", "k_proj", "o_proj")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.self_attn
        x = x + a["o_proj"](torch.tanh(a["q_proj"](x)) + a["k_proj"](x))
        return x + self.mlp["fc2"](torch.relu(self.mlp["fc1"](x)))


class TinyModel(nn.Module):
    """Two blocks; trains in milliseconds."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def tiny_model() -> TinyModel:
    return TinyModel()


@pytest.fixture
def train() -> Callable[..., list[float]]:
    """Trains a tiny model for some steps, calling back after each optimizer step; returns the losses."""

    def run(
        model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, after: Callable[[], object] = lambda: None
    ) -> list[float]:
        losses = []
        for _ in range(steps):
            x = torch.randn(8, 32)
            loss = (model(x) - x.roll(1, dims=1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after()
            losses.append(loss.item())
        return losses

    return run


@pytest.fixture(scope="session")
def documented_key() -> Callable[[str], bool]:
    """Whether the table of logged keys in the documentation has a row for a key."""
    table = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\|(?: [TW][^|]* \|)? `(weibull_[^`]+)` \|", table, flags=re.MULTILINE)
    rules = {"<kind>": "[a-z_]+", "<rule>": "[a-z_]+", "<name>": ".+"}
    patterns = [re.compile(re.sub("<[a-z]+>", lambda found: rules[found[0]], re.escape(row))) for row in rows]
    return lambda key: any(pattern.fullmatch(key) for pattern in patterns)
