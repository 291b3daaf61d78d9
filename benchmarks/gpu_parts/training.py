"""A real training of the small model with and without the monitor, in turns."""

from __future__ import annotations

import statistics
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM

from gpu_parts import models
from gpu_parts.machine import Budget, Machine
from gpu_parts.page import Page, ms
from weibull_monitor import WeibullMonitor

TITLE = "A training"
MONITORS: dict[str, tuple[int, dict[str, bool]]] = {
    "every 100": (100, {}),
    "every 10": (10, {}),
    "every 1": (1, {}),
    "every 10, updates": (10, {"updates": True}),
    "every 100, writes not watched": (100, {"writes": False}),
}
"""Steps between two samples, and what else is asked for."""
WITHOUT, AGAIN = "without", "without, once more"
SECONDS = 110.0
"""What the turns may take together."""


class _Training:
    """GPT-2 of 124 M on random tokens: fp32 weights, bf16 autocast, fused AdamW, clipped gradients."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        spec = models.spec(models.SMALL)
        torch.manual_seed(0)
        config = spec.settings(machine.rehearsal)
        with machine.device:
            self.model = AutoModelForCausalLM.from_config(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
        rows, length = (2, 16) if machine.rehearsal else (8, 1024)
        self.tokens = rows * length
        self._batches = torch.randint(config.vocab_size, (16, rows, length), device=machine.device)
        self._done = 0

    def step(self) -> None:
        """One optimizer step."""
        batch = self._batches[self._done % len(self._batches)]
        self._done += 1
        with torch.autocast(self._machine.device.type, torch.bfloat16):
            loss = self.model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def turn(self, monitor: WeibullMonitor | None, steps: int) -> float:
        """Seconds of some steps."""
        self._machine.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
            if monitor is not None:
                monitor.step()
        self._machine.synchronize()
        return time.perf_counter() - begin

    def slack(self, times: int) -> tuple[float, float]:
        """Seconds until one step is queued, and until it is done; medians."""
        queued: list[float] = []
        done: list[float] = []
        for _ in range(times):
            self._machine.synchronize()
            begin = time.perf_counter()
            self.step()
            queued.append(time.perf_counter() - begin)
            self._machine.synchronize()
            done.append(time.perf_counter() - begin)
        return statistics.median(queued), statistics.median(done)


def run(machine: Machine, page: Page, budget: Budget) -> None:
    """Trains in turns, with a monitor that samples at every 100, 10 or 1 steps and without one.

    One of them reads the last updates, too (`updates=True`), and one does not watch writes (`writes=False`).
    """
    training = _Training(machine)
    steps = 3 if machine.rehearsal else 100
    training.turn(None, machine.repetitions(10))
    queued, done = training.slack(machine.repetitions(15))
    page.say(
        f"{sum(p.numel() for p in training.model.parameters()):,} parameters (GPT-2), fp32 weights, bf16 autocast, fused AdamW, "
        f"clipped gradients, {training.tokens:,} random tokens a step, not compiled. Alone, a step is queued in {ms(queued)} ms "
        f"and done after {ms(done)} ms: what is between is how far the host may fall behind. The history goes to a temporary "
        f"directory; no trackers, `forces=False`; early samples, which would fall into the first turn, are left out."
    )
    seconds: dict[str, list[float]] = {name: [] for name in (WITHOUT, *MONITORS, AGAIN)}
    begin, rounds = time.monotonic(), 0
    while rounds < machine.repetitions(9):
        order = list(seconds) if rounds % 2 == 0 else list(seconds)[::-1]
        for name in order:
            seconds[name].append(_turn(training, name, steps, machine.repetitions(5)))
        rounds += 1
        a_round = (time.monotonic() - begin) / rounds
        if min(SECONDS - (time.monotonic() - begin), budget.left() - 10) < a_round:
            break
    _report(page, seconds, steps, training.tokens)


def _turn(training: _Training, name: str, steps: int, untimed: int) -> float:
    """Seconds of a turn under a monitor that is there for this turn alone: it has hooks on the optimizer.

    Raises:
        RuntimeError: If it took no sample.
    """
    if name not in MONITORS:
        training.turn(None, untimed)
        return training.turn(None, steps)
    n, options = MONITORS[name]
    with tempfile.TemporaryDirectory() as place:
        monitor = WeibullMonitor(
            training.model,
            training.optimizer,
            every_n_steps=lambda step: step % n == 0,
            output_dir=place,
            process_group=None,
            **options,  # type: ignore[arg-type]
        )
        training.turn(monitor, untimed)  # what is done once
        seconds = training.turn(monitor, steps)
        last = monitor.last
        monitor.close(sample_last=False)
    if n <= steps and (last is None or last.step == 0):
        raise RuntimeError(f"the monitor of {name} took no sample; the log says why")
    return seconds


def _report(page: Page, seconds: dict[str, list[float]], steps: int, tokens: int) -> None:
    plain = seconds[WITHOUT]
    page.say(
        f"{len(plain)} rounds of {steps} steps each, every second one in the opposite order. Lost is the throughput, against the "
        "turn without in the same round: the median over the rounds, the smallest and the largest."
    )
    page.table("monitor", "ms a step", "fastest", "slowest", "tokens a second", "lost, %", "from", "to")
    lost: dict[str, float] = {}
    for name, taken in seconds.items():
        shares = [100 * (a - b) / a for a, b in zip(taken, plain, strict=True)]
        lost[name] = statistics.median(shares)
        middle = statistics.median(taken) / steps
        page.row(
            name,
            *(ms(value) for value in (middle, min(taken) / steps, max(taken) / steps)),
            f"{tokens / middle:,.0f}",
            *(f"{value:+.2f}" if name != WITHOUT else "" for value in (lost[name], min(shares), max(shares))),
        )
    spread = 100 * (max(plain) - min(plain)) / statistics.median(plain)
    page.say(
        f"The turns without it spread over {spread:.2f} %, and two of the same round differ by {abs(lost[AGAIN]):.2f} %: less "
        f"than that cannot be seen. From every step, divided by 100: {lost['every 1'] / 100:+.4f} % at every 100 steps."
    )
    page.meets("hundred", lost["every 100"])
    page.meets("every", lost["every 1"])
