"""Small runs of real models, recorded by the monitor itself, for tests of what is shown of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import COMMON, LLAMA_LIKE
from torch import nn
from transformers import CONFIG_MAPPING as CONFIGS
from transformers import AutoModel, AutoModelForCausalLM

from weibull_monitor import MemoryTracker, WeibullMonitor

BROKEN = "model.layers.1.self_attn.q_proj.weight"


def llama() -> nn.Module:
    """Two blocks with shared keys."""
    torch.manual_seed(0)
    wider = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(CONFIGS["llama"](**LLAMA_LIKE | wider))


def encoder_decoder() -> nn.Module:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    return AutoModel.from_config(CONFIGS["t5"](**COMMON | sizes))


def experts() -> nn.Module:
    return AutoModelForCausalLM.from_config(
        CONFIGS["mixtral"](**LLAMA_LIKE | {"num_local_experts": 4, "num_key_value_heads": 2})
    )


class Hostile(nn.Module):
    """Names that a page must not take for anything but names."""

    NAMES = ("</script><script>hacked=1</script>", '"><img src=x onerror=hacked=1>', "=1+1 %{x} <b>&amp;")

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({name: nn.Linear(32, 32) for name in self.NAMES}) for _ in range(2))


def run(
    where: Path,
    model: nn.Module,
    steps: int = 40,
    lr: float = 3e-3,
    total: int | None = 60,
    broken_at: int | None = None,
    optimized: bool = True,
    **options: Any,
) -> MemoryTracker:
    """Moves every weight for some steps, sampling each fourth, and returns what was logged."""
    tracker = MemoryTracker()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1) if optimized else None
    options = {"every_n_steps": 4, "output_dir": where, "trackers": [tracker]} | options
    if optimized and total:
        options |= {"scheduler": lambda step: 1.0, "total_steps": total}
    torch.manual_seed(1)
    with WeibullMonitor(model, optimizer, **options) as monitor:
        for step in range(1, steps + 1):
            if optimizer is not None:
                for parameter in model.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
            monitor.step()
            if step == broken_at:
                with torch.no_grad():
                    model.get_parameter(BROKEN).mul_(8.0)
    return tracker
