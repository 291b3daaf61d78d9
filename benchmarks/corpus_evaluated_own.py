"""Families that are evaluated only and written by us: blocks and ways to train that transformers does not have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from corpus_evaluated_blocks import (
    Attention,
    Decay,
    Gated,
    Language,
    Looking,
    Mixed,
    Plain,
    Recurrent,
    Squeezed,
    UNet,
    Vision,
    Wide,
)
from corpus_evaluated_senses import classified
from corpus_families import BYTES, WIDTH, Batch, Task, causal, images, pictures, windows
from torch import Tensor, nn
from torch.nn import functional as F


def _next(model: nn.Module, given: Batch) -> Tensor:
    return F.cross_entropy(model(given["input_ids"])[:, :-1].flatten(0, 1), given["labels"][:, 1:].flatten())


def _language(*kinds: Callable[[], nn.Module], tied: bool = False) -> Callable[[], Task]:
    return lambda: Task(Language(*(kind() for kind in kinds), tied=tied), _next, causal)


def _look() -> nn.Module:
    return Attention(WIDTH, causal=True)


def unet() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        pixels, _ = images(random, size, side=16)
        return {
            "x": 0.5 * pixels,
            "noise": torch.randn(pixels.shape, generator=random),
            "time": torch.rand(size, generator=random),
        }

    def loss(model: nn.Module, given: Batch) -> Tensor:
        share = given["time"][:, None, None, None]
        mixed = (1 - share).sqrt() * given["x"] + share.sqrt() * given["noise"]
        return F.mse_loss(model(mixed, given["time"]), given["noise"])

    return Task(UNet(), loss, batch)


class Preferred(nn.Module):
    """A policy and the frozen model that it began as, for direct preference optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Language(*(layer() for _ in range(2) for layer in (_look, lambda: Gated(WIDTH, 96))))
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)


def _likelihood(model: Any, tokens: Tensor) -> Tensor:
    """The mean log-likelihood of each sequence, shape (size,)."""
    chances = model(tokens)[:, :-1].log_softmax(-1)
    out: Tensor = chances.gather(-1, tokens[:, 1:, None])[..., 0].mean(-1)
    return out


def preferences() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        chosen = windows(random, size, 24)
        wrong = torch.rand(chosen.shape, generator=random) < 0.4
        return {
            "chosen": chosen,
            "rejected": torch.where(wrong, torch.randint(BYTES, chosen.shape, generator=random), chosen),
        }

    def loss(model: Any, given: Batch) -> Tensor:
        better, worse = (
            _likelihood(model.policy, t) - _likelihood(model.reference, t) for t in (given["chosen"], given["rejected"])
        )
        return -F.logsigmoid(2.0 * (better - worse)).mean() - 0.1 * _likelihood(model.policy, given["chosen"]).mean()

    return Task(Preferred(), loss, batch)


class Distilled(nn.Module):
    """A student and a teacher that is the moving average of it, as in DINO and data2vec."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Language(
            *(layer() for _ in range(2) for layer in (lambda: Attention(WIDTH), lambda: Plain(WIDTH, 160)))
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(), nn.Linear(96, WIDTH))


def distilled() -> Task:
    """The student of a masked text predicts the teacher's hidden states of the whole one, and the masked bytes."""

    def batch(random: torch.Generator, size: int) -> Batch:
        tokens = windows(random, size)
        hidden = torch.rand(tokens.shape, generator=random) < 0.3
        return {"x": tokens.masked_fill(hidden, BYTES), "whole": tokens, "hidden": hidden}

    def loss(model: Any, given: Batch) -> Tensor:
        with torch.no_grad():  # what the last step has made of the student goes into the teacher
            for mine, its in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                mine.lerp_(its, 0.01)
            wanted = F.layer_norm(model.teacher.hidden(given["whole"]), (WIDTH,))
        seen = model.student.hidden(given["x"])
        logits = model.student.to_logits(seen)[given["hidden"]]
        return F.smooth_l1_loss(model.predictor(seen), wanted) + F.cross_entropy(
            logits, given["whole"][given["hidden"]]
        )

    return Task(Distilled(), loss, batch)


class Taught(nn.Module):
    """A small student and a larger frozen teacher, trained for classification by the teacher's logits and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Vision(*(Mixed(64, WIDTH) for _ in range(2)), maps=False)
        self.teacher = Vision(*(Mixed(64, WIDTH) for _ in range(4)), maps=False).requires_grad_(False)


def taught() -> Task:
    def loss(model: Any, given: Batch) -> Tensor:
        mine, its = (m(given["pixel_values"]) for m in (model.student, model.teacher))
        return F.cross_entropy(mine, given["labels"]) + F.mse_loss(mine, its)

    return Task(Taught(), loss, pictures)


class Coded(nn.Module):
    """An autoencoder of pictures with a codebook between its halves (VQ-VAE)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 48, 4, stride=4), nn.GELU(), nn.Conv2d(48, 48, 3, padding=1), nn.GELU(), nn.Conv2d(48, 32, 1)
        )
        self.codebook = nn.Embedding(64, 32)
        self.decoder = nn.Sequential(
            nn.Conv2d(32, 48, 3, padding=1), nn.GELU(), nn.Conv2d(48, 48, 3, padding=1), nn.GELU(),
            nn.ConvTranspose2d(48, 3, 4, stride=4),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        made = self.encoder(pixels).permute(0, 2, 3, 1)
        nearest = self.codebook(torch.cdist(made.flatten(0, 2), self.codebook.weight).argmin(-1)).view_as(made)
        apart = F.mse_loss(nearest, made.detach()) + 0.25 * F.mse_loss(made, nearest.detach())
        return self.decoder((made + (nearest - made).detach()).permute(0, 3, 1, 2)), apart


def coded() -> Task:
    def loss(model: nn.Module, given: Batch) -> Tensor:
        again, apart = model(given["pixel_values"])
        return F.mse_loss(again, given["pixel_values"]) + apart

    return Task(Coded(), loss, pictures)


def _vision(make: Callable[[], nn.Module], blocks: int, maps: bool = True) -> Callable[[], Task]:
    return lambda: Task(Vision(*(make() for _ in range(blocks)), maps=maps), classified, pictures)


OWN: Final[dict[str, Callable[[], Task]]] = {
    "fused_gated": _language(*(_look, lambda: Gated(WIDTH, 96)) * 3),
    "sequences": _language(*(_look, lambda: Plain(WIDTH, 160)) * 3, tied=True),
    "retention": _language(*(lambda: Decay(WIDTH), lambda: Gated(WIDTH, 80)) * 2),
    "recurrent": _language(lambda: Recurrent(WIDTH), _look, lambda: Recurrent(WIDTH), lambda: Plain(WIDTH, 160)),
    "squeezed": _vision(lambda: Squeezed(WIDTH), 4),
    "wide_convolutions": _vision(lambda: Wide(WIDTH), 3),
    "mixer": _vision(lambda: Mixed(64, WIDTH), 4, maps=False),
    "perceiver": lambda: Task(Looking(), classified, pictures),
    "unet": unet,
    "preferences": preferences,
    "distilled": distilled,
    "taught": taught,
    "coded": coded,
}
