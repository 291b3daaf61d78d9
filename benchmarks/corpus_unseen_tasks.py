"""What models that are drawn at random learn: text, series, images, pairs, and what is noisy by nature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from corpus_families import BYTES, MASK, Batch, images, windows
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Drawn:
    """A task.

    Attributes:
        share: How often it is drawn.
        inputs: Number of tokens, or size of the vectors that come in.
        outputs: Size of the head.
        batch: Makes a batch from random numbers, a size and a length.
        loss: The loss of a batch.
        tokens: Number of tokens; 0 if vectors come in.
        causal: Whether places see only earlier ones.
        length: Length of sequences; 0 for any.
        least: Smallest batch.
    """

    share: int
    inputs: int
    outputs: int
    batch: Callable[[torch.Generator, int, int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    tokens: int = 0
    causal: bool = True
    length: int = 0
    least: int = 1


def _answered(model: nn.Module, given: Batch) -> Tensor:
    logits = model(given["x"], given["source"]) if "source" in given else model(given["x"])
    return F.cross_entropy(logits.flatten(0, 1).float(), given["labels"].flatten())


def _pooled(model: nn.Module, given: Batch) -> Tensor:
    return F.cross_entropy(model(given["x"]).mean(1).float(), given["labels"])


def _near(model: nn.Module, given: Batch) -> Tensor:
    return F.mse_loss(model(given["x"]).float(), given["labels"])


def _text(random: torch.Generator, size: int, length: int) -> Batch:
    text = windows(random, size, length + 1)
    return {"x": text[:, :-1], "labels": text[:, 1:]}


def _prefix(random: torch.Generator, size: int, length: int) -> Batch:
    given = _text(random, size, length)
    labels = given["labels"].clone()
    labels[:, : length // 3] = -100
    return {"x": given["x"], "labels": labels}


def _masked(random: torch.Generator, size: int, length: int) -> Batch:
    text = windows(random, size, length)
    hidden = torch.rand(text.shape, generator=random) < 0.15
    hidden[:, 0] = True
    return {"x": text.masked_fill(hidden, MASK), "labels": text.masked_fill(~hidden, -100)}


def _backwards(random: torch.Generator, size: int, length: int) -> Batch:
    text = windows(random, size, length // 2)
    return {"x": F.pad(text.flip(1), (1, -1)), "labels": text.flip(1), "source": text}


def _kinds(random: torch.Generator, size: int, length: int) -> Batch:
    """Text, text backwards, text with its letters in any order, and other bytes."""
    text, labels = windows(random, size, length), torch.randint(4, (size,), generator=random)
    mixed = text[:, torch.randperm(length, generator=random)]
    made = torch.stack([text, text.flip(1), mixed, 255 - text])
    return {"x": made[labels, torch.arange(size)], "labels": labels}


def _waves(random: torch.Generator, size: int, length: int) -> Tensor:
    """Sums of two waves and noise in four channels, shape (size, length, 4)."""
    time = torch.arange(float(length))[None, :, None]
    phase, speed = (torch.rand(2, size, 1, 4, generator=random) for _ in range(2))
    both = torch.sin(6.3 * phase + (0.2 + 0.6 * speed) * time).sum(0)
    return both + 0.1 * torch.randn(size, length, 4, generator=random)


def _series(random: torch.Generator, size: int, length: int) -> Batch:
    waves = _waves(random, size, length + 1)
    return {"x": waves[:, :-1], "labels": waves[:, 1:]}


def _denoised(random: torch.Generator, size: int, length: int) -> Batch:
    """Waves with noise of a strength that is given as a fifth channel; the noise is asked for, as diffusion models are."""
    waves, strength = _waves(random, size, length), torch.rand(size, 1, 1, generator=random)
    noise = torch.randn(waves.shape, generator=random)
    noisy = (1 - strength).sqrt() * waves + strength.sqrt() * noise
    return {"x": torch.cat([noisy, strength.expand(-1, length, 1)], -1), "labels": noise}


def _cut(pixels: Tensor) -> Tensor:
    """Images of 16 × 16 as 16 patches, shape (size, 16, 48)."""
    return F.unfold(pixels, 4, stride=4).mT


def _pictures(random: torch.Generator, size: int, length: int) -> Batch:
    pixels, labels = images(random, size, side=16)
    return {"x": _cut(pixels), "labels": labels}


def _views(random: torch.Generator, size: int, length: int) -> Batch:
    waves = _waves(random, size, length + 4)
    noise = 0.3 * torch.randn(2, size, length, 4, generator=random)
    return {"x": waves[:, 4:] + noise[0], "other": waves[:, :-4] + noise[1]}


def _alike(model: nn.Module, given: Batch) -> Tensor:
    one, other = (F.normalize(model(given[name]).mean(1).float(), dim=-1) for name in ("x", "other"))
    score = one @ other.T / 0.1
    at = torch.arange(len(one))
    return (F.cross_entropy(score, at) + F.cross_entropy(score.T, at)) / 2


def _acts(random: torch.Generator, size: int, length: int) -> Batch:
    tokens = torch.randint(16, (size, length), generator=random)
    return {"x": tokens, "dice": torch.rand(size, length, 1, generator=random)}


def _rewarded(model: nn.Module, given: Batch) -> Tensor:
    """REINFORCE: the reward is for the letter after; the value is the share of wrong acts, the gradient that of the policy."""
    chances = model(given["x"]).float().log_softmax(-1)
    acts = (chances.detach().exp().cumsum(-1) < given["dice"]).sum(-1).clamp(max=15)
    reward = (acts == (given["x"] + 1) % 16).float()
    chosen = chances.gather(-1, acts[..., None])[..., 0]
    entropy = -(chances.exp() * chances).sum(-1).mean()
    out = -((reward - reward.mean()) * chosen).mean() - 0.003 * entropy
    return out - out.detach() + 1 - reward.mean()


def _returns(random: torch.Generator, size: int, length: int) -> Batch:
    """What follows from a state and an act, with as much noise as there is to learn."""
    tokens = torch.randint(16, (size, length), generator=random)
    worth = torch.sin(tokens.float()) + torch.cos(tokens.roll(1, 1).float())
    return {"x": tokens, "labels": (worth + torch.randn(size, length, generator=random))[..., None]}


def _adversaries(random: torch.Generator, size: int, length: int) -> Batch:
    return {"x": torch.randn(size, length, 8, generator=random), "real": 2 + _waves(random, size, length)}


def _fooled(model: Any, given: Batch) -> Tensor:
    """The value is how far what is made stands from what is real, the gradient that of both players."""
    made, real, fake = model(given["x"], given["real"])
    out = F.softplus(-real.float().mean((1, 2))).mean() + F.softplus(fake.float().mean((1, 2))).mean()
    apart = (made.detach().float().mean() - given["real"].mean()).abs()
    return out - out.detach() + apart


_WORDS: Final = BYTES + 1
TASKS: Final[dict[str, Drawn]] = {
    "next": Drawn(10, _WORDS, _WORDS, _text, _answered, _WORDS),
    "masked": Drawn(4, _WORDS, _WORDS, _masked, _answered, _WORDS, causal=False, least=2),
    "prefix": Drawn(1, _WORDS, _WORDS, _prefix, _answered, _WORDS),
    "translate": Drawn(2, _WORDS, _WORDS, _backwards, _answered, _WORDS),
    "kinds": Drawn(2, _WORDS, 4, _kinds, _pooled, _WORDS, causal=False, least=4),
    "series": Drawn(3, 4, 4, _series, _near),
    "denoised": Drawn(2, 5, 4, _denoised, _near, causal=False, least=4),
    "pictures": Drawn(4, 48, 10, _pictures, _pooled, causal=False, length=16, least=4),
    "views": Drawn(2, 4, 32, _views, _alike, causal=False, least=8),
    "acts": Drawn(1, 16, 16, _acts, _rewarded, 16, least=4),
    "returns": Drawn(1, 16, 1, _returns, _near, 16, least=2),
    "gan": Drawn(1, 8, 4, _adversaries, _fooled, causal=False, least=4),
}
