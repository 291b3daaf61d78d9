"""Every situation under every host: the same losses, no false alert, no needless word, and every value that of an exact sort."""

from __future__ import annotations

import copy
import logging
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import exact_fit

from weibull_monitor import read_history
from weibull_monitor.history.record import History

pytest.importorskip("accelerate", reason="needs the transformers extra")
pytest.importorskip("lightning", reason="needs the lightning extra")
pytest.importorskip("transformers", reason="needs the transformers extra")

from .hosts import HOSTS, Host  # noqa: E402
from .situations import SITUATIONS, STEPS, Seen, Situation, Training  # noqa: E402

every_host = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
every_situation = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.name.replace(" ", "-"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    yield
    signal.signal(signal.SIGINT, before)


def agrees(history: History, training: Training) -> set[str]:
    """Every fit of every sample is that of the exact sort of what the layer used then. Gives the matrices that were compared."""
    compared = set()
    assert [s.step for s in history.snapshots] == list(range(STEPS + 1))
    for snapshot in history.snapshots:
        k, scale = snapshot.values("k"), snapshot.values("lambda")
        for component in snapshot.components:
            name = component.name
            weight = training.weights[snapshot.step][name]
            exact = exact_fit(weight)
            where = (snapshot.step, name)
            assert tuple(component.shape) == tuple(weight.shape), where
            assert k[component.name] == pytest.approx(exact[0], rel=1e-3), where
            assert scale[component.name] == pytest.approx(exact[1], rel=1e-3), where
            compared.add(name)
    return compared


@every_host
@every_situation
def test_in_the_wild(
    situation: Situation,
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    plain, _ = host(situation, tmp_path / "plain", False)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    caplog.clear()
    training, watchers = host(situation, tmp_path / "run", True)
    assert training.model.losses == plain.model.losses
    assert len(plain.model.losses) == STEPS

    said = [r.getMessage() for r in caplog.records if r.name == "weibull_monitor" and r.levelno >= logging.WARNING]
    assert all(any(part in message for part in situation.says) for message in said), said
    files = sorted((tmp_path / "run" / "weibull").rglob("history.jsonl"))
    assert len(files) == len(watchers) == len(list(tmp_path.rglob("history.jsonl")))
    compared = set()
    for file in files:
        history = read_history(file)
        found = {a.finding.rule for a in history.alerts if a.finding.severity != "info"}
        assert found == set(situation.alerts), history.alerts
        compared |= agrees(history, training)
        situation.expects(Seen(history, training, said))
    assert compared == set(training.weights[STEPS])
    for watcher in watchers:  # Ray, submitit and spawned processes take callbacks along
        pickle.loads(pickle.dumps(watcher))
        copy.deepcopy(watcher)
