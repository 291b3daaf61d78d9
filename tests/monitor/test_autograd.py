"""The monitor keeps nothing of autograd: nodes of its own stream would spoil the capture of a CUDA graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor


def kept(parameters: list[nn.Parameter]) -> int:
    """For how many parameters something keeps the node of autograd that accumulates their gradient."""
    seen: set[int] = set()
    for place, p in enumerate(parameters):
        node: Any = p.expand_as(p).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
        node.register_hook(lambda *_, place=place: seen.add(place))
        del node  # with its hook, unless it is kept
    for p in parameters:
        held, p.grad = p.grad, None
        p.sum().backward()
        p.grad = held
    return len(seen)


def test_what_is_kept_is_found() -> None:
    p = nn.Parameter(torch.ones(3))
    assert kept([p]) == 0
    product = p * 2
    assert kept([p]) == 1
    del product


@pytest.mark.parametrize("options", [{}, {"updates": True, "forces": True}], ids=str)
def test_no_node_is_kept(tmp_path: Path, options: dict[str, bool]) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters)
    with WeibullMonitor(model, optimizer, every_n_steps=2, output_dir=tmp_path, **options) as monitor:  # type: ignore[arg-type]
        assert kept(parameters) == 0
        for _ in range(5):
            model(torch.randn(2, 3, 32)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
            assert kept(parameters) == 0
