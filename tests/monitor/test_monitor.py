from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from weibull_monitor import ConfigurationError, MemoryTracker, WeibullMonitor, fit_weibull, read_history

Train = Callable[..., list[float]]
Q0 = "layers.0.self_attn.q_proj.weight"


def adamw(model: nn.Module, **options: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-3, "weight_decay": 0.1, **options})


def test_samples_the_baseline_the_schedule_and_the_last_step(
    tmp_path: Path, tiny_model: nn.Module, train: Train
) -> None:
    tracker, optimizer = MemoryTracker(), adamw(tiny_model)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=10, output_dir=tmp_path, trackers=[tracker]) as monitor:
        train(tiny_model, optimizer, 23, monitor.step)
    expected = [0, 1, 2, 4, 8, 10, 16, 20, 23]
    assert [step for step, _ in tracker.records] == expected
    assert [s.step for s in read_history(tmp_path).snapshots] == expected
    assert tracker.closed


def test_a_sample_is_of_the_weights_of_its_step(tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    tracker, optimizer, kept = MemoryTracker(), adamw(tiny_model), {0: dict_of(tiny_model)}
    monitor = WeibullMonitor(
        tiny_model, optimizer, every_n_steps=3, output_dir=tmp_path, trackers=[tracker], detail="component"
    )

    def after() -> None:
        monitor.step()
        kept[len(kept)] = dict_of(tiny_model)

    train(tiny_model, optimizer, 7, after)
    monitor.close()
    assert [step for step, _ in tracker.records] == [0, 1, 2, 3, 4, 6, 7]
    for step, metrics in tracker.records:
        assert metrics[f"weibull_component/{Q0}/k"] == pytest.approx(fit_weibull(kept[step][Q0]).k, rel=1e-12)


def dict_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_rates_are_those_of_the_step_just_taken_by_group(tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    heads = [p for n, p in tiny_model.named_parameters() if "q_proj" in n]
    others = [p for n, p in tiny_model.named_parameters() if "q_proj" not in n]
    optimizer = torch.optim.AdamW(
        [{"params": heads, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.1}], lr=1e-2
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path)

    def after() -> None:
        monitor.step()
        scheduler.step()

    train(tiny_model, optimizer, 4, after)
    monitor.close()
    history = read_history(tmp_path)
    assert history.series(Q0, "eta") == [(s, 1e-2 * 0.5 ** (s - 1)) for s in (1, 2, 3, 4)]
    assert {w for _, w in history.series(Q0, "weight_decay")} == {0.0}
    assert {w for _, w in history.series("layers.1.mlp.fc1.weight", "weight_decay")} == {0.1}
    metrics = monitor.last.metrics() if monitor.last else {}
    assert "weibull_scaling/lambda_ratio/attn_q" not in metrics  # no weight decay: no value, not infinity
    assert metrics["weibull_scaling/lambda_ratio/ffn_in"] > 0


def test_training_is_bit_identical_with_and_without(tmp_path: Path, train: Train) -> None:
    from conftest import TinyModel

    runs = []
    for monitored in (False, True):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002 - the global state is what is tested
        model = TinyModel()
        optimizer = adamw(model)
        monitor = WeibullMonitor(model, optimizer, every_n_steps=2, output_dir=tmp_path) if monitored else None
        losses = train(model, optimizer, 12, monitor.step if monitor else lambda: None)
        runs.append((losses, dict_of(model), torch.get_rng_state(), np.random.get_state()[1].tolist()))  # noqa: NPY002
        if monitor:
            monitor.close()
    (losses, weights, state, numpy_state), again = runs
    assert losses == again[0]
    assert all(torch.equal(weights[name], again[1][name]) for name in weights)
    assert torch.equal(state, again[2])
    assert numpy_state == again[3]


class Raising:
    """A tracker that fails from some step on, as a lost connection would."""

    def __init__(self, after: int) -> None:
        self.after, self.calls = after, 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if step >= self.after:
            raise ConnectionError("the server is gone")

    def close(self) -> None:
        raise ConnectionError("still gone")


def test_a_tracker_that_raises_is_reported_once_and_stops_nothing(
    tmp_path: Path, tiny_model: nn.Module, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, optimizer = MemoryTracker(), Raising(after=2), adamw(tiny_model)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[bad, good]) as monitor:
        train(tiny_model, optimizer, 6, monitor.step)
    assert [step for step, _ in good.records] == list(range(7))
    assert len(read_history(tmp_path).snapshots) == 7
    assert bad.calls == 7  # it may come back
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2  # one for logging, one for closing
    assert "Raising" in warnings[0]
    assert "the server is gone" in warnings[0]
    assert "training continues" in warnings[0]


def test_a_disk_that_fails_is_reported_once_and_stops_nothing(
    tmp_path: Path,
    tiny_model: nn.Module,
    train: Train,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker, optimizer = MemoryTracker(), adamw(tiny_model)
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weibull_monitor.history.writer.os.write", full)
    train(tiny_model, optimizer, 3, monitor.step)
    monkeypatch.undo()
    train(tiny_model, optimizer, 2, monitor.step)
    monitor.close()
    assert [r.getMessage() for r in caplog.records if "No space left" in r.getMessage()]
    assert tracker.records[-1][0] == 5


def test_weights_that_turn_bad_are_counted_named_once_and_left_out(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MemoryTracker()
    monitor = WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path, trackers=[tracker])
    with torch.no_grad():
        tiny_model.layers[0].self_attn["q_proj"].weight.fill_(float("nan"))
    monitor.step()
    monitor.step()
    monitor.close()
    assert tracker.records[-1][1]["weibull_health/nonfinite"] == 1024
    assert tracker.records[-1][1]["weibull_health/components"] == 9
    assert sum(Q0 in r.getMessage() for r in caplog.records if "has no fit" in r.getMessage()) == 1
    assert sum(Q0 in r.getMessage() for r in caplog.records if "nonfinite (error)" in r.getMessage()) == 1
    assert dict(read_history(tmp_path).series(Q0, "nonfinite"))[2] == 1024


def test_many_matrices_with_one_trouble_are_one_warning(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        for layer in tiny_model.layers:
            layer.mlp["fc2"].weight.zero_()
    for name in ("a", "b", "c"):
        setattr(tiny_model, name, nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False))
    monitor = WeibullMonitor(tiny_model, every_n_steps=5, output_dir=tmp_path, alerts=False)
    for _ in range(20):
        monitor.step()
    monitor.close()
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "3 matrices cannot be measured: a and others, because its dtype is int8" in warnings[0]
    assert "2 matrices have no fit: layers.0.mlp.fc2.weight and others, because all 2048 finite" in warnings[1]


def test_what_a_model_is_made_with_is_not_warned_about(
    tmp_path: Path, tiny_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """A class token, scales of ones, and an output projection that begins at zero and learns."""
    caplog.set_level(logging.INFO)
    tiny_model.token = nn.Parameter(torch.randn(1, 1, 32))
    tiny_model.scale = nn.Parameter(torch.ones(4, 32))
    weight = tiny_model.layers[0].mlp["fc2"].weight
    nn.init.zeros_(weight)
    monitor = WeibullMonitor(tiny_model, every_n_steps=5, output_dir=tmp_path, alerts=False)
    monitor.step()
    with torch.no_grad():
        weight.copy_(torch.randn_like(weight))
    for _ in range(20):
        monitor.step()
    said = [(r.levelno, r.getMessage()) for r in caplog.records if "fit" in r.getMessage()]
    assert {level for level, _ in said} == {logging.INFO}
    told = " ".join(text for _, text in said)
    assert "1 matrix has no fit: token, because 32 of 32 values" in told
    assert "1 matrix has no fit yet: scale" in told
    assert "1 matrix has no fit yet: layers.0.mlp.fc2.weight, because all" in told
    with torch.no_grad():
        weight.zero_()
        tiny_model.token[0, 0, 0] = float("nan")
    for _ in range(5):
        monitor.step()
    monitor.close()
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warned) == 2
    assert any("fc2.weight, because all" in text for text in warned)
    assert any("token, because 31 of 32" in text for text in warned)


@pytest.mark.parametrize("frozen", ["read", "once"])
def test_what_needs_no_gradient_and_moves_all_the_same_is_read(
    frozen: str, tmp_path: Path, tiny_model: nn.Module, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    weight = tiny_model.layers[0].self_attn["q_proj"].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in tiny_model.parameters() if p.requires_grad], lr=1e-2)
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, frozen=frozen)
    train(tiny_model, optimizer, 2, monitor.step)
    with torch.no_grad():
        weight.mul_(4.0)
    train(tiny_model, optimizer, 1, monitor.step)
    monitor.close()
    first, second, third = (read_history(tmp_path).snapshots[i].values("lambda")[Q0] for i in (0, -2, -1))
    assert second == first
    assert third == pytest.approx(4 * first, rel=1e-6)
    assert ("frozen" in caplog.text) == (frozen == "once")  # the user said that it does not move


def test_parameters_that_come_and_go_are_followed(tmp_path: Path, tiny_model: nn.Module, train: Train) -> None:
    optimizer = adamw(tiny_model)
    monitor = WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path)
    train(tiny_model, optimizer, 1, monitor.step)
    tiny_model.extra = nn.Linear(32, 32)
    train(tiny_model, optimizer, 1, monitor.step)
    del tiny_model.extra
    train(tiny_model, optimizer, 1, monitor.step)
    monitor.close()
    history = read_history(tmp_path)
    assert [step for step, _ in history.series("extra.weight")] == [2]
    assert [step for step, _ in history.series(Q0)] == [0, 1, 2, 3]


def test_unchanged_counts_trainable_matrices_that_did_not_move(
    tmp_path: Path, tiny_model: nn.Module, train: Train
) -> None:
    tracker = MemoryTracker()
    moving = [p for n, p in tiny_model.named_parameters() if "layers.1" in n]
    stuck = [p for n, p in tiny_model.named_parameters() if "layers.0" in n]
    optimizer = torch.optim.AdamW([{"params": moving, "lr": 1e-2}, {"params": stuck, "lr": 1e-12}], weight_decay=0.0)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=1, output_dir=tmp_path, trackers=[tracker]) as monitor:
        train(tiny_model, optimizer, 2, monitor.step)
    assert "weibull_health/unchanged" not in tracker.records[0][1]
    assert [metrics["weibull_health/unchanged"] for _, metrics in tracker.records[1:]] == [5, 5]


def test_without_an_optimizer_there_is_no_scaling_law(tmp_path: Path, tiny_model: nn.Module) -> None:
    tracker = MemoryTracker()
    with WeibullMonitor(tiny_model, every_n_steps=1, output_dir=tmp_path, trackers=[tracker]) as monitor:
        monitor.step()
    assert [step for step, _ in tracker.records] == [0, 1]
    assert not any("scaling" in key for key in tracker.records[1][1])


def test_steps_may_be_counted_by_the_caller(tmp_path: Path, tiny_model: nn.Module) -> None:
    with WeibullMonitor(tiny_model, every_n_steps=50, output_dir=tmp_path) as monitor:
        for step in (49, 50, 51):
            monitor.step(step=step)
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 50, 51]


def test_a_schedule_may_be_any_function(tmp_path: Path, tiny_model: nn.Module) -> None:
    with WeibullMonitor(tiny_model, every_n_steps=lambda step: step in (3, 5), output_dir=tmp_path) as monitor:
        for _ in range(5):
            monitor.step()
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 3, 5]


def test_sample_on_demand_is_not_logged(tmp_path: Path, tiny_model: nn.Module) -> None:
    tracker = MemoryTracker()
    monitor = WeibullMonitor(tiny_model, output_dir=tmp_path, trackers=[tracker])
    for _ in range(3):
        monitor.step()
    snapshot = monitor.sample()
    assert snapshot.step == 3
    assert snapshot.fits[Q0].k == pytest.approx(fit_weibull(dict(tiny_model.named_parameters())[Q0]).k, rel=1e-12)
    assert "weibull_k/attn_q" in snapshot.metrics()
    assert [step for step, _ in tracker.records] == [0, 1, 2]
    monitor.close()
    monitor.close()
    monitor.step()  # after the end nothing more is written
    assert [step for step, _ in tracker.records] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every_n_steps": 0}, "at least 1"),
        ({"every_n_steps": -1}, "at least 1"),
        ({"detail": "head"}, '"kind" or "component"'),
        ({"trackers": ["tensorbored"]}, "'tensorbored' is not a tracker"),
        ({"trackers": "tensorboard"}, r"pass a list: trackers=\['tensorboard'\]"),
        ({"trackers": [3]}, "3 is not a tracker"),
        ({"kinds": {"q_proj": "attention"}}, "'attention' is not a kind; the kinds are attn_q"),
        ({"kinds": {"(": "attn_q"}}, "is not a regular expression"),
        ({"include": "nothing"}, "no parameter of two or more dimensions is left"),
    ],
    ids=str,
)
def test_wrong_options_are_typed_errors_at_construction(
    options: dict[str, object], says: str, tmp_path: Path, tiny_model: nn.Module
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        WeibullMonitor(tiny_model, output_dir=tmp_path, **options)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigurationError, match=r"Module has no weight matrix.*weight, because its dtype is int8"):
        WeibullMonitor(model, output_dir=tmp_path)


def test_the_table_that_the_first_batch_gives_says_so_and_repeats_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model.frozen = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    monitor = WeibullMonitor(model, output_dir=tmp_path, trackers=[])
    model(torch.randn(2, 8, 32))
    monitor.step()
    monitor.close()
    said = [r.getMessage() for r in caplog.records]
    tables = [text.splitlines()[0] for text in said if text.startswith("weibull_monitor measures")]
    assert tables == [
        "weibull_monitor measures",
        "weibull_monitor measures, now that the first batch has shown what each matrix does",
    ]
    assert sum("cannot be measured" in text for text in said if text not in tables) == 1
