"""What a frame says, against the history it is of; and that it fits its terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from alerts.simulated import ATTENTION, components, healthy, samples_of

from weibull_monitor import read_history
from weibull_monitor.alerts import replay
from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.history import HistoryWriter, RunRecord
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.report.terminal.draw import ENDLESS, draw
from weibull_monitor.report.terminal.view import View, view_of
from weibull_monitor.report.text.run import summarize

rich_console = pytest.importorskip("rich.console", reason="needs the report extra")


def recorded(where: Path, blocks: int = 4, samples: int = 24) -> Path:
    """A run with Inf in a matrix from sample 5 to 8 and in another from 18 on, an odd matrix, and a forecast."""
    columns = healthy(samples, blocks)
    size = blocks * 7
    for n, now in enumerate(columns):
        now["nonfinite"][3], now["nonfinite"][5] = 7.0 * (5 <= n < 8), 9.0 * (n >= 18)
        now["k"][8] -= 0.02 * n
        now["lambda_forecast"] = 1.5 * now["lambda"]
        now["lambda_forecast_low"], now["lambda_forecast_high"] = 1.4 * now["lambda"], 1.6 * now["lambda"]
        now["t_over_tau"] = np.full(size, 0.01 * n)
    many = components(blocks)
    model = {"class": "Small", "architecture": "decoder", "parameters": 12_345_678}
    writer = HistoryWriter(where)
    writer.write_run(
        RunRecord(0.0, None, model, 1, {}, many, {}, "0", attention=[ATTENTION | {"blocks": blocks}], total_steps=460)
    )
    given = samples_of(columns, blocks)
    alerts = replay(given, None, [ATTENTION])
    with writer.path.open("a") as file:
        for s, now in zip(given, columns, strict=True):
            values = {name: [None if np.isnan(v) else float(v) for v in column] for name, column in now.items()}
            line = {"type": "snapshot", "step": s.step, "time": 1000.0 + s.step, "seconds": 0.25, **values}
            file.write(json.dumps(line) + "\n")
    for alert in alerts:
        writer.write_alert(alert)
    writer.close()
    return where


def view(where: Path) -> View:
    tail = HistoryTail(where)
    tail.poll()
    found = view_of(tail)
    assert found is not None
    return found


def printed(shown: View, width: int, height: int, now: float = 1242.0) -> str:
    console = rich_console.Console(width=width, height=height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(draw(shown, width, height, now))
    return str(console.export_text())


def test_the_numbers_are_those_of_the_summary_the_diagnosis_and_the_metrics(tmp_path: Path) -> None:
    recorded(tmp_path)
    history, shown = read_history(tmp_path), view(tmp_path)
    assert (shown.step, shown.total_steps, shown.samples, shown.cost) == (230, 460, 24, 0.25)
    assert shown.share == pytest.approx(23 * 0.25 / 230)
    assert shown.t_over_tau == pytest.approx(0.23)
    text = summarize(history)
    for line in shown.kinds:
        (row,) = [row for row in text.splitlines() if row.split()[:1] == [line.cells[0]] and "×" in row]
        assert row.split() == " ".join(line.cells).split()
    last = history.snapshots[-1]
    q = [c.name for c in history.components if c.kind == "attn_q"]
    (forecast,) = [line.forecast for line in shown.kinds if line.cells[0] == "attn_q"]
    wanted = [median(last.values(f"lambda_forecast{end}")[name] for name in q) for end in ("", "_low", "_high")]
    assert forecast == pytest.approx(wanted)
    both = [c.name for c in history.components if c.kind in ("attn_q", "attn_k")]
    selection = shown.classes[0]
    assert selection.k == pytest.approx(median(last.values("k")[name] for name in both))
    assert len(selection.trend) == 24
    assert selection.published == "1.095–1.164"
    odd = diagnose(history).odd
    listed = [s.name for s in shown.suspects[: shown.odd]]
    alerted = [n for a in shown.standing if a.finding.severity != "info" for n in a.finding.components]
    assert listed[0] in shown.standing[-1].finding.components + shown.standing[0].finding.components
    assert set(listed) == {o.name for o in odd} | set(alerted)
    assert "model.layers.1.attn_k.weight" in {o.name for o in odd}
    worst = min(last.values("r2").items(), key=lambda pair: pair[1])[0]
    assert worst in {s.name for s in shown.suspects}


def test_alerts_that_stand_come_first_and_those_that_ended_after_them(tmp_path: Path) -> None:
    shown = view(recorded(tmp_path))
    assert [alert.since for alert in shown.standing if alert.finding.rule == "nonfinite"] == [180]
    assert [alert.since for alert in shown.recent if alert.finding.rule == "nonfinite"] == [50]
    text = printed(shown, 120, 40)
    assert text.index("error nonfinite") < text.index("cleared: nonfinite")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (100, 30), (200, 50)])
@pytest.mark.parametrize("blocks", [4, 30])
def test_a_frame_fits_its_terminal(width: int, height: int, blocks: int, tmp_path: Path) -> None:
    text = printed(view(recorded(tmp_path, blocks, samples=24 if blocks == 4 else 6)), width, height)
    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    for part in ("weibull-monitor", "step ", "selection", "attn_q", "worst components"):
        assert part in text
    assert "12 s ago" in text or blocks == 30


def test_eighty_columns_show_every_number_of_the_table(tmp_path: Path) -> None:
    shown = view(recorded(tmp_path))
    text = printed(shown, 80, 24)
    for line in shown.kinds:
        (row,) = [row for row in text.splitlines() if row.startswith(line.cells[0])]
        assert row.split()[2:4] == list(line.cells[3:5])
        assert line.forecast is not None
        assert row.split()[-1] == f"{line.forecast[1]:.3g}–{line.forecast[2]:.3g}"
    assert "…" not in "".join(row for row in text.splitlines() if row.startswith(("attn", "ffn", "sel", "trans")))


def test_nothing_is_said_that_is_not_known(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path)
    writer.write_run(RunRecord(0.0, None, {}, 1, {}, components(), {}, "0"))
    writer.close()
    tail = HistoryTail(tmp_path)
    tail.poll()
    assert view_of(tail) is None
    (sample,) = samples_of(healthy(1))
    columns = sample.columns | {"k": (None,) * 28, "lambda": (None,) * 28, "r2": (None,) * 28}
    with writer.path.open("a") as file:
        file.write(json.dumps({"type": "snapshot", "step": 0, "time": 0.0, **columns}) + "\n")
    tail.poll()
    shown = view_of(tail)
    assert shown is not None
    assert (shown.classes, shown.suspects, shown.cost, shown.total_steps) == ((), (), None, None)
    text = printed(shown, 80, 24)
    assert "nan" not in text.lower()
    assert "no alerts" in text


def test_matrices_with_alerts_come_first_and_keep_their_block_and_kind(tmp_path: Path) -> None:
    shown = view(recorded(tmp_path, blocks=30, samples=24))
    error = next(alert for alert in shown.standing if alert.finding.rule == "nonfinite")
    assert shown.suspects[0].name == error.finding.component == "model.layers.0.ffn_up.weight"
    assert shown.suspects[0].why == "nonfinite, since step 180"
    for width in (60, 80, 120):
        text = printed(shown, width, 30)
        assert text.index("alerts:") < text.index("worst components") < text.index("class ")
        row = next(line for line in text.splitlines() if "nonfinite, since" in line)
        assert row.startswith("layers.0.ffn_up")


def test_one_frame_is_whole_in_eighty_columns(tmp_path: Path) -> None:
    shown = view(recorded(tmp_path))
    text = printed(shown, 80, ENDLESS)
    assert " ".join(shown.model.split()) in " ".join(text.split())
    head = text[: text.index("alerts:")]
    assert "…" not in head.partition("\n")[2]
    assert f"S = Σηλ_wd {shown.t_over_tau:.3g}" in head
