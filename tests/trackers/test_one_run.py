"""The trackers with one run object, each against its library's own files on this machine, read back.

A library that is not installed is skipped. Each runs in a process of its own: some change the whole process for good.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from weibull_monitor import MissingDependencyError
from weibull_monitor.trackers.base import Host
from weibull_monitor.trackers.one_run import OneRunTracker
from weibull_monitor.trackers.registry import TRACKERS, check_trackers, named

NAMES = [tracker.name for tracker in TRACKERS if issubclass(tracker, OneRunTracker)]
OFFLINE = {
    "COMET_START_ONLINE": "0",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "CLEARML_OFFLINE_MODE": "1",
    "CLEARML_CONFIG_FILE": "none.conf",
    "NEPTUNE_MODE": "offline",
    "SWANLAB_MODE": "offline",
    "DVC_NO_ANALYTICS": "true",
}
METRICS = {"weibull_k/attn_q": 1.2, "weibull_component/h.0.c_attn.weight[q]/k": 0.9}

OWN = """
from pathlib import Path
from weibull_monitor.trackers.registry import named
tracker = named(NAME).in_directory(Path("own-run").absolute())
for step in (0, 1, 100):
    tracker.log({key: value + step for key, value in METRICS.items()}, step)
tracker.close()
tracker.close()
"""
START = {
    "comet_ml": "import comet_ml; run = comet_ml.start(); log = lambda step: run.log_metric('loss', 2.5, step=step)",
    "clearml": "import clearml; run = clearml.Task.init('theirs', 'theirs', auto_connect_arg_parser=False)\n"
    "log = lambda step: run.get_logger().report_scalar('of', 'loss', 2.5, step)",
    "neptune": "import neptune; run = neptune.init_run()\nlog = lambda step: run['loss'].append(2.5, step=step)",
    "swanlab": "import swanlab; run = swanlab.init(project='x'); log = lambda step: run.log({'loss': 2.5}, step=step)",
    "aim": "import aim; run = aim.Run(system_tracking_interval=None); log = lambda step: run.track(2.5, name='loss', step=step)",
    "dvclive": "import dvclive; run = dvclive.Live('own-run/dvclive', save_dvc_exp=False, dvcyaml=None)\n"
    "log = lambda step: (run.log_metric('loss', 2.5), run.next_step())",
}
END = {"clearml": "close", "neptune": "stop", "swanlab": "finish", "aim": "close"}
THEIRS = """
from weibull_monitor.trackers.base import Host
from weibull_monitor.trackers.registry import named, tracker_of_run
log(0)
tracker = named(NAME).of_active_run(Host(held=[None, 3, run]))
tracker.log(METRICS, 700)
tracker.close()
again = tracker_of_run(run, Host())
assert type(again) is type(tracker), again
log(1)
getattr(run, END)()
"""


def swanlab_points(where: Path) -> Iterator[tuple[str, int, float]]:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    (file,) = where.rglob("*.swanlab")
    reader = DataStoreReader()
    reader.open(file)
    for line in reader:
        record = Record()
        record.ParseFromString(line)
        if record.HasField("scalar"):
            yield record.scalar.key, record.scalar.step, record.scalar.value.number


def comet_points(where: Path) -> Iterator[tuple[str, int, float]]:
    (file,) = where.glob("*.zip")
    for line in zipfile.ZipFile(file).read("messages.json").splitlines():
        if (message := json.loads(line))["type"] == "metric_msg":
            metric = message["payload"]["metric"]
            yield metric["metricName"], metric["step"], metric["metricValue"]


def clearml_points(where: Path) -> Iterator[tuple[str, int, float]]:
    (file,) = where.rglob("metrics.jsonl")
    for line in file.read_text().splitlines():
        for point in json.loads(line):
            yield f"{point['metric']}/{point['variant']}", point["iter"], point["value"]


def neptune_points(where: Path) -> Iterator[tuple[str, int, float]]:
    (file,) = where.rglob("data-1.log")
    decoder, text = json.JSONDecoder(), file.read_bytes().decode(errors="replace")
    while (start := text.find('{"obj"')) >= 0:
        operation, end = decoder.raw_decode(text[start:])
        text = text[start + end :]
        for value in operation["obj"].get("values", []) if operation["obj"]["type"] == "LogFloats" else []:
            yield "/".join(operation["obj"]["path"]), value["step"], value["value"]


def aim_points(where: Path) -> Iterator[tuple[str, int, float]]:
    import aim
    from aim.storage.context import Context

    repository = aim.Repo(str(where))
    (name,) = repository.list_all_runs()
    run = aim.Run(name, repo=repository, system_tracking_interval=None)
    for info in run.collect_sequence_info(("metric",))["metric"]:
        rows = run.get_metric(info["name"], Context(info["context"])).dataframe()
        yield from ((info["name"], int(row.step), float(row.value)) for row in rows.sort_values("step").itertuples())
    run.close()


def dvclive_points(where: Path) -> Iterator[tuple[str, int, float]]:
    place = where / "own-run" / "dvclive" / "plots" / "metrics"
    for file in place.rglob("*.tsv"):
        with file.open() as table:
            for row in csv.DictReader(table, delimiter="\t"):
                yield file.relative_to(place).with_suffix("").as_posix(), int(row["step"]), float(row[file.stem])


READERS = {
    "comet_ml": comet_points,
    "clearml": clearml_points,
    "neptune": neptune_points,
    "swanlab": swanlab_points,
    "aim": aim_points,
    "dvclive": dvclive_points,
}


def written(name: str, program: str, where: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that a program leaves in a store on this machine."""
    if find_spec(name) is None:
        pytest.skip(f"needs {name}")
    head = f"NAME, END, METRICS = {name!r}, {END.get(name, 'end')!r}, {METRICS!r}\n"
    places = {"COMET_OFFLINE_DIRECTORY": str(where), "CLEARML_CACHE_DIR": str(where)}
    done = subprocess.run(
        [sys.executable, "-c", head + program],
        cwd=where,
        env=os.environ | OFFLINE | places,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    curves = defaultdict(list)
    for key, step, value in READERS[name](where):
        curves[key].append((step, value))
    return curves


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_its_own_is_begun_written_and_ended(name: str, tmp_path: Path) -> None:
    curves = written(name, OWN, tmp_path)
    for key, value in METRICS.items():
        assert curves[key] == [(step, pytest.approx(value + step)) for step in (0, 1, 100)], key


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_the_users_is_written_to_and_left_open(name: str, tmp_path: Path) -> None:
    curves = written(name, START[name] + THEIRS, tmp_path)
    for key, value in METRICS.items():
        assert curves[key] == [(700, pytest.approx(value))]
    theirs = curves["of/loss" if name == "clearml" else "loss"]
    assert theirs == [(0, 2.5), (1, 2.5)]  # their own count goes on in ones


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for attempt in (lambda: check_trackers([name]), lambda: named(name)()):  # type: ignore[misc]
        with pytest.raises(MissingDependencyError, match=rf"pip install 'weibull-monitor\[{name}\]'"):
            attempt()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_run_is_not_taken_for_one(name: str) -> None:
    tracker: Any = named(name)
    assert [tracker.of_run(run, Host()) for run in (None, 3, "run", object(), Host())] == [None] * 5
