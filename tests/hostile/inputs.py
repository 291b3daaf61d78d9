"""Good files, to make hostile ones of."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from weibull_monitor import WeibullMonitor


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({n: nn.Linear(width, width) for n in ("q_proj", "k_proj", "v_proj", "o_proj")})
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(width, 2 * width), "down_proj": nn.Linear(2 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.self_attn
        x = x + a["o_proj"](torch.tanh(a["q_proj"](x)) * a["k_proj"](x) + a["v_proj"](x))
        return x + self.mlp["down_proj"](torch.relu(self.mlp["up_proj"](x)))


class Model(nn.Module):
    """Two blocks and an embedding."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(50, width)
        self.layers = nn.ModuleList(_Block(width) for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return x


def write_history(folder: Path, steps: int = 8) -> Path:
    """The history of a run with alerts and a resumption."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / (3 * steps))
    state = None
    for part in range(2):
        options = {"scheduler": scheduler, "total_steps": 2 * steps, "forces": True, "resume": state}
        monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=folder, trackers=[], **options)
        for step in range(steps):
            loss = model(torch.randint(0, 50, (4, 8))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if part and step == 2:
                with torch.no_grad():
                    model.layers[1].mlp["up_proj"].weight.mul_(50.0)
                    model.layers[0].self_attn["q_proj"].weight[0, 0] = torch.inf
            monitor.step()
            scheduler.step()
        state = monitor.state_dict()
        monitor.close()
    return monitor.output_dir / "weibull" / "history.jsonl"
