"""Models as others have them: parameters without dimensions or that cannot be read, frozen ones that move, surgery in mid-run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import exact_fit
from torch import nn

from tests.conftest import TinyModel
from weibull_monitor import WeibullMonitor, fit_weibull, read_history
from weibull_monitor.errors import ConfigurationError, UnsupportedTensorError


class Scaled(torch.Tensor):
    """Stands for a quantised tensor of another library: it refuses almost every operation."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Scaled:
        made: Scaled = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        raise NotImplementedError(f"{function} is not supported")


def unreadable(kind: str) -> nn.Parameter:
    """A parameter that cannot be read."""
    if kind == "foreign":
        tensor: torch.Tensor = Scaled(torch.ones(64, 32, dtype=torch.int8))
    elif kind == "nested":
        tensor = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(5, 4)])
    elif kind == "jagged":
        tensor = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(5, 4)], layout=torch.jagged)
    elif kind == "sparse":
        tensor = torch.eye(32).to_sparse()
    elif kind == "meta":
        tensor = torch.empty(32, 32, device="meta")
    else:
        return nn.parameter.UninitializedParameter()
    return nn.Parameter(tensor, requires_grad=False)


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
@pytest.mark.parametrize("kind", ["foreign", "nested", "jagged", "sparse", "meta", "lazy"])
def test_a_matrix_that_cannot_be_read_is_named_and_costs_only_itself(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyModel()
    model.layers[0].mlp["fc1"].weight = unreadable(kind)
    optimizer = torch.optim.AdamW([*model.layers[1].parameters(), model.layers[0].mlp["fc1"].weight])
    with caplog.at_level(logging.WARNING):
        monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path, forces=True)
        monitor.step()
        monitor.close()
    samples = read_history(tmp_path).snapshots
    assert [len(sample.values("k")) for sample in samples] == [9, 9]
    assert "layers.0.mlp.fc1.weight" not in samples[-1].values("k")
    assert "layers.0.mlp.fc1.weight" in caplog.text


def test_a_lazy_module_is_measured_from_its_first_step_on(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.LazyLinear(24))
    optimizer = torch.optim.AdamW(model.parameters())
    with WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path) as monitor:
        for _ in range(2):
            model(torch.randn(8, 16)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
    last = read_history(tmp_path).snapshots[-1]
    assert last.values("k").keys() == {"0.weight", "1.weight"}
    assert last.values("eta").keys() == {"0.weight", "1.weight"}


def test_a_tensor_of_a_sequence_that_cannot_be_read_costs_only_itself() -> None:
    good = torch.randn(100, 100)
    foreign = Scaled(torch.ones(64, 32, dtype=torch.int8))
    first, bad, last = fit_weibull([good, foreign, good.bfloat16()])
    assert first.k == fit_weibull(good).k
    assert last.available
    assert not bad.available
    assert "Scaled" in bad.reason or "not supported" in bad.reason
    with pytest.raises(UnsupportedTensorError, match="Scaled"):
        fit_weibull(foreign)


def test_a_parameter_without_dimensions(tmp_path: Path) -> None:
    model = TinyModel()
    model.logit_scale = nn.Parameter(torch.tensor(2.6))
    optimizer = torch.optim.AdamW(model.parameters())
    with WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path, forces=True) as monitor:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        monitor.step()
    assert [len(sample.values("k")) for sample in read_history(tmp_path).snapshots] == [10, 10]


def halved(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(0.5)


def halved_unseen(weight: nn.Parameter) -> None:
    weight.data.mul_(0.5)  # does not raise the version


def replaced(weight: nn.Parameter) -> None:
    weight.data = weight.data * 0.5


@pytest.mark.parametrize("frozen", ["read", "once"])
@pytest.mark.parametrize("change", [halved, halved_unseen, replaced])
def test_what_needs_no_gradient_may_move(
    frozen: Any, change: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyModel().requires_grad_(False)
    weight = model.layers[1].mlp["fc2"].weight
    monitor = WeibullMonitor(model, None, every_n_steps=1, output_dir=tmp_path, frozen=frozen)
    monitor.step()
    change(weight)
    monitor.step()
    change(weight)
    monitor.step()
    monitor.close()
    scales = [v for _, v in read_history(tmp_path).series("layers.1.mlp.fc2.weight", "lambda")]
    assert scales[1:] == pytest.approx([scales[0], scales[0] / 2, scales[0] / 4], rel=1e-6)
    assert scales[3] == pytest.approx(exact_fit(weight)[1], rel=2e-3)
    assert caplog.text.count('although frozen="once"') == (frozen == "once")


def test_once_reads_once(tmp_path: Path) -> None:
    model = TinyModel().requires_grad_(False)
    monitor = WeibullMonitor(model, None, every_n_steps=1, output_dir=tmp_path, frozen="once")
    reader = monitor._reader
    counted: list[int] = []
    count = reader._counter.count

    def counting(components: Any, *args: Any) -> Any:
        counted.append(len(components))
        return count(components, *args)

    reader._counter.count = counting  # type: ignore[method-assign]
    monitor.step()
    monitor.step()
    monitor.close()
    assert counted == [0, 0]
    assert len(read_history(tmp_path).snapshots[-1].values("k")) == 10


def test_an_unknown_word_for_frozen(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="frozen is 'never'"):
        WeibullMonitor(TinyModel(), None, output_dir=tmp_path, frozen="never")  # type: ignore[call-arg]


def test_the_history_says_what_the_matrices_are_at_each_sample(tmp_path: Path) -> None:
    model = TinyModel()
    monitor = WeibullMonitor(model, None, every_n_steps=1, output_dir=tmp_path)
    monitor.step()
    model.bfloat16()
    monitor.step()
    model.layers[0].requires_grad_(False)
    monitor.step()
    model.layers[1].mlp["fc2"].weight = nn.Parameter(torch.randn(48, 64))
    monitor.step()
    monitor.step()
    monitor.close()
    history = read_history(tmp_path)
    assert len(history.runs) == 4
    tables = [
        {c.name: (str(c.dtype), c.trainable, c.shape) for c in sample.components}["layers.0.mlp.fc1.weight"]
        for sample in history.snapshots
    ]
    assert tables == [
        ("torch.float32", True, (64, 32)),
        ("torch.float32", True, (64, 32)),
        ("torch.bfloat16", True, (64, 32)),
        *[("torch.bfloat16", False, (64, 32))] * 3,
    ]
    assert {c.name: c.shape for c in history.components}["layers.1.mlp.fc2.weight"] == (48, 64)
