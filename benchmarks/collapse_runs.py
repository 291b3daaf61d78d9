"""Small trainings whose attention collapses because q and k have too high a rate, and their healthy twins.

Each run leaves a history, and the entropy of the attention on a fixed batch every five steps.
"""

from __future__ import annotations

import json
import math
import re
import sysconfig
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from collapse_models import OWN
from corpus_optimizers import Lion, Muon, is_hidden
from torch import nn

from weibull_monitor import WeibullMonitor
from weibull_monitor.model.components import discover

WINDOW, BATCH, STEPS, EVERY, LATER = 48, 8, 400, 5, 70


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        arch: One of `ARCHITECTURES`.
        seed: Chooses weights, data and, where the fault comes late, its step.
        fault: ``none``; ``x10``, ``x30`` from the start; ``late x10``, ``late x30``; ``ramp``, 2 % more at each step; with
            ``all`` before it, for all matrices.
        eta: Highest η of all other matrices.
        warmup: Steps of rising η.
        init: ``own``, ``uniform`` (PyTorch's default) or ``trained`` (goes on from a training of its own).
        optimizer: ``adamw``, ``lion``, ``sgd`` or ``muon`` (with AdamW for what is not a matrix of a block).
        schedule: ``cosine`` or ``constant``.
    """

    arch: str
    seed: int = 0
    fault: str = "none"
    eta: float = 1e-3
    warmup: int = 20
    init: str = "own"
    optimizer: str = "adamw"
    schedule: str = "cosine"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "_".join(str(v).replace(" ", "") for v in asdict(self).values())


class NanoAttention(nn.Module):
    """The attention of a nanoGPT, with one matrix for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_head = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.attention: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(d, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.n_head)
        mask = torch.ones(t, t, dtype=torch.bool).tril()
        self.attention = scores.masked_fill(~mask, -math.inf).softmax(-1)
        return self.c_proj((self.attention @ v).transpose(1, 2).reshape(b, t, d))


class NanoBlock(nn.Module):
    """A block of a nanoGPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = NanoAttention(width, heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width, bias=False))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class NanoGPT(nn.Module):
    """A small GPT whose output layer is tied to its embedding."""

    def __init__(self, width: int = 96, blocks: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(257, width), nn.Embedding(WINDOW, width)
        self.h = nn.ModuleList(NanoBlock(width, heads) for _ in range(blocks))
        self.ln_f = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        x = self.wte(input_ids) + self.wpe.weight[: input_ids.shape[1]]
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        attentions = tuple(block.attn.attention for block in self.h)
        return transformers.utils.ModelOutput(loss=loss, attentions=attentions)


TEXT = {"vocab_size": 257, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_LLAMA = TEXT | {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 3,
}
_T5 = {"vocab_size": 257, "d_model": 96, "d_kv": 24, "d_ff": 256, "num_layers": 2, "num_heads": 4}
_WHISPER = {
    "vocab_size": 257,
    "d_model": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "num_mel_bins": 16,
    "max_source_positions": WINDOW,
    "max_target_positions": 64,
    "pad_token_id": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "decoder_start_token_id": 256,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
}
_OPT = {
    "hidden_size": 96,
    "word_embed_proj_dim": 96,
    "ffn_dim": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}
_BART = {
    name: _WHISPER[name]
    for name in _WHISPER
    if name.endswith(("layers", "heads", "dim", "token_id", "d_model", "size"))
} | {
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
    "dropout": 0.0,
}
_VIT = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": 30,
    "patch_size": 6,
    "num_labels": 10,
}
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "opt": ("text", "opt", TEXT | _OPT),
    "llama": ("text", "llama", _LLAMA),
    "llama-gqa": ("text", "llama", _LLAMA | {"num_key_value_heads": 2}),
    "gpt2": ("text", "gpt2", TEXT | {"n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "nano": ("text", "", {}),
    "bert": ("masked", "bert", _LLAMA | {"pad_token_id": 0}),
    "vit": ("image", "vit", _VIT),
    "neox": ("text", "gpt_neox", _LLAMA),
    "t5": ("pairs", "t5", _T5 | {"decoder_start_token_id": 0, "pad_token_id": 0}),
    "whisper": ("sound", "whisper", _WHISPER),
    "qwen3": ("text", "qwen3", _LLAMA | {"num_key_value_heads": 2, "head_dim": 24}),
    "deepseek": ("text", "deepseek_v3", _LLAMA | _LATENT),
    "phi": ("text", "phi", _LLAMA),
    "bart": ("pairs", "bart", _BART),
    "stablelm": ("text", "stablelm", _LLAMA | {"num_key_value_heads": 4}),
    "pegasus": ("pairs", "pegasus", {name: _BART[name] for name in _BART if name != "forced_eos_token_id"}),
    "dinov2": ("image", "dinov2", {name: _VIT[name] for name in _VIT if name != "intermediate_size"} | {"mlp_ratio": 2}),
    "gemma": ("text", "gemma", _LLAMA | {"num_key_value_heads": 1, "head_dim": 24}),
}  # fmt: skip
"""Kind of data, model type and configuration."""
AUTO = {
    "text": transformers.AutoModelForCausalLM,
    "masked": transformers.AutoModelForMaskedLM,
    "image": transformers.AutoModelForImageClassification,
    "pairs": transformers.AutoModelForSeq2SeqLM,
    "sound": transformers.AutoModelForSpeechSeq2Seq,
}


def build(training: Training) -> nn.Module:
    """A model of its architecture and initialisation."""
    torch.manual_seed(training.seed)
    _, kind, arguments = ARCHITECTURES.get(training.arch, ("", "", {}))
    model: nn.Module
    if training.arch in OWN:
        model = OWN[training.arch][1]()
    elif not kind:
        model = NanoGPT()
    else:
        config = transformers.CONFIG_MAPPING[kind](**arguments)
        model = AUTO[ARCHITECTURES[training.arch][0]].from_config(config, attn_implementation="eager")
    if training.init == "uniform":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    return model


@cache
def _text() -> torch.Tensor:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    data = b"".join(file.read_bytes() for file in files)[:3_000_000]
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def batch_of(arch: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A batch of its kind of data."""
    data = OWN[arch][0] if arch in OWN else ARCHITECTURES[arch][0]
    at = torch.randint(len(_text()) - WINDOW, (BATCH,), generator=generator)
    tokens = torch.stack([_text()[i : i + WINDOW] for i in at.tolist()])
    if data == "text":
        return {"input_ids": tokens, "labels": tokens}
    if data == "masked":
        hidden = torch.rand(tokens.shape, generator=generator) < 0.15
        return {"input_ids": tokens.masked_fill(hidden, 256), "labels": tokens.masked_fill(~hidden, -100)}
    if data == "pairs":
        return {"input_ids": tokens, "labels": tokens.flip(1)[:, : WINDOW // 2].contiguous()}
    if data == "sound":  # each byte sounds for two frames: 16 mel bins
        sound = torch.nn.functional.one_hot(tokens % 16, 16).float().repeat_interleave(2, dim=1).transpose(1, 2)
        noise = torch.randn(sound.shape, generator=generator) * 0.3
        return {"input_features": sound + noise, "labels": tokens[:, : WINDOW // 2].contiguous()}
    # Images of a wave: its direction and frequency are the class.
    label = torch.randint(10, (2 * BATCH,), generator=generator)
    angle, frequency = label.float() * math.pi / 10.0, 0.5 + 0.1 * (label % 3).float()
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(30.0), indexing="ij")
    phase = torch.rand(len(label), generator=generator) * 6.28
    wave = x[None] * angle.cos()[:, None, None] + y[None] * angle.sin()[:, None, None]
    image = (wave * frequency[:, None, None] + phase[:, None, None]).sin()[:, None].repeat(1, 3, 1, 1)
    return {"pixel_values": image + torch.randn(image.shape, generator=generator), "labels": label}


def entropies(model: nn.Module, batch: dict[str, torch.Tensor]) -> list[float]:
    """Entropy of each attention on a batch, from 0 to 1: over the logarithm of the number of keys that a query may see."""
    with torch.no_grad():
        model.eval()
        out = model(**batch, output_attentions=True)
        model.train()
    names = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    found = []
    for attention in (a for name in names for a in (getattr(out, name, None) or ())):
        causal = bool((attention[0, 0].triu(1) == 0).all()) and attention.shape[-1] == attention.shape[-2]
        keys = torch.arange(1.0, attention.shape[-1] + 1) if causal else torch.tensor(float(attention.shape[-1]))
        entropy = torch.special.entr(attention).sum(-1) / keys.log()
        found.append(float((entropy[..., 1:] if causal else entropy).mean()))
    return found


def rate(training: Training, step: int) -> float:
    """η of a step (from 1), as a share of the highest."""
    if step <= training.warmup:
        return step / training.warmup
    if training.schedule == "constant":
        return 1.0
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * (step - training.warmup) / (STEPS - training.warmup)))


def onset(training: Training) -> int:
    """Step from which q and k have another rate."""
    return 150 + 37 * (training.seed % 4) if "late" in training.fault else 0


def factor(training: Training, step: int) -> float:
    """By how much the rate of q and k is too high at a step."""
    if training.fault.endswith("ramp"):
        return 1.02 ** max(0, step - 100)
    if training.fault == "none" or step <= onset(training):
        return 1.0
    return float(training.fault.rpartition("x")[2])


def train(training: Training, place: Path) -> Path:
    """Trains, and writes a history and ``outcome.json`` into a folder of ``place``; returns the folder."""
    folder = place / training.name
    if (folder / "outcome.json").exists():
        return folder
    torch.set_num_threads(1)
    model = build(training)
    if training.init == "trained":
        model.load_state_dict(torch.load(_pretrained(training, place)))
    kinds = {c.parameter: c.component_class for c in discover(model).components if c.part is None}
    chosen = {name for name, kind in kinds.items() if kind in ("selection", "mixed") or re.search(r"\bWqkv\b", name)}
    q = [p for name, p in model.named_parameters() if name in chosen]
    rest = [p for name, p in model.named_parameters() if name not in chosen]
    groups: list[dict[str, Any]] = [{"params": q}, {"params": rest}]
    eta = training.eta
    optimizer: torch.optim.Optimizer
    if training.optimizer == "lion":
        optimizer = Lion(groups, lr=eta, weight_decay=0.1)
    elif training.optimizer == "muon":
        hidden = [p for name, p in model.named_parameters() if name not in chosen and is_hidden(name, p)]
        other = [p for name, p in model.named_parameters() if name not in chosen and not is_hidden(name, p)]
        groups = [{"params": q}, {"params": hidden}, {"params": other, "use_muon": False}]
        optimizer = Muon(groups, lr=eta, weight_decay=0.1)
    elif training.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=eta, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(groups, lr=eta, weight_decay=0.1, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(1000 + training.seed)
    fixed = batch_of(training.arch, torch.Generator().manual_seed(999))
    torch.manual_seed(training.seed)
    losses, entropy = [], [[0, *entropies(model, fixed)]]
    monitor = WeibullMonitor(
        model,
        optimizer,
        output_dir=folder,
        # Every step is sampled where a run with the defaults may take samples after a jump.
        every_n_steps=lambda s: s % EVERY == 0 or s in (1, 2, 4, 8, 16, 32, 64) or 0 < s - onset(training) <= LATER,
    )
    for step in range(1, STEPS + 1):
        for i, group in enumerate(optimizer.param_groups):
            wrong = i == 0 or training.fault.startswith("all")
            group["lr"] = eta * rate(training, step) * (factor(training, step) if wrong else 1.0)
        loss = model(**batch_of(training.arch, generator)).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        monitor.step(last=step == STEPS)
        if step % EVERY == 0:
            entropy.append([step, *entropies(model, fixed)])
    monitor.close()
    (folder / "outcome.json").write_text(
        json.dumps({"training": asdict(training), "losses": losses, "entropy": entropy, "onset": onset(training)})
    )
    return folder


def _pretrained(training: Training, place: Path) -> Path:
    """The weights that a training goes on from: those after its twin from scratch."""
    path = place / f"{training.arch}_{training.seed}.pt"
    if not path.exists():
        model = build(training)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
        generator = torch.Generator().manual_seed(500 + training.seed)
        for step in range(1, 2 * STEPS + 1):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, step / 40)
            loss = model(**batch_of(training.arch, generator)).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        torch.save(model.state_dict(), path)
    return path
