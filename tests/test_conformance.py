"""What every integration and every tracker has to do, through one suite: the same training gives the same samples."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import stores
import torch
from every_host import EVERY, HOSTS, SAMPLED, SAVED, STEPS, Network, Stream, Train, bare, with_transformers

from weibull_monitor import MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.history.columns import COLUMNS, WRITES
from weibull_monitor.history.record import History, RunRecord
from weibull_monitor.history.snapshot import Snapshot

accelerate = pytest.importorskip("accelerate", reason="needs the transformers extra")
lightning = pytest.importorskip("lightning", reason="needs the lightning extra")
transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from weibull_monitor.integrations.transformers import WeibullCallback as TransformersCallback  # noqa: E402

every_host = pytest.mark.parametrize("train", HOSTS.values(), ids=HOSTS)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning switches it off when it is interrupted


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, MemoryTracker]:
    """The samples of an uninterrupted run of the bare loop."""
    where, tracker = tmp_path_factory.mktemp("expected"), MemoryTracker()
    bare(where, [tracker])
    return read_history(where), tracker


def content(history: History) -> dict[int, Mapping[str, Any]]:
    """Every value of every sample, to the last digit; but not what was seen of single steps, which begins anew when resumed."""
    kept = [{n: values for n, values in s.columns.items() if n not in WRITES} for s in history.snapshots]
    return {
        s.step: {"names": [c.name for c in s.components], **columns}
        for s, columns in zip(history.snapshots, kept, strict=True)
    }


def logged(tracker: MemoryTracker) -> list[tuple[int, dict[str, float]]]:
    return [
        (step, {k: v for k, v in metrics.items() if k != "weibull_health/seconds"}) for step, metrics in tracker.records
    ]


def test_the_reference_run_is_what_it_should_be(expected: tuple[History, MemoryTracker]) -> None:
    history, tracker = expected
    assert [s.step for s in history.snapshots] == [step for step, _ in tracker.records] == SAMPLED
    assert {c.kind for c in history.components} == {"attn_q", "attn_k", "ffn_in", "ffn_out"}
    rates = dict(history.series("self_attn.q_proj.weight", "eta"))
    assert rates == pytest.approx({step: 3e-3 * step / STEPS for step in SAMPLED[1:]}, rel=1e-8)
    assert len({k for _, k in history.series("self_attn.q_proj.weight")}) == len(SAMPLED)  # the weights do move
    foretold = dict(history.series("self_attn.q_proj.weight", "lambda_forecast"))
    assert list(foretold) == [4, 5, 8, 10, 12]  # by every host, from a quarter of the run on
    assert foretold[12] == dict(history.series("self_attn.q_proj.weight", "lambda"))[12]
    assert all(len(values) == 4 for s in history.snapshots for values in (s.columns[c] for c in COLUMNS))


@every_host
def test_the_same_training_gives_the_same_samples_to_the_last_digit(
    train: Train, tmp_path: Path, expected: tuple[History, MemoryTracker]
) -> None:
    tracker = MemoryTracker()
    train(tmp_path, [tracker])
    assert content(read_history(tmp_path)) == content(expected[0])
    assert logged(tracker) == logged(expected[1])
    assert tracker.closed


@every_host
def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(
    train: Train, tmp_path: Path, expected: tuple[History, MemoryTracker]
) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        train(tmp_path, raises={9: RuntimeError("out of memory")})  # after the checkpoint, and after a sample
    tracker = MemoryTracker()
    train(tmp_path, [tracker], resume=True)
    history = read_history(tmp_path)
    assert content(history) == content(expected[0])
    assert [run.resumed_from for run in history.runs] == [None, SAVED]
    # Drift and budget ratio go on as well, from a baseline of the nine digits that the history keeps.
    wanted = [(step, dict(metrics)) for step, metrics in logged(expected[1]) if step > SAVED]
    del wanted[0][1]["weibull_health/unchanged"]  # since the sample before, which is not known
    assert logged(tracker) == [(step, pytest.approx(metrics, rel=1e-5, abs=1e-6)) for step, metrics in wanted]
    assert {"weibull_class/selection_drift_pct", "weibull_scaling/budget_ratio/attn_q"} <= set(tracker.records[-1][1])


@every_host
def test_an_interrupted_training_has_written_all_that_was_sampled(
    train: Train, tmp_path: Path, expected: tuple[History, MemoryTracker]
) -> None:
    tracker = MemoryTracker()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path, [tracker], raises={9: KeyboardInterrupt()})
    written = {step: values for step, values in content(read_history(tmp_path)).items() if step in SAMPLED}
    assert written == {step: values for step, values in content(expected[0]).items() if step <= 9}
    assert [step for step, _ in tracker.records if step in SAMPLED] == [0, 1, 2, 4, 5, 8]


@every_host
def test_a_tracker_that_raises_stops_neither_training_nor_the_others(
    train: Train, tmp_path: Path, expected: tuple[History, MemoryTracker], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryTracker):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            raise ConnectionError("no route to host")

        def close(self) -> None:
            raise ConnectionError("no route to host")

    good = MemoryTracker()
    train(tmp_path, [Broken(), good])
    assert content(read_history(tmp_path)) == content(expected[0])
    assert logged(good) == logged(expected[1])
    assert caplog.text.count("logging to Broken failed") == 1
    assert caplog.text.count("closing Broken failed") == 1


class Draws(MemoryTracker):
    """A tracker with the three optional methods."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def begin(self, record: RunRecord) -> None:
        self.calls.append(("begins", len(record.components)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        super().log(metrics, step)
        self.calls.append(("sample", step))

    def picture(self, snapshot: Snapshot) -> None:
        self.calls.append(("picture", snapshot.step))


@every_host
def test_a_tracker_gets_the_run_before_its_samples_and_draws_the_last(train: Train, tmp_path: Path) -> None:
    tracker = Draws()
    train(tmp_path, [tracker])
    samples = [("sample", step) for step in SAMPLED]
    assert tracker.calls == [("begins", 4), *samples, ("picture", STEPS)]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "interrupted", [interrupted := Draws()], raises={9: KeyboardInterrupt()})
    if train is not with_transformers:  # which does not call callbacks after an exception
        assert interrupted.calls[-1][0] == "picture"  # of the last sample that there is


@every_host
def test_a_picture_that_raises_stops_nothing(train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Draws):
        def begin(self, record: RunRecord) -> None:
            raise ValueError("no layout")

        def picture(self, snapshot: Snapshot) -> None:
            raise ValueError("no picture")

    broken, good = Broken(), Draws()
    train(tmp_path, [broken, good])
    assert [step for step, _ in broken.records] == SAMPLED
    assert good.calls[-1] == ("picture", STEPS)
    assert caplog.text.count("no layout") == caplog.text.count("no picture") == 1


@every_host
def test_a_schedule_that_raises_stops_nothing(train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, every=lambda step: step / 0)
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, STEPS]
    assert caplog.text.count("asking the schedule failed") == 1


@every_host
def test_components_by_name_and_a_function_of_the_step(train: Train, tmp_path: Path) -> None:
    train(tmp_path, every=lambda step: step in (3, 7))
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 3, 7, STEPS]


@every_host
def test_nothing_draws_from_the_global_random_state(train: Train, tmp_path: Path) -> None:
    def state_after(every: int) -> torch.Tensor:
        torch.manual_seed(5)
        with contextlib.redirect_stdout(None):
            train(tmp_path / str(every), every=every)
        return torch.get_rng_state()

    assert torch.equal(state_after(1), state_after(1000))


def test_two_callbacks_in_one_transformers_trainer_log_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = MemoryTracker(), MemoryTracker()
    trainer = transformers.Trainer(
        Network(),
        transformers.TrainingArguments(output_dir=str(tmp_path), max_steps=3, report_to="none", use_cpu=True),
        train_dataset=Stream(),
        data_collator=lambda examples: examples[0],
        callbacks=[TransformersCallback(1, trackers=[tracker]) for tracker in (first, second)],
    )
    trainer.train()
    assert first.records == []
    assert [step for step, _ in second.records] == [0, 1, 2, 3]
    assert (tmp_path / "weibull" / "history.jsonl").read_text().count('"type":"snapshot"') == 4
    assert caplog.text.count("another monitor writes to") == 1


def test_report_to_mlflow_and_trackio_and_what_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs the mlflow extra")
    pytest.importorskip("trackio", reason="needs the trackio extra")
    monkeypatch.chdir(tmp_path)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        run_name="from-report-to",
        max_steps=STEPS,
        per_device_train_batch_size=1,
        logging_steps=1,
        save_strategy="no",
        report_to=["mlflow", "trackio"],
        trackio_static_space_id=False,
        project="conformance",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        Network(),
        arguments,
        train_dataset=Stream(),
        data_collator=lambda examples: examples[0],
        callbacks=[TransformersCallback(every_n_steps=EVERY)],
    )
    arguments.report_to = [*arguments.report_to, "codecarbon"]  # as if its own callback were there
    trainer.train()
    assert caplog.text.count("weibull_monitor has no tracker for report_to='codecarbon'; pass trackers=[...]") == 1
    k = dict(read_history(tmp_path).series("self_attn.q_proj.weight"))
    assert list(k) == SAMPLED
    for curves in (
        stores.mlflow_curves("from-report-to"),
        stores.trackio_curves("from-report-to", "conformance", "train/global_step"),
    ):
        assert curves["weibull_k/attn_q"] == [(step, pytest.approx(k[step], rel=1e-8)) for step in SAMPLED]
        assert {step for step, _ in curves.get("loss") or curves["train/loss"]} == set(range(1, STEPS + 1))


TRACKERS: dict[str, Callable[[Path], stores.Curves]] = {
    "tensorboard": stores.tensorboard_curves,
    "wandb": stores.wandb_curves,
    "mlflow": lambda where: stores.mlflow_curves(where.name),
    "trackio": lambda where: stores.trackio_curves(where.name),
}


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_by_name_has_every_value_once(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name, reason=f"needs the {name} extra")
    memory = MemoryTracker()
    where = tmp_path / f"run-{name}"
    bare(where, [name, memory])
    wanted: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in memory.records:
        for key, value in metrics.items():
            wanted.setdefault(key, []).append((step, pytest.approx(value, rel=1e-6)))  # TensorBoard keeps 32 bits
    assert {key: points for key, points in TRACKERS[name](where).items() if key in wanted} == wanted
    assert len(wanted) > 30


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_may_be_closed_by_a_monitor_that_is_closed_twice(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name, reason=f"needs the {name} extra")
    where = tmp_path / f"twice-{name}"
    monitor = WeibullMonitor(Network(), output_dir=where, trackers=[name])
    monitor.step()
    monitor.close()
    lines = (where / "weibull" / "history.jsonl").read_bytes()
    monitor.close()
    monitor.step()
    assert (where / "weibull" / "history.jsonl").read_bytes() == lines
    assert [step for step, _ in TRACKERS[name](where)["weibull_k/attn_q"]] == [0, 1]
