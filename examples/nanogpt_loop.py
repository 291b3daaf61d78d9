"""A training loop in the style of nanoGPT: plain PyTorch, a model and a learning rate of its own, and three lines for k and λ.

    python examples/nanogpt_loop.py
    tensorboard --logdir runs/nanogpt

Needs ``pip install '.[tensorboard]'``, no network and no GPU; half a minute on two cores.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.report.text.run import summarize


class Block(nn.Module):
    """One transformer block, with nanoGPT's names: c_attn holds q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=-1)
        )
        x = x + self.attn["c_proj"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class GPT(nn.Module):
    """A byte-level GPT."""

    def __init__(self, width: int = 128, blocks: int = 4, heads: int = 4, window: int = 128) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(256, width),
                "wpe": nn.Embedding(window, width),
                "h": nn.ModuleList(Block(width, heads) for _ in range(blocks)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, 256, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * blocks) if "c_proj" in name else 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"].weight[: tokens.shape[1]]
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def learning_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=300, help="optimizer steps (default: 300)")
    parser.add_argument("--output-dir", default="runs/nanogpt", help="where everything goes (default: runs/nanogpt)")
    parser.add_argument("--trackers", nargs="*", default=["tensorboard"], help="tensorboard, wandb, mlflow, trackio")
    parser.add_argument("--every-n-steps", type=int, default=50, help="steps between samples (default: 50)")
    options = parser.parse_args()

    torch.manual_seed(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8)
    model = GPT()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))

    with WeibullMonitor(  # one
        model,
        optimizer,
        every_n_steps=options.every_n_steps,
        output_dir=options.output_dir,
        trackers=options.trackers,
        scheduler=lambda step: learning_rate(step - 1, peak=2e-3, warmup=20, total=options.max_steps),
        total_steps=options.max_steps,  # these two for a forecast of λ
    ) as monitor:
        for step in range(options.max_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, peak=2e-3, warmup=20, total=options.max_steps)
            starts = torch.randint(len(text) - 129, (8,))
            tokens = torch.stack([text[start : start + 129] for start in starts]).long()
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            monitor.step()  # two: right after optimizer.step(); leaving the `with` block is the third
            if step % 50 == 0 or step == options.max_steps - 1:
                print(f"step {step:4d}   loss {loss.item():.3f}")

    print("\n" + summarize(read_history(options.output_dir)))
    print(f"\nEvery sample of every matrix:  {options.output_dir}/weibull/history.jsonl")


if __name__ == "__main__":
    main()
