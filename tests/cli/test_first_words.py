"""The first words of a session at the command line: no arguments, a missing extra, a single run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from weibull_monitor import WeibullMonitor
from weibull_monitor.cli.main import main


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("one-run")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    options = {"kinds": {"0": "attn_q", "1": "ffn_in"}, "output_dir": place, "example_inputs": False}
    with WeibullMonitor(model, optimizer, **options) as monitor:  # type: ignore[arg-type]
        for _ in range(2):
            model(torch.randn(8, 32)).square().mean().backward()
            optimizer.step()
            monitor.step()
    return place


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    out = capsys.readouterr()
    assert not out.err
    return out.out


def test_without_arguments_the_help_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["weibull-monitor"])
    expected = help_of(["--help"], capsys)
    assert help_of([], capsys) == expected
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["report", "RUN"], "plotly", "report"),
        (["report", "RUN", "--serve"], "plotly", "report"),
        (["watch", "RUN", "--once"], "rich", "report"),
        (["watch", "RUN"], "rich", "report"),
        (["scan", "RUN", "--html", "x.html"], "plotly", "report"),
        (["sweep", "RUN", "--plot", "x.png"], "matplotlib", "report"),
        (["wandb-workspace", "team/llm", "--run", "RUN"], "wandb_workspaces", "workspaces"),
        (["completion", "bash"], "shtab", "completion"),
        (["run", "--trackers", "wandb", "--", "python"], "wandb", "wandb"),
        (["run", "--trackers", "memory,aim", "--", "python"], "aim", "aim"),
    ],
)
def test_a_missing_extra_is_named_before_anything_is_read(
    words: list[str],
    module: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(words) == 1  # RUN is not there: that would be the next thing to be said
    out = capsys.readouterr()
    assert out.err == f"weibull-monitor: {module} is not installed; run: pip install 'weibull-monitor[{extra}]'\n"
    assert not out.out


def test_a_sweep_of_one_run_says_what_it_needs(one_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(one_run)]) == 0
    assert "This is only one run, which cannot show a law: name several" in capsys.readouterr().out
    assert main(["sweep", str(one_run), str(one_run)]) == 0
    assert "This is only one run" not in capsys.readouterr().out


def test_one_of_something_is_not_several(one_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", str(one_run)]) == 0
    shown = capsys.readouterr().out
    assert "samples of 2 matrices and parts" in shown
    assert "1 samples" not in shown
