"""`weibull_monitor.autolog`: each Trainer that is made has the callback, once; undone, the frameworks are as they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weibull_monitor
from weibull_monitor import ConfigurationError

lightning = pytest.importorskip("lightning.pytorch", reason="needs the lightning extra")
transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.demos.boring_classes import BoringModel  # noqa: E402
from small_trainer import steps, trainer  # noqa: E402
from transformers.trainer_callback import CallbackHandler  # noqa: E402

from weibull_monitor.integrations.lightning import WeibullCallback as LightningCallback  # noqa: E402
from weibull_monitor.integrations.transformers import WeibullCallback  # noqa: E402


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    before = [dict(vars(changed)) for changed in (CallbackHandler, lightning.Trainer)]
    yield
    weibull_monitor.autolog(disable=True)
    assert [dict(vars(changed)) for changed in (CallbackHandler, lightning.Trainer)] == before
    assert not [finder for finder in sys.meta_path if getattr(finder, "__module__", "").startswith("weibull_monitor")]


def ours(host: Any) -> list[Any]:
    """The callbacks of ours in a Trainer of either framework."""
    callbacks = host.callbacks if hasattr(host, "callbacks") else host.callback_handler.callbacks
    return [callback for callback in callbacks if isinstance(callback, WeibullCallback | LightningCallback)]


def lit(where: Path, *callbacks: Any) -> Any:
    return lightning.Trainer(
        default_root_dir=where,
        max_steps=3,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_trainer_of_transformers_samples_with_the_options(tmp_path: Path) -> None:
    weibull_monitor.autolog(every_n_steps=3)
    run = trainer(tmp_path)
    run.train()
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 6]
    assert len(ours(run)) == 1


def test_a_trainer_of_lightning_samples_before_checkpoints_are_saved(tmp_path: Path) -> None:
    weibull_monitor.autolog(every_n_steps=3)
    run = lit(tmp_path)
    run.fit(BoringModel())
    assert steps(tmp_path) == [0, 1, 2, 3]
    assert isinstance(run.callbacks[-1], ModelCheckpoint)


def test_the_loss_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    def losses(where: str) -> list[float]:
        run = trainer(tmp_path / where)
        run.train()
        return [row["loss"] for row in run.state.log_history if "loss" in row]

    plain = losses("plain")
    weibull_monitor.autolog(every_n_steps=1)
    assert losses("ours") == plain


def test_the_users_own_callback_stays_alone(tmp_path: Path) -> None:
    weibull_monitor.autolog()
    own, other = WeibullCallback(every_n_steps=7), LightningCallback(every_n_steps=7)
    assert ours(trainer(tmp_path, own)) == [own]
    later = trainer(tmp_path)
    later.add_callback(own)
    assert ours(later) == [own]
    later = trainer(tmp_path)
    later.add_callback(WeibullCallback)
    assert len(ours(later)) == 1
    later = trainer(tmp_path)
    later.remove_callback(WeibullCallback)
    assert ours(later) == []
    assert ours(lit(tmp_path, other)) == [other]
    run = lit(tmp_path)
    run.callbacks.append(other)
    run.fit(BoringModel())
    assert ours(run) == [other]


def test_a_second_call_replaces_the_options_and_the_last_undoes_all(tmp_path: Path) -> None:
    weibull_monitor.autolog(every_n_steps=1)
    before = trainer(tmp_path)
    weibull_monitor.autolog(every_n_steps=2, detail="component")
    (now,) = ours(trainer(tmp_path))
    assert now._options["every_n_steps"] == 2
    assert len(ours(lit(tmp_path))) == 1
    weibull_monitor.autolog(disable=True)
    assert ours(trainer(tmp_path)) == ours(lit(tmp_path)) == []
    assert len(ours(before)) == 1


def test_trackers_from_an_iterator_are_there_for_each_trainer(tmp_path: Path) -> None:
    tracker = weibull_monitor.MemoryTracker()
    weibull_monitor.autolog(trackers=iter([tracker]))
    for place in ("a", "b"):
        trainer(tmp_path / place, max_steps=1).train()
    assert [step for step, _ in tracker.records] == [0, 1, 0, 1]


def test_another_tool_that_wraps_the_same_method_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = CallbackHandler.__init__
    weibull_monitor.autolog()
    wrapped = CallbackHandler.__init__
    with monkeypatch.context() as patch:
        patch.setattr(CallbackHandler, "__init__", lambda self, *args: wrapped(self, *args))
        weibull_monitor.autolog(disable=True)
        assert ours(trainer(tmp_path)) == []
        weibull_monitor.autolog()
        assert len(ours(trainer(tmp_path))) == 1
        weibull_monitor.autolog(disable=True)
    CallbackHandler.__init__ = theirs  # type: ignore[method-assign]


def test_a_failure_costs_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    weibull_monitor.autolog()
    monkeypatch.setattr(WeibullCallback, "__init__", fail)
    trainer(tmp_path).train()
    assert "adding the callback failed and is skipped (MemoryError: no room)" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"every_n_step": 3}, TypeError, "autolog has no option 'every_n_step'; did you mean 'every_n_steps'"),
        ({"total_steps": 3}, TypeError, "autolog has no option 'total_steps'"),
        ({"disable": True, "every_n_steps": 3}, TypeError, "takes no options, but was given every_n_steps"),
        ({"every_n_steps": 0}, ConfigurationError, "every_n_steps"),
        ({"trackers": ["tensorbord"]}, ConfigurationError, "did you mean 'tensorboard'"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        weibull_monitor.autolog(**options)


def test_frameworks_are_changed_when_the_program_imports_them() -> None:
    program = """
import sys, importlib.util
from weibull_monitor.integrations import trainers
trainers.install({})
before = [name for name in ("torch", "transformers", "lightning") if name in sys.modules]
import lightning.pytorch.trainer.trainer as module
print(before, trainers._replaced[0][0] is module.Trainer, "exec_module" in vars(module.__spec__.loader))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True False"
