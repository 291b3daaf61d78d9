"""Weights that layers make of parameters: what the layer uses is measured under its name, without a side effect."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracle import exact_fit
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from weibull_monitor import WeibullMonitor, discover_components
from weibull_monitor.model.components import discover


class Lora(nn.Module):
    """A parametrization as minLoRA has it, with a dropout that draws random numbers."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(4, columns) * 0.1)
        self.lora_B = nn.Parameter(torch.randn(rows, 4) * 0.1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.dropout(self.lora_B @ self.lora_A)


def old(of: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def apply(layer: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            of(layer)

    return apply


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm, old": old(weight_norm),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm, old": old(spectral_norm),
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "prune": lambda layer: prune.random_unstructured(layer, "weight", amount=0.3),
    "pruned twice": lambda layer: [prune.l1_unstructured(layer, "weight", amount=0.2) for _ in range(2)],
    "lora": lambda layer: parametrize.register_parametrization(layer, "weight", Lora(*layer.weight.shape)),
}


def used(layer: nn.Module) -> Tensor:
    """What a layer computes with outside of training."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, out: seen.append(module.weight.detach().clone()))
    layer.eval()(torch.zeros(1, layer.in_features))  # type: ignore[operator]
    layer.train()
    hook.remove()
    return seen[0]


def changed(tiny: nn.Module, way: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    for layer in tiny.layers:
        for part in (layer.self_attn, layer.mlp):
            for linear in part.values():
                WAYS[way](linear)
    return tiny, torch.optim.AdamW(tiny.parameters(), lr=1e-3)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, monitor: WeibullMonitor | None) -> list[float]:
    generator, losses = torch.Generator().manual_seed(0), []
    torch.manual_seed(5)
    for _ in range(3):
        loss = model(torch.randn(8, 64, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_what_a_layer_uses_is_measured_and_training_is_the_same(
    way: str, make_tiny: Callable[[], nn.Module], tmp_path: Path
) -> None:
    plain = {c.name: c.kind for c in discover_components(make_tiny())}
    alone = trained(*changed(make_tiny(), way), None)
    model, optimizer = changed(make_tiny(), way)
    found = {c.name: c.kind for c in discover_components(model) if not c.kind.startswith("adapter")}
    assert found == plain
    monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=tmp_path, forces=True)
    assert trained(model, optimizer, monitor) == alone
    state = {name: value.clone() for name, value in model.state_dict().items()}
    snapshot = monitor.sample()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert snapshot is not None
    for name in plain:
        fit = snapshot.fits[name]
        k, lambda_, _ = exact_fit(used(model.get_submodule(name.removesuffix(".weight"))))
        assert fit.k == pytest.approx(k, rel=2e-3, nan_ok=True), name
        assert fit.lambda_ == pytest.approx(lambda_, rel=2e-3, nan_ok=True), name
        stepped = snapshot.scaling[name].eta is not None if name in snapshot.scaling else False
        assert stepped == way.startswith("prune")  # only there an optimizer steps the elements that are used
    monitor.close()


@pytest.fixture
def make_tiny() -> Callable[[], nn.Module]:
    from tests.conftest import TinyModel

    def make() -> nn.Module:
        torch.manual_seed(3)
        return TinyModel(64)

    return make


def test_the_elements_are_those_of_the_parameters() -> None:
    layer = parametrizations.weight_norm(nn.Linear(16, 8))
    found = discover(layer)
    assert [(c.name, c.shape) for c in found.components] == [("weight", (8, 16))]
    assert (found.elements, found.vectors) == (8 * 16 + 8 + 8, 8 + 8)


def test_an_older_spectral_norm_has_a_scale_before_its_first_forward_pass() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spectral_norm(layer)
    from weibull_monitor.model.sharding import local_parameters

    held = local_parameters(layer)["weight"]
    before = held.read()
    assert torch.equal(before, held.read())
    layer(torch.zeros(1, 64))
    assert torch.allclose(before, layer.weight, rtol=1e-5)  # type: ignore[arg-type]


def test_a_parametrization_that_fails_costs_only_its_own_weight(make_tiny: Callable[[], nn.Module]) -> None:
    class Broken(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            raise ValueError("not today")

    model = make_tiny()
    parametrize.register_parametrization(model.layers[0].mlp["fc1"], "weight", Broken(), unsafe=True)
    found = discover(model)
    assert len(found.components) == 9
    assert [(s.name, "not today" in s.reason) for s in found.skipped] == [("layers.0.mlp.fc1.weight", True)]


def test_pruning_in_mid_run_goes_on_under_the_same_name(make_tiny: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make_tiny()
    monitor = WeibullMonitor(model, None, every_n_steps=1, output_dir=tmp_path)
    prune.l1_unstructured(model.layers[0].mlp["fc1"], "weight", amount=0.5)
    monitor.step()
    assert monitor.last is not None
    assert monitor.last.fits["layers.0.mlp.fc1.weight"].zeros == 64 * 128 // 2
    monitor.close()
