"""The comparison of runs: its statistics against numpy and scipy, and against published facts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scaling.test_law import C, adamw, model_of, walk

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.analysis.sweep import RunEnd, compare_runs, group, pearson, through_origin
from weibull_monitor.cli.main import main
from weibull_monitor.history.record import FILE
from weibull_monitor.report.text.sweep import render

# Peak learning rate and terminal median λ of attn_o, ffn_in and ffn_out of the five Pythia models, λ_wd 0.01 (T. Ding,
# arXiv:2605.18898, 2026, data CC BY 4.0).
PYTHIA = {
    "70m": (1e-3, (0.018602, 0.026004, 0.021012)),
    "160m": (6e-4, (0.015679, 0.024112, 0.018884)),
    "410m": (3e-4, (0.017971, 0.020801, 0.017156)),
    "1b": (3e-4, (0.018769, 0.020151, 0.017332)),
    "6.9b": (1.2e-4, (0.013018, 0.016751, 0.014672)),
}


def test_the_five_pythia_models_have_the_published_correlation_and_slope() -> None:
    ends = [
        RunEnd(name, "ffn", sum(scales) / 3, math.sqrt(eta / 0.01), None, None)
        for name, (eta, scales) in PYTHIA.items()
    ]
    line = group("ffn", ends).plain
    assert line is not None
    assert line.n == 5
    assert line.r == pytest.approx(0.941, abs=5e-4)
    assert line.slope == pytest.approx(0.0854, abs=5e-5)
    assert line.low is not None
    assert line.high is not None
    assert line.low < 0.087 < line.high  # the slope as published


@pytest.mark.parametrize("n", [2, 3, 9, 40, 200])
def test_the_line_through_the_origin_is_that_of_scipy(n: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy, which dev installs")
    random = np.random.default_rng(n)
    x = random.uniform(0.1, 1.0, n)
    y = 0.5 * x + random.normal(0, 0.05, n)
    line = through_origin(x.tolist(), y.tolist())
    assert line is not None
    slope = float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])
    error = math.sqrt(((y - slope * x) ** 2).sum() / (n - 1) / (x**2).sum())
    low, high = stats.t.interval(0.95, n - 1, loc=slope, scale=error)
    assert (line.slope, line.low, line.high) == pytest.approx((slope, low, high), rel=2e-4)
    assert line.cv == pytest.approx((y / x).std(ddof=1) / (y / x).mean())
    assert line.r == (pytest.approx(stats.pearsonr(x, y).statistic) if n > 2 else None)


def test_what_few_points_cannot_tell() -> None:
    assert through_origin([], []) is None
    single = through_origin([2.0], [1.0])
    assert single is not None
    assert (single.slope, single.r, single.low, single.cv) == (0.5, None, None, None)
    assert pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def runs(where: Path) -> list[str]:
    """Random walks, for which the effective law is exact, at three rates, two decays and budgets far from the plain law's."""
    places = []
    for eta, decay, steps in ((1e-2, 1.0, 60), (2e-2, 0.5, 200), (5e-3, 2.0, 120), (1e-2, 0.25, 120)):
        model = model_of(64)
        place = where / f"eta {eta:g}, wd {decay:g}"
        walk(model, adamw(model, lr=eta, weight_decay=decay), place, steps=steps)
        places.append(str(place))
    return places


def test_the_effective_law_collapses_what_the_plain_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = runs(tmp_path)
    sweep = compare_runs((place, read_history(place)) for place in places)
    assert [g.name for g in sweep.classes] == ["selection", "transmission"]
    assert [g.name for g in sweep.kinds] == ["attn_q", "attn_o"]
    for one in (*sweep.classes, *sweep.kinds):
        assert one.plain is not None
        assert one.effective is not None
        assert one.effective.slope == pytest.approx(C, rel=0.03)
        assert one.effective.cv is not None
        assert one.plain.cv is not None
        assert one.effective.cv < 0.03 < 0.15 < one.plain.cv
    assert main(["sweep", *places, "--json", "--plot", str(tmp_path / "sweep.svg"), "--kind", "attn_o"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["kinds"][1]["effective"]["slope"] == sweep.kinds[1].effective.slope  # type: ignore[union-attr]
    picture = (tmp_path / "sweep.svg").read_text()
    assert picture.count("<svg") == 1
    assert main(["sweep", *places, "--plot", str(tmp_path / "sweep.png")]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert text.splitlines()[0].split() == ["λ", "against", "√(η/λ_wd)", "grown", "λ", "against", "√I"]
    row = next(line.split() for line in text.splitlines() if line.startswith("attn_o"))
    assert row[1] == "4"
    assert float(row[-5]) == pytest.approx(C, rel=0.03)


def test_runs_that_cannot_take_part_are_named(tmp_path: Path) -> None:
    good = runs(tmp_path)[:2]
    model = model_of(32)
    WeibullMonitor(model, output_dir=tmp_path / "untrained").close()
    walk(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), tmp_path / "sgd", steps=5)
    optimizer = adamw(model)

    def change(step: int) -> None:
        optimizer.param_groups[0]["weight_decay"] = 1.0 + step

    walk(model, optimizer, tmp_path / "changed", steps=5, between=change)
    places = [*good, *(str(tmp_path / name) for name in ("untrained", "sgd", "changed"))]
    sweep = compare_runs((Path(place).name, read_history(place)) for place in places)
    assert {name: reason.split()[0] for name, reason in sweep.left_out.items()} == {
        "untrained": "it",
        "sgd": "the",
        "changed": "its",
    }
    assert sweep.classes[0].plain is not None
    assert sweep.classes[0].plain.n == 2
    assert "left out: sgd: the law does not apply to its optimizer" in render(sweep)


def test_a_run_without_weight_decay_is_on_the_effective_side_only(tmp_path: Path) -> None:
    model = model_of()
    walk(model, adamw(model, weight_decay=0.0), tmp_path, steps=60)
    (selection, _) = compare_runs([("a", read_history(tmp_path))]).classes
    assert selection.plain is None
    assert selection.effective is not None
    assert selection.effective.slope == pytest.approx(C, rel=0.02)


def test_a_history_of_an_earlier_version_is_on_the_plain_side_only(tmp_path: Path) -> None:
    model = model_of(64)
    walk(model, adamw(model), tmp_path, steps=60)
    file = tmp_path / FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        for name in ("effective", "t_over_tau", "withheld", "lambda_equilibrium", "optimizers", "total_steps"):
            line.pop(name, None)
        for name in ("", "_low", "_high"):
            line.pop(f"lambda_forecast{name}", None)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = read_history(tmp_path)
    assert history.snapshots[-1].values("effective") == {}
    (selection, _) = compare_runs([("old", history)]).classes
    assert selection.effective is None
    assert selection.plain is not None
    assert "–" in render(compare_runs([("old", history)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no history at nowhere"),
        (["run", "--kind", "attn_k"], "no run has the kind attn_k; there are selection, transmission, attn_q, attn_o"),
        (["untrained"], "none of the 1 runs can be compared: untrained: it has no sample after the first step"),
    ],
)
def test_what_is_wrong_is_one_line_on_standard_error(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_of(32)
    walk(model, adamw(model), tmp_path / "run", steps=30)
    WeibullMonitor(model, output_dir=tmp_path / "untrained").close()
    capsys.readouterr()
    assert main(["sweep", *arguments]) != 0
    out = capsys.readouterr()
    assert message in out.err
    assert out.err.count("\n") == 1
    assert not out.out


def test_without_matplotlib_the_command_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    model = model_of(32)
    walk(model, adamw(model), tmp_path / "run", steps=30)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["sweep", str(tmp_path / "run"), "--plot", str(tmp_path / "x.png")]) != 0
    assert "pip install 'weibull-monitor[report]'" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
