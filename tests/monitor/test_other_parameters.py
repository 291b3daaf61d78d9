"""An optimizer that steps copies of the weights: the monitor does not know its learning rate, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weibull_monitor import WeibullMonitor


@pytest.mark.parametrize(
    ("of", "options", "lines"),
    [
        ("copies", {}, 1),
        ("all", {}, 0),
        ("vectors", {"include": "0.weight"}, 0),
        ("vectors", {}, 0),
        ("nothing", {}, 0),
    ],
)
def test_an_optimizer_of_copies_is_named_once(
    of: str, options: dict[str, Any], lines: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    stepped = {
        "copies": [p.detach().clone().requires_grad_() for p in model.parameters()],
        "all": [*model.parameters()],
        "vectors": [p for p in model.parameters() if p.dim() == 1],
    }
    optimizer = torch.optim.AdamW(stepped[of]) if of in stepped else None
    with WeibullMonitor(model, optimizer, output_dir=tmp_path, every_n_steps=10, **options) as monitor:
        for _ in range(3):
            monitor.step()
    said = [r.getMessage() for r in caplog.records if "none of the parameters" in r.getMessage()]
    assert len(said) == lines
    assert all("that AdamW steps is a parameter of this model" in line for line in said)
