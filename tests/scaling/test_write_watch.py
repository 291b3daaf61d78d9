"""What steps do to weights, and what is written to them between two steps: on real optimizers, through the monitor."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.measure.kernels.table import ELEMENTS
from weibull_monitor.scaling import elements
from weibull_monitor.scaling.elements import some_of
from weibull_monitor.scaling.write_watch import _Hook


@pytest.fixture(autouse=True, params=["views", "kernel"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements are read through views, and by the kernel, which is interpreted where there is no GPU."""
    if request.param == "kernel":
        pytest.importorskip("triton", reason="Triton is not on this platform: it comes with torch on Linux")
        if torch.cuda.is_available():
            pytest.skip("kernels are not interpreted where there is a GPU: test_cuda.py runs them there")
        from weibull_monitor.measure.kernels.launch import Kernels

        kernels = Kernels(torch.device("cpu"))
        monkeypatch.setattr(elements, "kernels_for", lambda device, dtype: kernels if device.type == "cpu" else None)


Call = Callable[[nn.Sequential, torch.optim.Optimizer], object]


def model(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 128), nn.GELU(), nn.Linear(128, 64)).to(**options)


def nothing(net: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    pass


def trained(
    place: Path,
    between: dict[int, Call],
    steps: int = 60,
    make: Any = torch.optim.AdamW,
    net: Any = None,
    early: dict[int, Call] | None = None,
    **options: Any,
) -> tuple[list[RecordedSnapshot], list[str]]:
    """The samples and alerts of a small training; ``between`` is called after these steps, ``early`` before their samples."""
    net = net or model()
    optimizer = make(net.parameters(), lr=1e-3)
    alerts: list[str] = []
    given = {"every_n_steps": 10, "output_dir": place, "on_alert": lambda a: alerts.append(a.finding.rule), **options}
    with WeibullMonitor(net, optimizer, **given) as monitor:
        for step in range(1, steps + 1):
            x = torch.randn(16, 64, dtype=net[0].weight.dtype)
            (net(x) - x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            (early or {}).get(step, nothing)(net, optimizer)
            monitor.step()
            between.get(step, nothing)(net, optimizer)
    return list(read_history(place).snapshots), alerts


def hooks_on(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The watch's hooks before a step; another part of the monitor has one, too, where DeepSpeed is imported."""
    return [hook for hook in optimizer._optimizer_step_pre_hooks.values() if isinstance(hook, _Hook)]


def column(samples: list[RecordedSnapshot], step: int, name: str) -> list[float | None]:
    return next(list(s.columns[name]) for s in samples if s.step == step)


def test_the_rms_of_a_step_is_that_of_the_whole_matrix(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    def keep(net: nn.Sequential, _: object) -> None:
        kept["before"] = [layer.weight.detach().clone() for layer in net if isinstance(layer, nn.Linear)]

    def compare(net: nn.Sequential, _: object) -> None:
        now = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
        kept["rms"] = [(a - b).square().mean().sqrt().item() for a, b in zip(now, kept["before"], strict=True)]

    samples, _ = trained(tmp_path, {39: keep, 40: compare}, every_n_steps=lambda step: step > 38)
    assert column(samples, 40, "step_rms") == pytest.approx(kept["rms"], rel=0.25)


def scaled(net: nn.Sequential, _: object) -> None:
    with torch.no_grad():
        net[2].weight.mul_(1.1)


def scaled_data(net: nn.Sequential, _: object) -> None:
    net[2].weight.data.mul_(1.1)


def replaced_data(net: nn.Sequential, _: object) -> None:
    net[2].weight.data = net[2].weight.data * 1.1


def loaded(net: nn.Sequential, _: object) -> None:
    state = copy.deepcopy(net.state_dict())
    state["2.weight"] *= 1.1
    net.load_state_dict(state)


@pytest.mark.parametrize("write", [scaled, scaled_data, replaced_data])
@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_a_write_is_measured_however_it_is_made(tmp_path: Path, write: Call, make: Any) -> None:
    samples, alerts = trained(tmp_path, {43: write}, make=make)
    assert column(samples, 50, "written") == [0.0, 1.0, 0.0]
    assert column(samples, 50, "written_after") == [None, 43.0, None]
    at, rms = column(samples, 50, "written_rms"), column(samples, 40, "rms")[1]
    assert rms is not None
    assert at == [0.0, pytest.approx(0.1 * rms, rel=0.3), 0.0]
    assert alerts == ["outside_write"]
    assert all(column(samples, step, "written") == [None] * 3 for step in (10, 20, 30, 40, 60))


def test_a_write_of_the_same_values_is_none_to_worry_about(tmp_path: Path) -> None:
    def swap(net: nn.Sequential, _: object) -> None:
        """As a moving average that is evaluated."""
        kept = copy.deepcopy(net.state_dict())
        for p in net.parameters():
            p.data.mul_(0.5)
        net.load_state_dict(kept)

    samples, alerts = trained(tmp_path, {43: swap})
    assert column(samples, 50, "written") == [1.0] * 3
    assert column(samples, 50, "written_rms") == [0.0] * 3
    assert alerts == []


def test_a_state_that_is_written_to(tmp_path: Path) -> None:
    def lose(net: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        optimizer.state[net[4].weight]["exp_avg_sq"].mul_(1e-3)

    samples, alerts = trained(tmp_path, {43: lose})
    assert column(samples, 50, "state_written") == [0.0, 0.0, 1.0]
    assert column(samples, 50, "written") == [0.0] * 3
    assert alerts[0] == "outside_write"


def test_a_state_that_is_loaded_is_another_tensor(tmp_path: Path) -> None:
    def load(_: object, optimizer: torch.optim.Optimizer) -> None:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    samples, alerts = trained(tmp_path, {43: load})
    assert all(column(samples, step, "state_written") == [None] * 3 for step in (50, 60))
    assert alerts == []


def test_a_sample_beside_the_schedule_takes_nothing_away(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with WeibullMonitor(net, optimizer, every_n_steps=10, output_dir=tmp_path) as monitor:
        for step in range(1, 51):
            net(torch.randn(8, 64)).square().mean().backward()
            optimizer.step()
            monitor.step()
            if step == 43:
                scaled(net, None)
            if step == 45:
                kept["aside"] = monitor.sample()
    assert kept["aside"].writes["2.weight"].after == 43
    assert column(list(read_history(tmp_path).snapshots), 50, "written") == [0.0, 1.0, 0.0]


def test_it_can_be_left_out(tmp_path: Path) -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    with WeibullMonitor(net, optimizer, output_dir=tmp_path, writes=False):
        assert not hooks_on(optimizer)
    samples, alerts = trained(tmp_path / "run", {43: scaled_data}, writes=False)
    assert all(column(samples, s.step, "step_rms") == [None] * 3 for s in samples)
    assert "outside_write" not in alerts


def test_bfloat16_and_other_layouts_are_watched(tmp_path: Path) -> None:
    net = model(dtype=torch.bfloat16)
    net[2].weight.data = net[2].weight.data.t().contiguous().t()
    samples, alerts = trained(tmp_path, {43: scaled_data}, net=net)
    assert column(samples, 50, "written") == [0.0, 1.0, 0.0]
    assert alerts == ["outside_write"]


def test_parts_of_a_fused_matrix_are_watched_one_by_one(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    net = Block()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with WeibullMonitor(net, optimizer, every_n_steps=10, output_dir=tmp_path) as monitor:
        for step in range(1, 51):
            net(torch.randn(4, 6, 32)).square().mean().backward()
            optimizer.step()
            monitor.step()
            if step == 43:
                net.layers[1].self_attn.in_proj_weight.data[32:64].mul_(1.5)
    (sample,) = [s for s in read_history(tmp_path).snapshots if s.step == 50]
    changed = {name for name, rms in sample.values("written_rms").items() if rms > 0}
    assert changed == {"layers.1.self_attn.in_proj_weight", "layers.1.self_attn.in_proj_weight[k]"}


def test_optimizers_that_take_turns_do_not_write(tmp_path: Path) -> None:
    net = model()
    first, second = torch.optim.AdamW(net[0].parameters()), torch.optim.SGD(net[2:].parameters(), lr=0.1)
    with WeibullMonitor(net, [first, second], every_n_steps=10, output_dir=tmp_path) as monitor:
        for _ in range(40):
            for optimizer in (first, second):
                net(torch.randn(8, 64)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            monitor.step()
    samples = list(read_history(tmp_path).snapshots)
    assert all(column(samples, s.step, "written") == [None] * 3 for s in samples)
    assert all(x is not None and x > 0 for x in column(samples, 40, "step_rms"))


def test_weights_that_move_elsewhere_are_found_again_and_keep_no_memory(tmp_path: Path) -> None:
    def move(net: nn.Sequential, _: object) -> None:
        for p in net.parameters():
            p.data = p.data.clone()

    samples, alerts = trained(tmp_path, dict.fromkeys(range(1, 60), move))
    assert all(column(samples, s.step, "written_rms") == [None] * 3 for s in samples)
    assert alerts == []


def test_an_optimizer_can_be_copied_and_pickled_and_lets_go(tmp_path: Path) -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    monitor = WeibullMonitor(net, optimizer, output_dir=tmp_path)
    (hook,) = hooks_on(optimizer)
    twin = copy.deepcopy(optimizer)
    pickle.loads(pickle.dumps(optimizer))
    pickle.loads(pickle.dumps(hook))(twin, (), {})
    monitor.close()
    assert not hooks_on(optimizer)
    assert not optimizer._optimizer_step_post_hooks
    other = WeibullMonitor(net, optimizer, output_dir=tmp_path / "other")
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
    net(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()  # its hooks do nothing


def test_a_step_that_is_compiled_still_compiles(tmp_path: Path) -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(1e-3))
    with WeibullMonitor(net, optimizer, every_n_steps=5, output_dir=tmp_path) as monitor:
        net(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
        monitor.step()
        compiled = torch.compile(optimizer.step, backend="eager")
        for _ in range(10):
            compiled()
            monitor.step()
    samples = list(read_history(tmp_path).snapshots)
    assert column(samples, 10, "step_rms") == [None] * 3  # such steps are not seen
    assert all(column(samples, s.step, "written_rms") == [None] * 3 for s in samples)


@pytest.mark.parametrize(
    "piece",
    [
        torch.zeros(3, 5),
        torch.zeros(512, 512),
        torch.zeros(512, 512)[:, 64:128],
        torch.zeros(512, 512)[::3].t(),
        torch.zeros(8, 70, 30),
        torch.zeros(30, 8, 70).transpose(0, 1),
        torch.zeros(5000),
    ],
)
def test_the_elements_lie_all_over_a_matrix(piece: Tensor) -> None:
    some = some_of(piece, ELEMENTS)
    assert 0.4 * min(ELEMENTS, piece.numel()) <= some.numel() <= ELEMENTS
    some.fill_(1.0)
    assert piece.sum() == some.numel()  # none of them twice
    if piece.dim() == 2 and min(piece.shape) >= 64:
        rows, columns = piece.sum(1).nonzero().flatten(), piece.sum(0).nonzero().flatten()
        assert (len(rows), len(columns)) >= (8, 8)
        assert rows[-1] >= 0.8 * len(piece)
        assert columns[-1] >= 0.75 * piece.shape[1]


@pytest.mark.parametrize("of_state", [False, True])
def test_a_write_right_before_a_sample_is_told_by_that_sample(tmp_path: Path, of_state: bool) -> None:
    def lose(net: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        optimizer.state[net[2].weight]["exp_avg"].zero_()

    samples, _ = trained(tmp_path, {}, early={50: lose if of_state else scaled_data})
    name = "state_written" if of_state else "written"
    assert column(samples, 50, name) == [0.0, 1.0, 0.0]
    assert column(samples, 50, "written_after") == [None, 50.0, None]
    assert column(samples, 60, name) == [None] * 3


def test_a_layout_that_changes_is_no_write(tmp_path: Path) -> None:
    def turn(net: nn.Sequential, _: object) -> None:
        for layer in (net[0], net[2], net[4]):
            layer.weight.data = layer.weight.data.t().contiguous().t()

    samples, alerts = trained(tmp_path, {43: turn})
    assert all(column(samples, s.step, "written_rms") == [None] * 3 for s in samples)
    assert all(x is not None for x in column(samples, 60, "step_rms"))  # from the next sample on
    assert alerts == []


def test_of_two_writes_the_larger_one_is_named(tmp_path: Path) -> None:
    def again(net: nn.Sequential, _: object) -> None:
        net[2].weight.data.mul_(1.0001)

    samples, _ = trained(tmp_path, {43: scaled_data, 47: again})
    assert column(samples, 50, "written") == [0.0, 2.0, 0.0]
    assert column(samples, 50, "written_after") == [None, 43.0, None]


def test_each_optimizer_is_watched_by_its_own_steps_and_hooks_go_with_the_monitor(tmp_path: Path) -> None:
    net = model()
    several = [torch.optim.AdamW(layer.parameters()) for layer in (net[0], net[2], net[4])]
    monitor = WeibullMonitor(net, several, output_dir=tmp_path)
    watch = monitor._sampler._writes
    assert watch is not None
    assert [len(part.versions.parameters) for part in watch._parts.values()] == [1, 1, 1]
    del monitor, watch
    gc.collect()
    assert not any(hooks_on(optimizer) for optimizer in several)
