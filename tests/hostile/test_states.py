"""A saved state that holds anything: what cannot be restored begins anew, with a line in the log, and training goes on."""

from __future__ import annotations

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile.inputs import Model
from weibull_monitor import ConfigurationError, WeibullMonitor, read_history

PARTS = {
    "adaptive": [5, "x", [], {"credit": "x"}, {"credit": -(10**30)}],
    "budgets": [5, "x", [5], [[5]], [["x"]], [[[1, "x"]]], [[[1] * 9]], [[[float("inf"), 0.0, None, False, 0.0, 0.0]]]],
    "watched": [5, "x", [5], [[[], {}]], [["x", 1]], [[0, False, [5]]]],
    "alerts": [5, "x", {"components": 13, "rules": 5}, {"components": 13, "rules": {"dead": 5, "scale_shift": {}}}],
}


def trained(folder: Path, steps: int, resume: Any = None) -> tuple[WeibullMonitor, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with WeibullMonitor(
        model, optimizer, every_n_steps=1, output_dir=folder, trackers=[], adaptive=True, resume=resume
    ) as monitor:
        for _ in range(steps):
            model(torch.randint(0, 50, (2, 4))).square().mean().backward()
            optimizer.step()
            monitor.step()
    return monitor, [parameter.detach().clone() for parameter in model.parameters()]


def test_each_part_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor, weights = trained(tmp_path / "whole", 2)
    state = monitor.state_dict()
    for part, values in PARTS.items():
        for number, value in enumerate(values):
            folder = tmp_path / f"{part} {number}"
            shutil.copytree(tmp_path / "whole", folder)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                _, after = trained(folder, 2, copy.deepcopy(state) | {part: value})
            said = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
            assert len(said) <= 1, said
            assert said or part in ("adaptive", "alerts"), value
            assert all(map(torch.equal, weights, after))
            history = read_history(folder)
            assert [sample.step for sample in history.snapshots] == [0, 1, 2, 3, 4]
            assert not any("baseline" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("state", [5, "x", {}, {"step": None}, {"step": -1}, {"step": 1e3}, {"step": 10**5000}])
def test_without_a_step_it_is_refused(state: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="resume is"):
        trained(tmp_path, 1, state)
