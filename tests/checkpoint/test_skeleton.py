"""What names and shapes tell of a model: the kinds, blocks and towers that the model itself tells."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weibull_monitor.checkpoint.skeleton import placeable, skeleton
from weibull_monitor.model.components import discover
from weibull_monitor.model.meta_device import build

TYPES = (
    "gpt2",
    "opt",
    "bloom",
    "falcon",
    "qwen2_moe",
    "bert",
    "albert",
    "t5",
    "bart",
    "whisper",
    "vit",
    "swin",
    "modernbert",
)


def shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(p.shape), p.dtype) for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", TYPES)
def test_kinds_are_those_of_the_model(kind: str) -> None:
    model = build(kind)
    found = discover(skeleton(shapes(model)), resolution="parameter").components
    expected = discover(model, resolution="parameter").components
    assert {c.name: (c.label, c.block, c.tower) for c in found} == {
        c.name: (c.label, c.block, c.tower) for c in expected
    }


def test_names_that_are_attributes_of_modules() -> None:
    names = [
        "head.weight",
        "train.weight",
        "type.weight",
        "layers.0.forward.weight",
        "weight",
        "_modules.weight",
        "head.b.weight",
    ]
    model = skeleton(dict.fromkeys(names, ((4, 4), torch.float32)))
    assert sorted(dict(model.named_parameters())) == sorted(names)
    assert len(discover(model).components) == len(names)


def test_paths_that_are_none() -> None:
    assert placeable("a.b.weight")
    for name in ("", ".", "a..b", "a.", ".a", "a" * 2000, ".".join("a" * 100)):
        assert not placeable(name)
