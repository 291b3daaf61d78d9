"""How many keys a run logs, and where those of updates are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import llama

from weibull_monitor import MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.report.html.run import run_data
from weibull_monitor.report.terminal.view import view_of
from weibull_monitor.trackers.wandb_workspace.subject import subject_of
from weibull_monitor.trackers.wandb_workspace.view import sections_of

Train = Callable[..., list[float]]


def logged(place: Path, blocks: int = 2, **options: object) -> set[str]:
    model, tracker = llama(num_hidden_layers=blocks), MemoryTracker()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / 20)
    given = {"every_n_steps": 5, "output_dir": place, "trackers": [tracker], "total_steps": 10, "scheduler": scheduler}
    with WeibullMonitor(model, optimizer, **given | options) as monitor:  # type: ignore[arg-type]
        for _ in range(10):
            ids = torch.randint(0, 60, (2, 8))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            monitor.step()
            scheduler.step()
            optimizer.zero_grad()
    keys = {key for _, metrics in tracker.records for key in metrics}
    return {key for key in keys if not key.startswith("weibull_tail/")}  # only while a tail has moved


def test_a_default_run_has_at_most_80_keys_at_any_depth(tmp_path: Path) -> None:
    keys = logged(tmp_path / "a")
    assert len({key.rpartition("/")[2] for key in keys if key.startswith("weibull_k/")}) == 9
    assert any(key.startswith("weibull_scaling/lambda_forecast/") for key in keys)
    assert len(keys) <= 80, sorted(keys)
    assert logged(tmp_path / "b", blocks=4) == keys


@pytest.mark.parametrize("updates", [True, False])
def test_updates_are_shown_by_report_watch_and_the_view_of_wandb(tmp_path: Path, updates: bool) -> None:
    keys = logged(tmp_path, updates=updates)
    history = read_history(tmp_path)
    sections = sections_of(subject_of(history))
    assert ("Updates" in sections) == updates
    panels = [key for _, panel in sections.get("Updates", []) for key in panel["y"]]
    assert set(panels) == {key for key in keys if key.startswith("weibull_update/")}
    assert all((one["update"] is not None) == updates for one in run_data("x", history)["classes"])
    tail = HistoryTail(tmp_path)
    tail.poll()
    view = view_of(tail)
    assert view is not None
    assert (view.updates is not None) == updates
    if view.updates is not None:
        assert 0.0 < view.updates[0] <= view.updates[1]
