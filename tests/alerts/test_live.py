"""Alerts of real trainings: live as replayed, resumed as uninterrupted, delivered to real trackers, harmless when those fail."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyModel
from torch import nn

from weibull_monitor import ConfigurationError, MemoryTracker, WeibullMonitor, read_history
from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.history.alert import Alert

Train = Callable[..., list[float]]
Q = "layers.1.self_attn.q_proj.weight"
STEPS, FAULT, CHECKPOINT, UNDONE = 40, 22, 26, 30


class Run:
    """A training whose W_q is scaled by 8 after step 22, and back after step 30, sampled every second step."""

    def __init__(self, place: Path, state: dict[str, Any] | None = None, fault: bool = True, **options: Any) -> None:
        torch.manual_seed(3)
        self.model, self.fault = TinyModel(width=32), fault
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1)
        self.steps, resume = 0, None
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            self.steps, resume = state["steps"], json.loads(json.dumps(state["monitor"]))
        self.monitor = WeibullMonitor(
            self.model, self.optimizer, every_n_steps=2, output_dir=place, resume=resume, **options
        )

    def after(self) -> None:
        self.steps += 1
        self.monitor.step()
        if self.fault and self.steps in (FAULT, UNDONE):
            with torch.no_grad():
                self.model.get_parameter(Q).mul_(8.0 if self.steps == FAULT else 1.0 / 8.0)

    def state(self) -> dict[str, Any]:
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "random": torch.get_rng_state(),
            "steps": self.steps,
            "monitor": self.monitor.state_dict(),
        }


def grave(alerts: tuple[Alert, ...] | list[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.finding.severity != "info"]


def test_a_fault_is_told_live_recorded_and_replayed_alike(
    tmp_path: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="weibull_monitor")
    told: list[Alert] = []
    memory = MemoryTracker()
    run = Run(tmp_path, on_alert=told.append, trackers=[memory])
    train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    history = read_history(tmp_path)
    (first, *_) = grave(told)
    assert (first.phase, first.step, first.finding.rule, first.finding.component) == (
        "begins",
        24,
        "impossible_change",
        Q,
    )
    assert grave(list(history.alerts)) == told
    assert list(history.alerts) == replay(history.snapshots, AlertSettings(), history.runs[-1].attention)
    for alert in told:
        assert any(alert.text in record.getMessage() for record in caplog.records)
    active = {step: metrics["weibull_alerts/active"] for step, metrics in memory.records}
    assert active[FAULT] == 0.0
    assert active[24] >= 1.0
    assert len(history.snapshots) == len(memory.records)


def test_a_healthy_run_tells_nothing(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, fault=False)
    train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    assert grave(list(read_history(tmp_path).alerts)) == []


def test_a_resumed_run_has_the_alerts_of_an_uninterrupted_one(tmp_path: Path, train: Train) -> None:
    whole = Run(tmp_path / "whole")
    train(whole.model, whole.optimizer, STEPS, whole.after)
    whole.monitor.close()
    first = Run(tmp_path / "parts")
    train(first.model, first.optimizer, CHECKPOINT, first.after)
    state = first.state()
    assert "alerts" in state["monitor"]  # one stands
    train(first.model, first.optimizer, 4, first.after)  # lost, and told again
    second = Run(tmp_path / "parts", state)
    train(second.model, second.optimizer, STEPS - CHECKPOINT, second.after)
    second.monitor.close()
    expected, resumed = read_history(tmp_path / "whole"), read_history(tmp_path / "parts")
    assert resumed.alerts == expected.alerts
    assert grave(list(expected.alerts))
    assert [s.step for s in resumed.snapshots] == [s.step for s in expected.snapshots]


def test_an_optimizer_whose_state_was_lost_is_told_live_and_replayed(tmp_path: Path, train: Train) -> None:
    run = Run(tmp_path, fault=False)
    train(run.model, run.optimizer, FAULT, run.after)
    run.optimizer.state.clear()
    train(run.model, run.optimizer, 10, run.after)
    run.monitor.close()
    history = read_history(tmp_path)
    found = [(a.phase, a.step) for a in history.alerts if a.finding.rule == "optimizer_reset"]
    assert found == [("begins", FAULT + 2), ("ends", FAULT + 8)]
    assert list(history.alerts) == replay(history.snapshots, AlertSettings(), history.runs[-1].attention)


def test_alerts_can_be_switched_off(tmp_path: Path, train: Train) -> None:
    memory = MemoryTracker()
    run = Run(tmp_path, alerts=False, trackers=[memory])
    train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    assert read_history(tmp_path).alerts == ()
    assert not any("weibull_alerts" in key for _, metrics in memory.records for key in metrics)


def test_thresholds_are_the_users(tmp_path: Path, train: Train) -> None:
    rules = dict.fromkeys(("impossible_change", "scale_shift", "scale_runaway", "layer_outlier"), False)
    run = Run(tmp_path, alerts=rules)
    train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    assert not {a.finding.rule for a in read_history(tmp_path).alerts} & set(rules)


def test_an_on_alert_and_a_tracker_that_raise_stop_nothing(
    tmp_path: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(MemoryTracker):
        calls = 0

        def alert(self, alert: Alert) -> None:
            self.calls += 1
            raise ConnectionError("W&B is gone")

    def broken(alert: Alert) -> None:
        raise ValueError("a mistake of mine")

    tracker = Raising()
    run = Run(tmp_path, on_alert=broken, trackers=[tracker])
    losses = train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    assert len(losses) == STEPS
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [0, 1, *range(2, STEPS + 1, 2)]
    assert grave(list(history.alerts))
    assert tracker.calls == len(grave(list(history.alerts)))
    assert sum("a mistake of mine" in r.getMessage() for r in caplog.records) == 1
    assert sum("W&B is gone" in r.getMessage() for r in caplog.records) == 1


def test_a_rule_that_raises_stops_nothing(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from weibull_monitor.alerts.rules import RULES

    def broken(window: object, settings: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setitem(RULES, "dead", broken)
    memory = MemoryTracker()
    run = Run(tmp_path, trackers=[memory])
    train(run.model, run.optimizer, 6, run.after)
    run.monitor.close()
    assert len(read_history(tmp_path).snapshots) == len(memory.records) == 5
    assert sum("a bug of ours" in r.getMessage() for r in caplog.records) == 1


def test_tensorboard_has_the_text_and_a_marker(tmp_path: Path, train: Train) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path, trackers=["tensorboard"])
    train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    reader = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    marker = [(e.step, e.value) for e in reader.Scalars("weibull_alerts/impossible_change")]
    assert marker[0] == (24, 3.0)
    assert marker[-1][1] == 0.0  # its end
    (text, *_) = reader.Tensors("weibull_alerts/impossible_change/text_summary")
    assert text.step == 24
    assert Q in text.tensor_proto.string_val[0].decode()
    assert next(e.value for e in reader.Scalars("weibull_alerts/active") if e.step == 24) >= 1.0


def test_wandb_has_an_alert_of_its_level(tmp_path: Path, train: Train) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the wandb extra")
    from trackers.wandb_offline import finished

    run = Run(tmp_path, trackers=["wandb"])
    train(run.model, run.optimizer, STEPS, run.after)
    run.monitor.close()
    assert wandb.run is None
    alerts = [record.alert for record in finished(tmp_path) if record.WhichOneof("record_type") == "alert"]
    (mine, *_) = [a for a in alerts if a.title == "weibull: impossible_change (error)"]
    assert mine.level == "ERROR"
    assert Q in mine.text
    assert [a.level for a in alerts if a.title == "weibull: impossible_change is over"] == ["INFO"]


def test_stop_requested_tells_a_loop_of_your_own(tmp_path: Path, train: Train) -> None:
    for stop_on, expected in ((None, 0), ("error", 2), ("warning", 2)):
        run = Run(tmp_path / str(stop_on), stop_on=stop_on)
        train(run.model, run.optimizer, FAULT, run.after)
        assert run.monitor.stop_requested == 0
        train(run.model, run.optimizer, 2, run.after)
        assert run.monitor.stop_requested == expected
        run.monitor.close()


def test_weights_that_hold_nan_are_not_worth_saving(tmp_path: Path, tiny_model: nn.Module) -> None:
    monitor = WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path, stop_on="error")
    with torch.no_grad():
        tiny_model.get_parameter(Q).fill_(float("nan"))
    monitor.step()
    assert monitor.stop_requested == 1
    monitor.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alerts": {"selection_shift": {"zz": 1}}}, r"alerts\.selection_shift\.zz is not known"),
        ({"on_alert": "print"}, "on_alert is 'print'; pass a function"),
        ({"webhook": "hooks.example.com/secret"}, "webhook is not an http or https URL"),
        ({"stop_on": "always"}, "stop_on is 'always'; it must be one of info, warning, error"),
    ],
)
def test_wrong_options_are_typed_errors_at_construction(
    options: Mapping[str, Any], says: str, tmp_path: Path, tiny_model: nn.Module
) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        WeibullMonitor(tiny_model, output_dir=tmp_path, **options)
    assert "secret" not in str(raised.value).replace("may be a secret", "")


def test_a_webhook_of_a_run_is_posted_to(tmp_path: Path, train: Train) -> None:
    from alerts.test_webhook import SECRET, serving

    with serving() as server:
        run = Run(tmp_path, webhook=server.url)
        train(run.model, run.optimizer, 24, run.after)
        assert server.arrived.acquire(timeout=20)
        run.monitor.close()
    assert "impossible change" in server.bodies[0]["text"]
    assert "error" in server.bodies[0]["text"]
    assert str(tmp_path) in server.bodies[0]["text"]
    assert SECRET not in (tmp_path / "weibull/history.jsonl").read_text()
