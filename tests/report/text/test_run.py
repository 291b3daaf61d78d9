from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monitor.test_parts import mixtral

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.report.text.run import summarize


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each kind's row."""
    classes = ("selection", "transmission", "mixed", "none")
    cells = [line.split() for line in table.splitlines()]
    return {row[0]: row for row in cells if len(row) > 2 and row[1] in classes}


def test_start_now_drift_and_its_error(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=10, output_dir=tmp_path) as monitor:
        train(tiny_model, optimizer, 20, monitor.step)
    history = read_history(tmp_path)
    table = summarize(history)
    assert "steps 0 to 20" in table
    assert "10 matrices" in table
    assert set(rows(table)) == {"attn_q", "attn_k", "attn_o", "ffn_in", "ffn_out"}
    _, _, count, start, now, drift, _, error, *_ = rows(table)["ffn_in"]
    names = [f"layers.{block}.mlp.fc1.weight" for block in (0, 1)]
    k = [(dict(history.series(name))[0], dict(history.series(name))[20]) for name in names]
    assert int(count) == 2
    assert float(start) == pytest.approx(sum(a for a, _ in k) / 2, abs=1e-4)
    assert float(now) == pytest.approx(sum(b for _, b in k) / 2, abs=1e-4)
    assert float(drift) == pytest.approx(100 * sum(b / a - 1 for a, b in k) / 2, abs=0.01)
    single = 1.132 / math.sqrt(2048) * math.sqrt(2)  # both ends of one matrix
    assert float(error) == pytest.approx(100 * single / math.sqrt(2), rel=0.1)


def test_a_matrix_that_had_no_fit_at_the_start_is_shown_as_it_is_now(
    tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    weight = tiny_model.get_parameter("layers.0.mlp.fc1.weight")
    with torch.no_grad():
        weight.zero_()
        tiny_model.get_parameter("layers.1.mlp.fc1.weight").zero_()
    with WeibullMonitor(tiny_model, output_dir=tmp_path) as monitor:
        torch.nn.init.normal_(weight)
        monitor.step()
    cells = rows(summarize(read_history(tmp_path)))["ffn_in"]
    assert cells[3] == "–"
    assert float(cells[4]) == pytest.approx(1.2054, abs=0.15)


def test_the_experts_that_lie_widest_apart_are_named(tmp_path: Path) -> None:
    model = mixtral(4)
    with torch.no_grad():  # expert 2 of block 1 becomes heavy-tailed
        model.get_parameter("model.layers.1.mlp.experts.down_proj")[2].pow_(3)
    WeibullMonitor(model, output_dir=tmp_path).close()
    first = summarize(read_history(tmp_path)).partition("differs most:\n")[2].splitlines()[0]
    assert first.startswith("ffn_down, block 1: median 1.")
    assert "of 4, lowest 0." in first
    assert "(expert 2), highest" in first


def test_a_run_without_samples_says_so(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    monitor = WeibullMonitor(tiny_model, output_dir=tmp_path)
    assert "no samples yet" in summarize(read_history(tmp_path))
    monitor.close()


def test_the_forecast_and_the_reasons_where_there_is_none(tmp_path: Path) -> None:
    from scaling.test_law import adamw, model_of, walk

    model = model_of(64, lm_head=torch.nn.Linear(64, 50, bias=False))
    walk(model, adamw(model), tmp_path, lambda step: 1.0, steps=60, total_steps=100)
    history = read_history(tmp_path)
    text = summarize(history)
    assert "λ at step 100, as forecast at step 60 (and an interval):" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("attn_q") and "(" in line)
    last = {column: history.snapshots[-1].values(column) for column in ("lambda_forecast", "lambda_forecast_low")}
    assert float(row[1]) == pytest.approx(last["lambda_forecast"]["self_attn.q_proj.weight"], abs=1e-5)
    assert float(row[2].strip("(")) == pytest.approx(last["lambda_forecast_low"]["self_attn.q_proj.weight"], abs=1e-5)
    assert "no forecast of λ for 1 of 3 matrices, because the law is for attention and feed-forward" in text
