"""Trainings on several ranks with the monitor at work; run on each rank by `launch`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import layouts
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from weibull_monitor import ConfigurationError, WeibullMonitor, read_history
from weibull_monitor.history.columns import COLUMNS
from weibull_monitor.measure.reader import distributed as together

STEPS = 6


def every_second(step: int) -> bool:
    return step % 2 == 0


def small() -> layouts.Model:
    torch.manual_seed(0)
    return layouts.Model(blocks=2)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)  # one group: FSDP1 flattens all parameters


def trained(
    wrapped: nn.Module,
    directory: Path,
    steps: int = STEPS,
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
    **options: Any,
) -> dict[str, Any] | None:
    """What the history holds after a few steps of two micro-batches each, the same on every rank."""
    optimizer = optimizer_of(wrapped)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=steps)
    example = torch.zeros(2, 9, dtype=torch.long)  # several processes do not wait for the first batch
    options = {"every_n_steps": every_second, "forces": True, "updates": True, "example_inputs": example, **options}
    with WeibullMonitor(wrapped, optimizer, output_dir=directory, **options) as monitor:
        for _ in range(steps):
            for micro in range(2):
                torch.manual_seed(100 * monitor._step + micro)
                tokens = torch.randint(101, (2, 9))
                with synchronised(wrapped, micro == 1):
                    logits = wrapped(tokens)
                    nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
            monitor.step()
            schedule.step()
            optimizer.zero_grad()
    return recorded(directory) if monitor.is_main else None


def synchronised(wrapped: nn.Module, last: bool) -> Any:
    """Gradients are summed over the ranks after the last micro-batch only."""
    if hasattr(wrapped, "set_requires_gradient_sync"):
        wrapped.set_requires_gradient_sync(last)
    return nullcontext() if last or not hasattr(wrapped, "no_sync") else wrapped.no_sync()


def recorded(directory: Path) -> dict[str, Any]:
    """Step → column → component → value."""
    history = read_history(directory)
    return {str(s.step): {column: s.values(column) for column in COLUMNS} for s in history.snapshots}


class Recorded(TorchDispatchMode):
    """The collectives that are called, and the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.collectives.append(func.name())
        out = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            self.largest = max(self.largest, out.untyped_storage().nbytes())
        return out


def histories(directory: Path) -> dict[str, Any]:
    """The same training on one rank and on all of them."""
    found: dict[str, Any] = {}
    if dist.get_rank() == 0:
        found["alone"] = trained(small(), directory / "alone", process_group=None)
    found["ddp"] = trained(layouts.ddp(small()), directory / "ddp")
    found["fsdp2"] = trained(layouts.fsdp2(small()), directory / "fsdp2")
    found["fsdp1_flat"] = trained(layouts.fsdp1_flat(small()), directory / "fsdp1_flat")
    return found


def collectives(directory: Path) -> dict[str, Any]:
    """What a regular sample calls and makes: of a large matrix, and of 800 small ones."""
    found: dict[str, Any] = {}
    wide = nn.Sequential(nn.Linear(2048, 4096, bias=False), nn.Linear(64, 64, bias=False))
    many = nn.Sequential(*(nn.Linear(11, 11, bias=False) for _ in range(800)))
    for name, model in (("wide", wide), ("many", many)):
        monitor = WeibullMonitor(fully_shard(model), output_dir=directory / name)
        monitor.step(1)
        with Recorded() as seen:
            monitor.step(2)
        found[name] = (seen.collectives, seen.largest, monitor.last.step if monitor.last else None)
        monitor.close()
    return found


def failures(directory: Path) -> dict[str, Any]:
    """One rank fails at its count, another time counts a NaN, and another time is at another step."""
    rank, found = dist.get_rank(), dict[str, Any]()
    caught = Messages()
    logging.getLogger("weibull_monitor").addHandler(caught)
    model = layouts.fsdp2(small())
    monitor = WeibullMonitor(model, output_dir=directory / "fails", every_n_steps=1)
    count = together.tallied
    if rank == 1:
        together.tallied = broken  # type: ignore[assignment]
    monitor.step()
    together.tallied = count
    monitor.step()
    if rank == 1:
        with torch.no_grad():
            model.layers[1].mlp.down_proj.to_local()[0, 0] = torch.nan
    monitor.step()
    monitor.step(5 + rank)
    monitor.step(8)
    monitor.close()
    found["messages"] = caught.messages
    found["history"] = recorded(directory / "fails") if rank == 0 else None
    return found


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("out of memory, say")


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def not_everywhere(directory: Path) -> dict[str, Any]:
    """A monitor on the main rank only; one that the main rank cannot make; and one that is made everywhere after that."""
    found: dict[str, Any] = {}
    if dist.get_rank() == 0:
        found["alone"] = error_of(lambda: WeibullMonitor(small(), output_dir=directory / "a", join_timeout=1.0))
        alone = WeibullMonitor(small(), output_dir=directory / "b", process_group=None)
        found["by choice"] = alone.last is not None
        alone.close()
    dist.barrier()
    (directory / "file").write_text("in the way")
    found["unwritable"] = error_of(lambda: WeibullMonitor(small(), output_dir=directory / "file"))
    monitor = WeibullMonitor(small(), output_dir=directory / "c")
    found["after"] = monitor.is_main
    monitor.close()
    return found


def error_of(make: Callable[[], object]) -> str:
    try:
        make()
    except ConfigurationError as error:
        return str(error)
    return ""


def own_modules(directory: Path) -> dict[str, Any]:
    """Pipeline stages with learning rates of their own; the same name for different weights; freezing on the way."""
    rank, found = dist.get_rank(), dict[str, Any]()
    stage = layouts.pipeline(small())
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-3 * (rank + 1), weight_decay=0.1)
    monitor = WeibullMonitor(stage, optimizer, output_dir=directory / "stages", every_n_steps=1)
    for _ in range(2):
        monitor.step()
    found["stages"] = (
        {n: (s.eta, s.weight_decay, s.effective, s.t_over_tau) for n, s in monitor.last.scaling.items()}
        if monitor.last
        else None
    )
    monitor.close()

    torch.manual_seed(rank)
    different = nn.Sequential(nn.Linear(64, 64))
    monitor = WeibullMonitor(different, output_dir=directory / "different")
    found["different"] = (monitor._reader.different, monitor.last.fits["0.weight"].n if monitor.last else None)
    monitor.close()

    model = layouts.fsdp2(small())
    model.layers[0].requires_grad_(False)
    monitor = WeibullMonitor(model, output_dir=directory / "frozen", every_n_steps=1)
    read = []
    for step in range(1, 4):
        if step == 3:
            model.layers[0].requires_grad_(True)
        with Recorded():
            monitor.step()
        read.append(len(monitor.last.fits) if monitor.last else None)
    found["frozen"] = (read, len(monitor.discovery.components))
    monitor.close()
    return found


def resumed(directory: Path, state: dict[str, Any] | None) -> dict[str, Any] | None:
    """A part of a run; with a state, the part after that."""
    model = layouts.fsdp2(small())
    optimizer = optimizer_of(model)
    monitor = WeibullMonitor(model, optimizer, output_dir=directory / "run", every_n_steps=1, resume=state)
    for _ in range(2):
        monitor.step()
    monitor.close()
    return {"state": monitor.state_dict(), "history": recorded(directory / "run") if monitor.is_main else None}


def one_rank_fails(directory: Path) -> dict[str, Any]:
    """One rank cannot look at its parameters, then not at its notes, then not list its matrices; then it trains on."""
    rank, caught = dist.get_rank(), Messages()
    logging.getLogger("weibull_monitor").addHandler(caught)
    model = layouts.fsdp2(small())
    with WeibullMonitor(model, optimizer_of(model), output_dir=directory / "run", every_n_steps=1) as monitor:
        weights, last = monitor._reader.weights, dist.get_world_size() - 1
        monitor.step()
        if rank == last:
            weights.refresh = broken  # type: ignore[method-assign]
        monitor.step()
        if rank == last:
            del weights.refresh
        monitor.step()
        if rank == last:
            monitor._reader._find = broken
        model.layers[0].requires_grad_(False)  # the ranks have to agree anew
        monitor.step()
        monitor.step()
    return {"messages": caught.messages, "steps": [*recorded(directory / "run")] if rank == 0 else None}


def uneven(directory: Path, wrapped: bool) -> dict[str, Any]:
    """DDP under `Join`, where each rank has one batch more than the one before."""
    caught, rank = Messages(), dist.get_rank()
    logging.getLogger("weibull_monitor").addHandler(caught)
    losses: dict[str, list[float]] = {}
    for name in ("plain", "watched"):
        torch.manual_seed(0)
        model = nn.Linear(32, 32)
        ddp = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
        watched = ddp if wrapped else model
        options: dict[str, Any] = {"output_dir": directory / "run", "every_n_steps": 1}
        with (
            WeibullMonitor(watched, optimizer, **options) if name == "watched" else nullcontext() as monitor,
            ddp.join(),
        ):
            for step in range(3 + rank):
                torch.manual_seed(step)
                loss = ddp(torch.randn(4, 32)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.setdefault(name, []).append(loss.item())
                if monitor is not None:
                    monitor.step()
    return {"messages": caught.messages, "losses": losses}


def warned(directory: Path) -> list[str]:
    """The warnings of a short training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(layouts.ddp(small()), directory / "run", steps=2)
        with WeibullMonitor(layouts.pipeline(small()), output_dir=directory / "stages", every_n_steps=1) as monitor:
            monitor.step()
    return [str(w.message) for w in caught if issubclass(w.category, FutureWarning | DeprecationWarning)]
