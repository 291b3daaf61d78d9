"""What a user gets in hand looks well at a prompt and in a notebook: short, with the numbers, and safe to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import trainer

from weibull_monitor import WeibullMonitor, fit_weibull, read_history
from weibull_monitor.alerts import Alert, Finding
from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.analysis.sweep import compare_runs
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.integrations.transformers import WeibullCallback

EVIL = "a<script>\x1b[2J"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of each class."""
    where = tmp_path_factory.mktemp("shown")
    torch.manual_seed(0)
    weights = torch.randn(64, 64)
    callback = WeibullCallback(every_n_steps=3)
    run = trainer(where / "run", callback, max_steps=3)
    run.train()
    run.save_model(str(where / "model"))
    history = read_history(where / "run")
    finding = Finding("dead", "error", 8, EVIL, (EVIL,), 1, "zeros", 0.5, (None, 0.1), None, "Look.")
    scan = scan_all([where / "model"])
    with WeibullMonitor(torch.nn.Linear(64, 64), output_dir=where / "monitor") as monitor:
        pass
    return {
        "fit": fit_weibull(weights),
        "no fit": fit_weibull(torch.zeros(64, 64)),
        "history": history,
        "recorded": history.snapshots[-1],
        "record": history.runs[0],
        "plot": history.plots[0],
        "snapshot": monitor.last,
        "monitor": monitor,
        "callback": callback,
        "new callback": WeibullCallback(),
        "alert": Alert("begins", 8, 8, finding),
        "diagnosis": diagnose(history),
        "sweep": compare_runs([("a", history)]),
        "scan": scan,
        "checkpoint": scan.checkpoints[0],
    }


SAYS = {
    "fit": r"WeibullFit\(k = 1\.\d{4} ± 0\.\d{4}, λ = 0\.\d+ ± 0\.\d+, R² = 0\.\d{4}, n = 4,096\)",
    "no fit": r"WeibullFit\(no fit: all 4096 finite values are zero\)",
    "history": r"History\(steps 0 to 3, 4 samples, \d+ matrices, \d+ alerts?: .*history\.jsonl\)",
    "recorded": r"RecordedSnapshot\(step 3, \d+ matrices\)",
    "record": r"RunRecord\(LlamaForCausalLM, \d+ matrices, from the beginning\)",
    "plot": r"RecordedPlot\(step \d, \d+ matrices\)",
    "snapshot": r"Snapshot\(step 0, 1 matrix\)",
    "monitor": r"WeibullMonitor\(closed at step 0, 1 matrix: .*monitor\)",
    "callback": r"WeibullCallback\(WeibullMonitor\(closed at step 3, \d+ matrices: .*run\)\)",
    "new callback": r"WeibullCallback\(every_n_steps=100\)",
    "alert": r"Alert\(weibull: dead \(error\); step 8: a<script>\\u001b\[2J: zeros 0\.5, expected at most 0\.1\. Look\.\)",
    "diagnosis": r"Diagnosis\(.*; \d+ to look at\)",
    "sweep": r"Sweep\(1 run compared, 0 left out\)",
    "scan": r"Scan\(1 checkpoint, \d+ findings?\)",
    "checkpoint": r"Checkpoint\(.*model, step \d, \d+ matrices, \d+ findings?\)",
}
WITHOUT_HTML = {"record", "plot", "checkpoint"}


@pytest.mark.parametrize("name", SAYS)
def test_it_is_short_and_says_what_it_is(name: str, objects: dict[str, Any]) -> None:
    import re

    shown = repr(objects[name])
    assert re.fullmatch(SAYS[name], shown), shown
    assert len(shown) < 400


@pytest.mark.parametrize("name", [name for name in SAYS if name not in WITHOUT_HTML])
def test_a_notebook_shows_a_table(name: str, objects: dict[str, Any]) -> None:
    html = objects[name]._repr_html_()
    if name == "new callback":
        assert html is None  # its `repr` is shown
    else:
        assert html.count("<table>") == html.count("</table>") >= 1
        assert "<script>" not in html
        assert len(html) < 20_000


def test_the_table_of_a_run_has_both_ends(objects: dict[str, Any]) -> None:
    html = objects["history"]._repr_html_()
    for cell in ("attn_q", "ffn_down", "k at step 0", "λ at step 3"):
        assert f">{cell}</" in html


def test_a_history_without_samples_is_shown_too(tmp_path: Path) -> None:
    from weibull_monitor.history import History

    empty = History(tmp_path, (), ())
    assert repr(empty) == f"History(0 samples, 0 matrices, 0 alerts: {tmp_path})"
    assert "0 samples" in empty._repr_html_()
