"""The models, texts and optimizers of the trainings that alerts are tried on."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from corpus_optimizers import Lion
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from weibull_monitor.model.components import discover

BYTES, MASK, WINDOW, BATCH = 256, 256, 64, 8


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        name: What is special about it.
        arch: One of `ARCHITECTURES`.
        seed: Chooses the weights, the data, and where and when the fault strikes.
        fault: One of `FAULTS`; empty for none.
        optimizer: ``adamw``, or another of `optimizers`.
        schedule: Course of η, as `rate` has it.
        eta: Highest η.
        weight_decay: λ_wd.
        dtype: Of the weights.
        init: ``normal``, ``uniform``, ``lora``, ``frozen`` (in part) or ``fine-tuned`` (from a training of its own).
        clip: Largest gradient norm; 0 for any.
        warmup: Steps of rising η.
        steps: Optimizer steps.
        every: Steps between samples.
        width: Width of the model.
        blocks: Number of its blocks.
        resolution: Of the monitor.
    """

    name: str
    arch: str = "llama"
    seed: int = 0
    fault: str = ""
    optimizer: str = "adamw"
    schedule: str = "cosine"
    eta: float = 2e-3
    weight_decay: float = 0.1
    dtype: str = "float32"
    init: str = "normal"
    clip: float = 1.0
    warmup: int = 20
    steps: int = 320
    every: int = 10
    width: int = 96
    blocks: int = 3
    resolution: str = "auto"


SMALL = {"vocab_size": BYTES + 1, "bos_token_id": None, "eos_token_id": None, "max_position_embeddings": WINDOW}


def _llama_like(case: Case, **more: Any) -> dict[str, Any]:
    return SMALL | {
        "hidden_size": case.width,
        "intermediate_size": 8 * case.width // 3 // 8 * 8,
        "num_hidden_layers": case.blocks,
        "num_attention_heads": 4,
        **more,
    }


ARCHITECTURES: dict[str, tuple[str, Callable[[Case], dict[str, Any]]]] = {
    "llama": ("llama", _llama_like),
    "llama-gqa": ("llama", lambda c: _llama_like(c, num_key_value_heads=2)),
    "qwen3": ("qwen3", lambda c: _llama_like(c, num_key_value_heads=2, head_dim=c.width // 4)),
    "olmo2": ("olmo2", lambda c: _llama_like(c, pad_token_id=None)),
    "neox": ("gpt_neox", lambda c: _llama_like(c, intermediate_size=4 * c.width)),
    "gpt2": (
        "gpt2",
        lambda c: (
            {k: v for k, v in SMALL.items() if k != "max_position_embeddings"}
            | {"n_embd": c.width, "n_layer": c.blocks, "n_head": 4, "n_positions": WINDOW}
        ),
    ),
    "bert": ("bert", lambda c: _llama_like(c, intermediate_size=4 * c.width)),
    "mixtral": (
        "mixtral",
        lambda c: _llama_like(
            c, intermediate_size=c.width, num_local_experts=4, num_key_value_heads=2, num_experts_per_tok=2
        ),
    ),
    "deepseek": (
        "deepseek_v3",
        lambda c: _llama_like(
            c,
            num_key_value_heads=4,
            q_lora_rank=48,
            kv_lora_rank=48,
            qk_rope_head_dim=16,
            qk_nope_head_dim=16,
            v_head_dim=24,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=c.blocks,
            pad_token_id=None,
        ),
    ),
}


def build(case: Case) -> nn.Module:
    """A model of the case's architecture and initialisation, in its dtype."""
    torch.manual_seed(case.seed)
    kind, arguments = ARCHITECTURES[case.arch]
    auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    model: nn.Module = auto.from_config(CONFIG_MAPPING[kind](**arguments(case)), attn_implementation="eager")
    if case.init == "uniform":  # PyTorch's own default of nn.Linear
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    if case.init == "lora":
        import peft

        targets = "all-linear"
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=targets, lora_dropout=0.0))
    if case.init == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers.0" not in name and "embed" not in name)
    return model.to(getattr(torch, case.dtype))


class Text:
    """Python's standard library as bytes, in random windows."""

    def __init__(self, case: Case) -> None:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        data = b"".join(file.read_bytes() for file in files)[:3_000_000]
        self._tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
        self._random = torch.Generator().manual_seed(1000 + case.seed)
        self._masked = case.arch == "bert"

    def batch(self, noisy: bool) -> dict[str, torch.Tensor]:
        """Tokens and labels; labels at random if they are to be noisy."""
        at = torch.randint(len(self._tokens) - WINDOW, (BATCH,), generator=self._random)
        tokens = torch.stack([self._tokens[i : i + WINDOW] for i in at.tolist()])
        labels = torch.randint(BYTES, tokens.shape, generator=self._random) if noisy else tokens.clone()
        if self._masked:
            hidden = torch.rand(tokens.shape, generator=self._random) < 0.15
            tokens = tokens.masked_fill(hidden, MASK)
            labels = labels.masked_fill(~hidden, -100)
        return {"input_ids": tokens, "labels": labels}


def optimizers(case: Case, model: nn.Module) -> list[torch.optim.Optimizer]:
    """One AdamW with a group for selection, one for other matrices and one for the rest; or what the case asks for."""
    kinds = {c.parameter: c for c in discover(model).components if c.part is None}
    q, matrices, vectors = [], [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            chosen = kinds[name].component_class in ("selection", "mixed") if name in kinds else False
            (vectors if p.dim() < 2 else q if chosen else matrices).append(p)
    groups = [{"params": q}, {"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    common = {"lr": case.eta, "weight_decay": case.weight_decay}
    if case.optimizer == "lion":
        return [Lion(groups, **common)]
    if case.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=0.9, **common)]
    if case.optimizer == "adafactor":
        return [torch.optim.Adafactor(groups, **common)]
    if case.optimizer == "adamw95":
        return [torch.optim.AdamW(groups, betas=(0.9, 0.95), **common)]
    if case.optimizer == "adam-l2":
        return [torch.optim.Adam(groups, lr=case.eta, weight_decay=1e-4)]
    if case.optimizer == "muon":
        muon = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n and "head" not in n]
        others = [p for n, p in model.named_parameters() if not (p.dim() == 2 and "embed" not in n and "head" not in n)]
        return [
            torch.optim.Muon(muon, lr=case.eta * 5, weight_decay=case.weight_decay),
            torch.optim.AdamW(others, **common),
        ]
    return [torch.optim.AdamW(groups, **common)]


def rate(case: Case, step: int) -> float:
    """η of a step (from 1) as a share of the peak."""
    if step <= case.warmup:
        return step / case.warmup
    phase = (step - case.warmup) / (case.steps - case.warmup)
    if case.schedule == "constant":
        return 1.0
    if case.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * phase))
    if case.schedule == "linear":
        return 1.0 - phase
    if case.schedule == "stable-decay":
        return 1.0 if phase < 0.75 else 1.0 - 0.95 * (phase - 0.75) / 0.25
    if case.schedule == "restarts":
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (3 * phase % 1.0)))
    raise ValueError(case.schedule)
