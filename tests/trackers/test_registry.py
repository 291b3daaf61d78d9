"""One tuple lists the trackers: names, `report_to`, Lightning's loggers and Accelerate all read it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_conformance import TRACKERS as READ_BACK
from trackers.test_one_run import READERS

from weibull_monitor import ConfigurationError, WeibullMonitor
from weibull_monitor.errors import Guard
from weibull_monitor.history import Snapshot
from weibull_monitor.trackers import as_trackers, registry
from weibull_monitor.trackers.base import Host, NamedTracker, Tracker

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FILES = sorted(file.stem for file in (ROOT / "weibull_monitor" / "trackers").glob("*.py") if file.stem != "__init__")


class ToyRun:
    """The run of an invented library."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.drawn: list[int] = []


class ToyTracker(NamedTracker):
    """All that a new tracker's file has to hold."""

    name = extra = "toy"
    active: ToyRun | None = None

    def __init__(self, run: ToyRun) -> None:
        self.run = run

    @classmethod
    def in_directory(cls, directory: Path) -> Tracker:
        return cls(ToyRun())

    @classmethod
    def of_active_run(cls, host: Host) -> Tracker | None:
        return cls.of_run(cls.active, host)

    @classmethod
    def of_run(cls, run: Any, host: Host) -> Tracker | None:
        return cls(run) if isinstance(run, ToyRun) else None

    def extra_values(self, step: int) -> Mapping[str, float]:
        return {"toy": 1.0}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.rows.append((step, {**metrics, **self.extra_values(step)}))

    def picture(self, snapshot: Snapshot, step: int | None = None) -> None:
        self.run.drawn.append(snapshot.step if step is None else step)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _one_line(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "toy" in request.node.name:
        monkeypatch.setattr(registry, "TRACKERS", (*registry.TRACKERS, ToyTracker))


def test_a_toy_tracker_is_served_by_name(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    (tracker,) = as_trackers(["toy"], tmp_path)
    assert isinstance(tracker, ToyTracker)
    with WeibullMonitor(tiny_model, output_dir=tmp_path, trackers=["toy"]) as monitor:
        monitor.step()
    with pytest.raises(ConfigurationError, match="'toyy' is not a tracker; did you mean 'toy'"):
        as_trackers(["toyy"], tmp_path)


def test_a_toy_tracker_is_served_by_report_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("transformers", reason="needs the transformers extra")
    from weibull_monitor.integrations.report_to import trackers_of

    arguments: Any = SimpleNamespace(report_to=["toy"], output_dir=str(tmp_path))
    assert trackers_of(arguments, Guard()) == []
    assert "report_to has 'toy', but it has no active run" in caplog.text
    monkeypatch.setattr(ToyTracker, "active", ToyRun())
    (tracker,) = trackers_of(arguments, Guard())
    assert isinstance(tracker, ToyTracker)
    assert tracker.run is ToyTracker.active
    arguments.report_to = ["tooy"]
    assert trackers_of(arguments, Guard()) == []
    assert "pass trackers=[...] with tensorboard, wandb, mlflow, trackio, comet_ml, " in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_toy_tracker_is_served_by_a_lightning_logger(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs the lightning extra")
    from every_host import SAMPLED, STEPS, Lit, Stream
    from lightning.pytorch.loggers import Logger

    from weibull_monitor.integrations.lightning import WeibullCallback

    class ToyLogger(Logger):  # type: ignore[misc]
        name, version, experiment = "toy's", 0, ToyRun()

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            pass

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.experiment.rows.append((step or 0, metrics))

    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    lightning.Trainer(
        max_steps=STEPS,
        logger=ToyLogger(),
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        callbacks=[WeibullCallback(every_n_steps=5)],
        **options,
    ).fit(Lit(), torch.utils.data.DataLoader(Stream(), batch_size=None))
    rows = [row for _, row in ToyLogger.experiment.rows if "weibull_k/attn_q" in row]
    assert len(rows) == len(SAMPLED)
    assert all(row["toy"] == 1.0 for row in rows)
    assert ToyLogger.experiment.drawn == [STEPS]


def test_a_toy_tracker_is_served_by_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs the transformers extra")
    from weibull_monitor.integrations.accelerate import trackers_of

    class ToyOfAccelerate(accelerate.tracking.GeneralTracker):  # type: ignore[name-defined,misc]
        name, requires_logging_directory, tracker = "toy", False, ToyRun()

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            pass

        def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
            pass

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, log_with=ToyOfAccelerate())
    accelerator.init_trackers("x")
    (tracker,) = trackers_of(accelerator)
    assert isinstance(tracker, ToyTracker)
    assert tracker.run is ToyOfAccelerate.tracker


@pytest.mark.parametrize("stem", FILES)
def test_every_tracker_in_a_file_is_in_the_tuple(stem: str) -> None:
    module = import_module(f"weibull_monitor.trackers.{stem}")
    defined = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    for found in defined:
        if issubclass(found, NamedTracker) and not inspect.isabstract(found):
            assert found in registry.TRACKERS, f"{found.__name__} is not in weibull_monitor/trackers/registry.py"


def test_names_are_distinct_and_every_extra_is_in_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [tracker.name for tracker in registry.TRACKERS]
    assert len(set(names)) == len(names)
    for extra in (tracker.extra for tracker in registry.TRACKERS if tracker.extra):
        assert extra in extras
        if extra not in READERS:  # many and large: whoever uses one has it
            assert extra in extras["all"][0].partition("[")[2].rstrip("]").split(",")


def test_every_tracker_with_a_library_is_read_back() -> None:
    assert {*READ_BACK, *READERS} == {tracker.name for tracker in registry.TRACKERS if tracker.extra}


def test_a_name_that_is_not_near_any_other_gets_the_list_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        as_trackers(["pluto"], tmp_path)
    assert str(raised.value) == f"'pluto' is not a tracker; pass one of {registry.choices()}"
