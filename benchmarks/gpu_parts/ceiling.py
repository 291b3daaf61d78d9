"""What the memory can do: the bandwidth of a copy, and of reading alone. The floor of a sample follows from them."""

from __future__ import annotations

import torch

from gpu_parts.machine import GIB, Budget, Machine
from gpu_parts.page import Page, ms, reason

TITLE = "Ceiling"
COPY, READ = "copy, bytes a second", "read, bytes a second"


def run(machine: Machine, page: Page, budget: Budget) -> None:
    """Times a large copy, and reductions of the same buffer."""
    size = 1 << 20 if machine.rehearsal else min(4 << 30, machine.memory() // 3) // 4096 * 4096
    source = torch.empty(size // 2, dtype=torch.bfloat16, device=machine.device).normal_(0.0, 0.02)
    target = torch.empty_like(source)
    page.say(f"{size / GIB:.3g} GiB of bf16, medians of up to 30; a copy counts the bytes read and the bytes written.")
    page.table("operation", "ms", "slowest, ms", "TB/s")
    timing = machine.clock(lambda: target.copy_(source), times=30)
    page.figures[COPY] = 2 * size / timing.device
    page.row("copy", ms(timing.device), ms(timing.slowest), f"{page.figures[COPY] / 1e12:.3f}")
    words = source.view(torch.int32)
    reads = {
        "read: largest of int32": lambda: words.amax(),
        "read: largest of bf16": lambda: source.amax(),
        "read: sum of float32": lambda: source.view(torch.float32).sum(),
        "read: vector_norm of bf16": lambda: torch.linalg.vector_norm(source, dtype=torch.float32),
    }
    best = 0.0
    for name, work in reads.items():
        try:
            timing = machine.clock(work, times=30, limit=2.0)
        except RuntimeError as error:
            page.row(name, reason(error), "", "")
            continue
        best = max(best, size / timing.device)
        page.row(name, ms(timing.device), ms(timing.slowest), f"{size / timing.device / 1e12:.3f}")
    if best:
        page.figures[READ] = best
    page.say("The floor of a sample is the bytes of the weights over the fastest read.")
