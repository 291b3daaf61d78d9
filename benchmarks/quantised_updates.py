"""How far u from states of few bits is from the step that was really taken: `python benchmarks/quantised_updates.py`.

It needs torchao and bitsandbytes, of which builds for CPUs will do (`pip install torchao bitsandbytes`), and takes ten seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import torchao.optim
from torch import Tensor, nn

from weibull_monitor import fit_weibull
from weibull_monitor.scaling.updates import update_state

ETA, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "torch AdamW": torch.optim.AdamW,
    "bitsandbytes AdamW32bit": bitsandbytes.optim.AdamW32bit,
    "bitsandbytes AdamW8bit": bitsandbytes.optim.AdamW8bit,
    "torchao AdamW8bit": torchao.optim.AdamW8bit,
    "torchao AdamW4bit": torchao.optim.AdamW4bit,
    "torchao AdamWFp8": torchao.optim.AdamWFp8,
}


class Net(nn.Module):
    """The next byte from a byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.down = nn.Embedding(256, 128), nn.Linear(128, 512), nn.Linear(512, 128)
        self.head = nn.Linear(128, 256)

    def forward(self, byte: Tensor) -> Tensor:
        out: Tensor = self.head(self.down(torch.relu(self.up(self.embedding(byte)))))
        return out


def of_state(optimizer: Any, weight: Tensor) -> Tensor:
    """u of a weight: as the monitor reads it, or, where it refuses to, from what the library makes of its codes."""
    found = update_state(weight, optimizer.param_groups[0], optimizer)
    if not isinstance(found, str):
        return torch.cat([chunk.flatten() for chunk in found.chunks(*([kept] for kept in found.kept))])
    state = optimizer.state[weight]
    mean, square = (state[name].dequantize().float() for name in ("exp_avg", "exp_avg_sq"))
    first, second = (1 - beta ** int(state["step"]) for beta in BETAS)
    return ((mean / first) / ((square / second).sqrt() + EPS)).flatten()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    text = torch.tensor(list(Path(argparse.__file__).read_bytes()))
    for name, made in OPTIMIZERS.items():
        torch.manual_seed(0)
        net = Net()
        optimizer = made(net.parameters(), lr=ETA, betas=BETAS, eps=EPS, weight_decay=0.0)
        for step in range(150):
            places = torch.randint(len(text) - 1, (64,), generator=torch.Generator().manual_seed(step))
            nn.functional.cross_entropy(net(text[places].long()), text[places + 1].long()).backward()
            before = {n: p.detach().double() for n, p in net.named_parameters()}  # copies, as fp64
            optimizer.step()
            optimizer.zero_grad()
        print(name)
        for n, p in net.named_parameters():
            if p.dim() > 1:
                u, step_taken = (
                    fit_weibull(of_state(optimizer, p)),
                    fit_weibull((before[n] - p.detach().double()) / ETA),
                )
                print(
                    f"  {n:17s} state: k {u.k:.4f}  λ {u.lambda_:.4f}  RMS {u.rms:8.4f}   step: k {step_taken.k:.4f}  "
                    f"λ {step_taken.lambda_:.4f}  RMS {step_taken.rms:.4f}"
                )


if __name__ == "__main__":
    main()
