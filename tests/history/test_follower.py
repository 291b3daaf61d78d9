"""Following a history: the same as reading it whole, whatever happens to the file on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from alerts.simulated import ATTENTION, components, healthy, samples_of

from weibull_monitor import ConfigurationError, read_history
from weibull_monitor.history import HistoryWriter, RunRecord, follower
from weibull_monitor.history.follower import HistoryTail
from weibull_monitor.history.form import snapshot_from_json
from weibull_monitor.history.record import FILE

COMPONENTS = components()


def begin(where: Path, resumed_from: int | None = None, started: float = 1.0) -> Path:
    writer = HistoryWriter(where)
    writer.write_run(RunRecord(started, resumed_from, {}, 1, {}, COMPONENTS, {}, "0", attention=[ATTENTION]))
    writer.close()
    return writer.path


def lines(first: int = 0, last: int = 24, shift: float = 0.0) -> list[bytes]:
    """Samples as the history has them; ``shift`` is added to every k."""
    found = []
    for sample in samples_of(healthy())[first:last]:
        columns: dict[str, Any] = {name: list(values) for name, values in sample.columns.items()}
        columns["k"] = [k if k is None else k + shift for k in columns["k"]]
        line = {"type": "snapshot", "step": sample.step, "time": 10.0 * sample.step, "seconds": 0.5, **columns}
        found.append(json.dumps(line).encode() + b"\n")
    return found


def append(path: Path, *data: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(data))


def same(tail: HistoryTail, where: Path) -> None:
    """The tail knows what reading the whole history gives."""
    whole, known = read_history(where), tail.history()
    assert [point.step for point in tail.points] == [s.step for s in whole.snapshots]
    assert known.runs == whole.runs
    assert known.snapshots == (whole.snapshots[0], whole.snapshots[-1])
    assert known.alerts == whole.alerts


def test_each_line_is_read_once_and_gives_what_reading_the_whole_gives(tmp_path: Path) -> None:
    path, data = begin(tmp_path), lines()
    append(path, *data[:3])
    tail = HistoryTail(tmp_path)
    assert tail.poll()
    same(tail, tmp_path)
    assert not tail.poll()
    for line in data[3:]:
        append(path, line)
        assert tail.poll()
        same(tail, tmp_path)
    k = [dict(read_history(tmp_path).series(c.name)) for c in COMPONENTS if c.label == "attn_q"]
    for point in tail.points:
        values = sorted(series[point.step] for series in k)
        assert point.kinds["attn_q"] == pytest.approx((values[len(values) // 2] + values[~(len(values) // 2)]) / 2)
        assert point.seconds == 0.5


def test_only_what_was_appended_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weibull_monitor.history.follower as module

    path, data = begin(tmp_path), lines()
    append(path, *data[:20])
    tail = HistoryTail(tmp_path)
    tail.poll()
    parsed: list[int] = []
    parse = module.parsed
    monkeypatch.setattr(module, "parsed", lambda text: parsed.append(len(text)) or parse(text))
    tail.poll()
    assert parsed == []
    append(path, data[20])
    tail.poll()
    assert parsed == [len(data[20])]


def test_a_line_is_left_until_it_is_whole_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    path, data = begin(tmp_path), lines()
    append(path, data[0], data[1][:40])
    tail = HistoryTail(tmp_path)
    tail.poll()
    assert [point.step for point in tail.points] == [0]
    append(path, data[1][40:])
    tail.poll()
    same(tail, tmp_path)
    append(path, data[2][:50], b"\n", data[3])  # killed, and closed by the next writer
    tail.poll()
    assert [point.step for point in tail.points] == [0, 10, 30]
    same(tail, tmp_path)


def test_a_resumption_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path, data = begin(tmp_path), lines()
    append(path, *data[:10])
    tail = HistoryTail(tmp_path)
    tail.poll()
    begin(tmp_path, resumed_from=50)
    tail.poll()
    assert [point.step for point in tail.points] == [0, 10, 20, 30, 40, 50]
    same(tail, tmp_path)
    append(path, *lines(6, 8, shift=0.25))
    tail.poll()
    same(tail, tmp_path)
    assert tail.points[-1].kinds["attn_q"] == pytest.approx(read_median(tmp_path, "attn_q"))


def read_median(where: Path, label: str) -> float:
    last = read_history(where).snapshots[-1].values("k")
    values = sorted(last[c.name] for c in COMPONENTS if c.label == label)
    return (values[len(values) // 2] + values[~(len(values) // 2)]) / 2


def test_a_run_that_begins_anew_in_the_same_file_and_a_file_that_is_replaced_or_cut(tmp_path: Path) -> None:
    path, data = begin(tmp_path), lines()
    append(path, *data[:10])
    tail = HistoryTail(tmp_path)
    tail.poll()
    begin(tmp_path, started=2.0)
    append(path, *data[:2])
    tail.poll()
    same(tail, tmp_path)
    for started, replace in enumerate((lambda: path.unlink(), lambda: os.truncate(path, 0)), start=3):
        replace()
        begin(tmp_path, started=started)
        append(path, *lines(0, 24))  # longer than before
        assert tail.poll()
        assert len(tail.points) == 24
        same(tail, tmp_path)


def test_a_history_that_is_not_there_yet_and_one_that_goes_away(tmp_path: Path) -> None:
    tail = HistoryTail(tmp_path / "run")
    assert not tail.poll()
    assert tail.file is None
    assert tail.waits_for == tmp_path / "run" / FILE
    path = begin(tmp_path / "run")
    assert tail.poll()
    assert tail.history().snapshots == ()
    append(path, *lines(0, 2))
    tail.poll()
    path.unlink()
    assert tail.poll()
    assert not tail.points


def test_a_newer_schema_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"type": "run", "schema": 99, "resumed_from": null}\n')
    with pytest.raises(ConfigurationError, match="has schema 99, this version reads up to 1; upgrade"):
        HistoryTail(path).poll()


def test_of_many_samples_some_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "MANY", 8)
    read: list[int] = []

    def counted(line: Any, run: Any) -> Any:
        read.append(line["step"])
        return snapshot_from_json(line, run)

    monkeypatch.setattr(follower, "snapshot_from_json", counted)
    path, data = begin(tmp_path), [json.loads(line) for line in lines()]
    written = [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in data]
    append(path, *written[:20])
    tail = HistoryTail(tmp_path)
    tail.poll()
    steps = [line["step"] for line in data]
    assert [point.step for point in tail.points] == [*steps[:20:4], steps[19]]
    assert (tail.samples, tail.seconds) == (20, 9.5)
    assert tail.history().snapshots[-1].step == steps[19]
    append(path, *written[20:22])
    tail.poll()
    assert [point.step for point in tail.points] == [*steps[:22:4], steps[21]]
    read.clear()
    assert len(tail.points) == 7  # nothing is read twice
    assert not read
