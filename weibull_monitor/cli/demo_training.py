"""A small training run that needs only torch: a byte-level transformer reads Python's own library sources."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weibull_monitor.history.reader import read_history
from weibull_monitor.history.record import History
from weibull_monitor.measure.threads import alone
from weibull_monitor.monitor.monitor import WeibullMonitor

WIDTH: Final = 128
BLOCKS: Final = 4
HEADS: Final = 4
WINDOW: Final = 64
BATCH: Final = 8
PEAK: Final = 2e-3
WARMUP: Final = 20
BROKEN: Final = "layers.3.self_attn.q_proj.weight"
FACTOR: Final = 4.0


class Block(nn.Module):
    """A Llama-like transformer block with Llama's parameter names; W_q, W_k, W_v and W_o are stored separately."""

    def __init__(self) -> None:
        super().__init__()
        four = {f"{name}_proj": nn.Linear(WIDTH, WIDTH, bias=False) for name in "qkvo"}
        self.self_attn = nn.ModuleDict(four)
        wide = {f"{name}_proj": nn.Linear(WIDTH, 3 * WIDTH, bias=False) for name in ("gate", "up")}
        self.mlp = nn.ModuleDict(wide | {"down_proj": nn.Linear(3 * WIDTH, WIDTH, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        """The next hidden states; ``x`` and the result have shape (batch, window, width)."""
        y = F.rms_norm(x, (WIDTH,))
        q, k, v = (self.self_attn[f"{n}_proj"](y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in "qkv")
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.self_attn["o_proj"](mixed.transpose(1, 2).flatten(2))
        y = F.rms_norm(x, (WIDTH,))
        out: Tensor = x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y))
        return out


class Model(nn.Module):
    """A language model of bytes; all matrices start from a normal distribution with σ 0.02."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(256, WIDTH)
        self.embed_positions = nn.Embedding(WINDOW, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.lm_head = nn.Linear(WIDTH, 256, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next byte, (batch, window, 256), of tokens (batch, window)."""
        x = self.embed_tokens(tokens) + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(F.rms_norm(x, (WIDTH,)))
        return logits


def train(
    output_dir: str | Path, steps: int, report: Callable[[int, float], object], broken_after: int | None = None
) -> History:
    """Trains the model with a monitor, on the CPU, and returns the history; 300 steps take half a minute.

    ``report`` is called with the number of each step and its loss. After step ``broken_after`` the `BROKEN` matrix is
    multiplied by `FACTOR`.
    """
    torch.manual_seed(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    every = max(1, min(100, steps // 30))
    options: dict[str, Any] = {"every_n_steps": every, "scheduler": scheduler, "total_steps": steps}
    # The matrices are small: on a machine with other work, a team of threads waits for its slowest most of the time.
    with alone(), WeibullMonitor(model, optimizer, output_dir=output_dir, **options) as monitor:
        for step in range(1, steps + 1):
            starts = torch.randint(len(text) - WINDOW - 1, (BATCH,)).tolist()
            tokens = torch.stack([text[start : start + WINDOW + 1] for start in starts]).long()
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            monitor.step()
            scheduler.step()
            if step == broken_after:
                with torch.no_grad():
                    model.get_parameter(BROKEN).mul_(FACTOR)
            report(step, loss.item())
    return read_history(output_dir)


def _rate(step: int, total: int) -> float:
    """Linear warm-up, then a cosine to a tenth; 1 at the peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / max(1, total - WARMUP))
