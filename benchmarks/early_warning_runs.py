"""The trainings of the study of early warnings: three small models, six faults, and what is read of them every few steps."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM, AutoModelForImageClassification
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from weibull_monitor import Component, fit_weibull
from weibull_monitor.model.components import discover

START = 100
"""Step of the fault."""
EVERY = 5
"""Steps between samples."""
LONGEST = 400
"""Steps of a run at most. One that has diverged ends earlier."""
BATCH, WINDOW, WIDTH, BLOCKS, HEADS = 8, 32, 64, 2, 4
ETA = {"opt": 4e-3, "llama": 3e-3, "vit": 2e-3}
WARMUP, BETAS = 20, (0.9, 0.999)
CLASSES, IMAGE, PATCH = 10, 16, 4
FAULTS = (
    "",
    "rate of q and k",
    "growing rate",
    "logits blown up",
    "low-precision attention",
    "poisoned corpus",
    "beta2 too high",
)
SELECTION = ("attn_q", "attn_k")

_TEXT = {
    "vocab_size": 256,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": WINDOW,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "opt": _TEXT | {"word_embed_proj_dim": WIDTH, "ffn_dim": 4 * WIDTH, "dropout": 0.0, "attention_dropout": 0.0},
    "llama": _TEXT | {"intermediate_size": 176, "num_key_value_heads": 2, "rope_theta": 1000.0},
    "vit": {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "num_channels": 1,
        "num_labels": CLASSES,
    },
}


@dataclass(frozen=True)
class Run:
    """One training; ``fault`` is empty for a healthy one."""

    arch: str
    fault: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.arch}/{self.fault or 'healthy'}/{self.seed}"


class Rounded(torch.autograd.Function):
    """Attention as flash attention computes it, with the output of the softmax rounded down to a few bits of mantissa.

    The backward pass takes the row sums of dO·O from the rounded output, as flash attention does: so the error of the rounding,
    which always has the same sign, gets into the gradient of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, bits: int) -> Tensor:
        weights = logits.softmax(dim=-1)  # (batch, heads, queries, keys)
        dropped = 23 - bits
        rounded = ((weights.view(torch.int32) >> dropped) << dropped).view(torch.float32)  # towards zero
        out = rounded @ value
        ctx.save_for_backward(weights, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, value, out = ctx.saved_tensors
        inner = grad @ value.transpose(-1, -2) - (grad * out).sum(dim=-1, keepdim=True)
        return weights * inner, weights.transpose(-1, -2) @ grad, None


class Attention:
    """The attention function of all models here. `bits` rounds it; `entropies` collects the entropy of its rows."""

    bits: int | None = None
    entropies: list[float] | None = None

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if key.shape[1] != query.shape[1]:  # grouped queries
            key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
        logits = query @ key.transpose(-1, -2) * scaling
        if attention_mask is not None:
            logits = logits + attention_mask
        if self.entropies is not None:
            weights = logits.softmax(dim=-1)
            rows = -(weights * weights.clamp_min(1e-30).log()).sum(dim=-1)  # (batch, heads, queries)
            self.entropies.append(float(rows[..., 1:].mean() / math.log(key.shape[2])))
        out = logits.softmax(dim=-1) @ value if self.bits is None else Rounded.apply(logits, value, self.bits)
        return out.transpose(1, 2).contiguous(), None


attention = Attention()
AttentionInterface.register("study", attention)
AttentionMaskInterface.register("study", eager_mask)


def build(run: Run) -> nn.Module:
    torch.manual_seed(run.seed)
    config = CONFIG_MAPPING[run.arch](**ARCHITECTURES[run.arch])
    auto = AutoModelForImageClassification if run.arch == "vit" else AutoModelForCausalLM
    model: nn.Module = auto.from_config(config, attn_implementation="study")
    return model


class Data:
    """Windows of Python's standard library, or pictures of ten shapes with noise; labels may be poisoned."""

    def __init__(self, run: Run) -> None:
        self._random = torch.Generator().manual_seed(1000 + run.seed)
        self._pictures = run.arch == "vit"
        if self._pictures:
            self._shapes = torch.randn(CLASSES, 1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(7))
        else:
            files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
            data = b"".join(file.read_bytes() for file in files)[:2_000_000]
            self._tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()

    def batch(self, poisoned: float = 0.0) -> dict[str, Tensor]:
        """A batch, of which a share of the examples has random labels."""
        bad = torch.rand(BATCH, generator=self._random) < poisoned
        if self._pictures:
            labels = torch.randint(CLASSES, (BATCH,), generator=self._random)
            noise = torch.randn(BATCH, 1, IMAGE, IMAGE, generator=self._random)
            inputs = {"pixel_values": 0.6 * self._shapes[labels] + noise}
            wrong = torch.randint(CLASSES, (BATCH,), generator=self._random)
            return inputs | {"labels": torch.where(bad, wrong, labels)}
        at = torch.randint(len(self._tokens) - WINDOW, (BATCH,), generator=self._random)
        tokens = torch.stack([self._tokens[i : i + WINDOW] for i in at.tolist()])
        wrong = torch.randint(256, tokens.shape, generator=self._random)
        return {"input_ids": tokens, "labels": torch.where(bad[:, None], wrong, tokens)}


def groups_of(model: nn.Module, components: Sequence[Component]) -> list[dict[str, Any]]:
    """Parameter groups: q and k, other matrices, vectors."""
    kinds = {c.parameter: c.kind for c in components}
    apart: dict[int, list[nn.Parameter]] = {0: [], 1: [], 2: []}
    for name, p in model.named_parameters():
        apart[2 if p.dim() < 2 else 0 if kinds.get(name) in SELECTION else 1].append(p)
    return [{"params": apart[0]}, {"params": apart[1]}, {"params": apart[2], "weight_decay": 0.0}]


def update_of(state: dict[str, Any], betas: tuple[float, float], eps: float) -> Tensor:
    """AdamW's update m̂/(√v̂ + ε) from its state."""
    step = float(state["step"])
    mean, square = state["exp_avg"] / (1 - betas[0] ** step), state["exp_avg_sq"] / (1 - betas[1] ** step)
    return mean / (square.sqrt() + eps)


def heads(q: Tensor, k: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """W_q and W_k of each query head, (head size, width) each."""
    size = q.shape[0] // HEADS
    shared = HEADS // (k.shape[0] // size)
    for h in range(HEADS):
        yield q[h * size : (h + 1) * size], k[h // shared * size : (h // shared + 1) * size]


def spectral(before: Sequence[Tensor], now: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Of each head, the largest singular value of W_qᵀW_k, and the spectral entropy of its first-order change."""
    products, changes = [], []
    for (q0, k0), (q1, k1) in zip(heads(*before), heads(*now), strict=True):
        products.append(q1.T @ k1)
        changes.append((q1 - q0).T @ k0 + q0.T @ (k1 - k0))
    largest = torch.linalg.matrix_norm(torch.stack(products), ord=2)
    energy = torch.linalg.svdvals(torch.stack(changes)).square()
    share = energy / energy.sum(dim=-1, keepdim=True)
    entropy = -(share * share.clamp_min(1e-30).log()).sum(dim=-1)
    return largest.tolist(), entropy.tolist()


def train(run: Run) -> dict[str, Any]:
    """Trains and returns the loss of every step and the signals of every sample."""
    model, data = build(run), Data(run)
    fixed = Data(Run(run.arch, "", 10_000)).batch()
    components = [c for c in discover(model).components if c.part is None and c.kind.startswith(("attn_", "ffn_"))]
    weights = dict(model.named_parameters())
    betas = (0.9, 0.9999) if run.fault == "beta2 too high" else BETAS
    optimizer = torch.optim.AdamW(groups_of(model, components), lr=ETA[run.arch], betas=betas, weight_decay=0.1)
    losses: list[float] = []
    samples: list[dict[str, Any]] = []
    kept = {c.name: weights[c.parameter].detach().clone() for c in components if c.kind in SELECTION}
    attention.bits = None
    for step in range(1, LONGEST + 1):
        since = max(0, step - START)
        rates = [ETA[run.arch] * min(1.0, step / WARMUP)] * 3
        if run.fault == "rate of q and k":
            rates[0] *= 1.03**since
        elif run.fault == "growing rate":
            rates = [r * 1.03**since for r in rates]
        for group, eta in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = eta
        attention.bits = 0 if run.fault == "low-precision attention" and since else None
        poisoned = min(1.0, since / 200) if run.fault == "poisoned corpus" else 0.0
        loss = model(**data.batch(poisoned)).loss
        losses.append(round(float(loss.detach()), 5))
        if not math.isfinite(losses[-1]):
            break
        scale = min(1.05**since, 1e9) if run.fault == "beta2 too high" else 1.0
        (loss * scale).backward()
        sampled = step % EVERY == 0
        norm = (
            float(torch.stack([p.grad.norm() for p in weights.values() if p.grad is not None]).norm()) / scale
            if sampled
            else 0.0
        )
        optimizer.step()
        optimizer.zero_grad()
        if run.fault == "logits blown up" and since:
            with torch.no_grad():
                for c in components:
                    if c.kind in SELECTION:
                        weights[c.parameter].mul_(1.01)
        if sampled:
            samples.append(
                sample(step, norm, components, weights, optimizer, kept) | {"entropy": entropy(model, fixed)}
            )
        if step > START + 20 and min(losses[-15:]) > 1.5 * sum(losses[START - 10 : START]) / 10:
            break  # it has diverged
    return {
        "arch": run.arch,
        "fault": run.fault,
        "seed": run.seed,
        "loss": losses,
        "samples": samples,
        "names": [[c.name, c.label, c.block] for c in components],
    }


def entropy(model: nn.Module, fixed: dict[str, Tensor]) -> list[float]:
    """Entropy of the attention of each block on a fixed batch, as a share of the highest."""
    attention.entropies, bits, attention.bits = [], attention.bits, None
    with torch.no_grad():
        model(**fixed)
    out, attention.entropies, attention.bits = attention.entropies, None, bits
    return [round(value, 5) for value in out]


def sample(
    step: int,
    norm: float,
    components: Sequence[Component],
    weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    kept: dict[str, Tensor],
) -> dict[str, Any]:
    """The signals after a step; ``kept`` holds W_q and W_k of the sample before, and then of this one."""
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    w = [weights[c.parameter].detach() for c in components]
    group = optimizer.param_groups[0]
    u = [update_of(optimizer.state[weights[c.parameter]], group["betas"], group["eps"]) for c in components]
    fits = fit_weibull(w + u)
    of_w, of_u = fits[: len(w)], fits[len(w) :]
    largest: list[list[float]] = []
    entropies: list[list[float]] = []
    by_block = {(c.block, c.kind): c for c in components}
    for block in range(BLOCKS):
        pair = [by_block[block, kind] for kind in SELECTION]
        now = [weights[c.parameter].detach().clone() for c in pair]
        top, change = spectral([kept[c.name] for c in pair], now)
        largest.append(top)
        entropies.append(change)
        kept |= {c.name: value for c, value in zip(pair, now, strict=True)}

    def numbers(values: Sequence[float]) -> list[float | None]:
        return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]

    return {
        "step": step,
        "gradient": norm,
        "k": numbers([f.k for f in of_w]),
        "lambda": numbers([f.lambda_ for f in of_w]),
        "rms": numbers([f.rms for f in of_w]),
        "u_k": numbers([f.k for f in of_u]),
        "u_lambda": numbers([f.lambda_ for f in of_u]),
        "u_rms": numbers([f.rms for f in of_u]),
        "eta": numbers([rates[id(weights[c.parameter])] for c in components]),
        "spectral": [numbers(v) for v in largest],
        "change_entropy": [numbers(v) for v in entropies],
    }
