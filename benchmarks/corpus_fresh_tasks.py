"""Families that no rule was chosen with, written by us: images, generators, functions and grids."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import torch
from corpus_evaluated_senses import classified
from corpus_families import WIDTH, Batch, Task, images, pictures
from corpus_fresh_blocks import Timm, begun
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with something between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def follow(target: nn.Module, source: nn.Module, share: float) -> None:
    """Moves the target's weights a share of the way to the source's."""
    with torch.no_grad():
        for mine, its in zip(target.parameters(), source.parameters(), strict=True):
            mine.lerp_(its, share)


class Sees(nn.Module):
    """Blocks of timm on patches of 4 × 4 pixels, with a token for the class."""

    def __init__(self, number: int, outputs: int = 10, side: int = 32, width: int = WIDTH, **block: Any) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 8 if side == 32 else 4, stride=8 if side == 32 else 4)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Timm(width, **block) for _ in range(number)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        out: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return out


class ConvMixer(nn.Sequential):
    """ConvMixer, and with ``plain`` a stack of convolutions as in VGG; both with batch norm."""

    def __init__(self, plain: bool = False, width: int = 48) -> None:
        def normed(conv: nn.Module) -> nn.Sequential:
            return nn.Sequential(conv, nn.ReLU() if plain else nn.GELU(), nn.BatchNorm2d(width))

        def block() -> list[nn.Module]:
            if plain:
                return [normed(nn.Conv2d(width, width, 3, padding=1))]
            wide = nn.Conv2d(width, width, 5, padding=2, groups=width)
            return [normed(wide), normed(nn.Conv2d(width, width, 1))]

        blocks = [layer for _ in range(4) for layer in block()]
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
        super().__init__(normed(nn.Conv2d(3, width, 4, stride=4)), *blocks, *end)

    def forward(self, pixel_values: Tensor) -> Tensor:
        for layer in self:
            pixel_values = layer(pixel_values)
        return pixel_values


class Standard(nn.Module):
    """Batch norm without weights and without memory."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


class Contrasted(nn.Module):
    """A vision transformer with a projector and a predictor, and a follower of the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Sees(2, 48, side=16, width=48, scale=0.1)
        self.projector, self.predictor = nn.Sequential(*mlp(48, 96, 32), Standard()), mlp(32, 64, 32)
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.projector)).requires_grad_(False)


def _views(random: torch.Generator, size: int) -> Batch:
    """Two pictures of each of several patterns, each shifted and noisy in its own way."""
    pixels, labels = images(random, size, side=16)
    other = pixels + 0.7 * torch.randn(pixels.shape, generator=random)
    return {"one": pixels, "two": other.roll((1, 1), (2, 3)), "labels": labels}


def simclr() -> Task:
    def loss(model: Any, given: Batch) -> Tensor:
        z = F.normalize(model.projector(model.encoder(torch.cat([given["one"], given["two"]]))), dim=-1)
        size = len(given["one"])
        alike = (z @ z.T / 0.2).masked_fill(torch.eye(2 * size, dtype=torch.bool), -1e4)
        return F.cross_entropy(alike, torch.arange(2 * size).roll(size))

    return Task(Contrasted(), loss, _views)


def byol() -> Task:
    def loss(model: Any, given: Batch) -> Tensor:
        follow(model.target, nn.Sequential(model.encoder, model.projector), 0.02)
        seen = model.predictor(model.projector(model.encoder(given["one"])))
        return 2 - 2 * F.cosine_similarity(seen, model.target(given["two"])).mean()

    return Task(Contrasted(), loss, _views)


class Autoencoder(nn.Module):
    """A variational autoencoder of images of 16 × 16, of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 24, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(24, 48, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(768, 32),
        )
        self.decoder = nn.Sequential(
            nn.Linear(16, 768), nn.Unflatten(1, (48, 4, 4)), nn.ConvTranspose2d(48, 24, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(24, 3, 4, 2, 1),
        )  # fmt: skip

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
        again = self.decoder(mean + noise * (0.5 * log_variance).exp())
        apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        out: Tensor = F.mse_loss(again, pixels) + 0.001 * apart
        return out


def vae() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        return {"pixels": images(random, size, side=16)[0], "noise": torch.randn(size, 16, generator=random)}

    return Task(Autoencoder(), lambda model, given: model(**given), batch)


class Rivals(nn.Module):
    """A generator and a critic of points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        bounded = nn.utils.parametrizations.spectral_norm
        self.generator = mlp(8, 64, 64, 2)
        self.critic = nn.Sequential(
            bounded(nn.Linear(2, 64)),
            nn.LeakyReLU(0.2),
            bounded(nn.Linear(64, 64)),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 1),
        )


def _moons(random: torch.Generator, size: int) -> Tensor:
    turn, which = 3.14 * torch.rand(size, generator=random), torch.rand(size, generator=random) < 0.5
    points = torch.stack([turn.cos(), turn.sin()], dim=1)
    points = torch.where(which[:, None], points, torch.tensor([1.0, 0.5]) - points)
    return points + 0.05 * torch.randn(size, 2, generator=random)


def hinge_gan() -> Task:
    """A GAN with a hinge loss; one step moves both, each by its own loss."""

    def batch(random: torch.Generator, size: int) -> Batch:
        return {"real": _moons(random, 4 * size), "noise": torch.randn(4 * size, 8, generator=random)}

    def loss(model: Any, given: Batch) -> Tensor:
        made = model.generator(given["noise"])
        critical = F.relu(1 - model.critic(given["real"])).mean() + F.relu(1 + model.critic(made.detach())).mean()
        # The difference is zero, and its gradient reaches the generator only.
        out: Tensor = critical + (model.critic(made.detach()) - model.critic(made)).mean()
        return out

    return Task(Rivals(), loss, batch)


def flow_matching() -> Task:
    """Flow matching: from noise to two moons."""

    def batch(random: torch.Generator, size: int) -> Batch:
        return {
            "end": _moons(random, 8 * size),
            "begin": torch.randn(8 * size, 2, generator=random),
            "time": torch.rand(8 * size, 1, generator=random),
        }

    def loss(model: nn.Module, given: Batch) -> Tensor:
        begin, end, time = given["begin"], given["end"], given["time"]
        return F.mse_loss(model(torch.cat([begin + time * (end - begin), time], dim=1)), end - begin)

    return Task(mlp(3, 96, 96, 96, 2, act=nn.SiLU), loss, batch)


class Coupled(nn.Module):
    """RealNVP: couplings that scale and shift one coordinate by what a network makes of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(mlp(1, 48, 48, 2, act=nn.Tanh) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        volume = torch.zeros(len(x))
        for net in self.couplings:
            scale, shift = net(x[:, :1]).chunk(2, dim=1)
            x = torch.cat([x[:, 1:] * scale.tanh().exp() + shift, x[:, :1]], dim=1)
            volume = volume + scale.tanh()[:, 0]
        return (0.5 * x.square().sum(1) - volume).mean()


class Sines(nn.Module):
    """SIREN, with the first values of its paper."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(nn.Linear(64 if n else inputs, 64) for n in range(4))
        self.last = nn.Linear(64, outputs)
        for n, linear in enumerate(self.net):
            nn.init.uniform_(linear.weight, *((-1 / 64, 1 / 64) if n == 0 else (-0.02, 0.02)))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.net:
            x = torch.sin(15.0 * linear(x))
        out: Tensor = self.last(x)
        return out


def heat() -> Task:
    """A physics-informed network for the heat equation: its residual, the beginning and the borders."""

    def batch(random: torch.Generator, size: int) -> Batch:
        return {"inside": torch.rand(8 * size, 2, generator=random), "edge": torch.rand(4 * size, generator=random)}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        at, edge = given["inside"].float().requires_grad_(True), given["edge"]
        first = torch.autograd.grad(model(at).sum(), at, create_graph=True)[0]
        second = torch.autograd.grad(first[:, 0].sum(), at, create_graph=True)[0][:, 0]
        begin = model(torch.stack([edge, torch.zeros_like(edge)], 1))[:, 0] - (3.1416 * edge).sin()
        border = model(torch.stack([(edge > 0.5).float(), edge], 1))
        out: Tensor = (first[:, 1] - 0.1 * second).square().mean() + begin.square().mean() + border.square().mean()
        return out

    return Task(mlp(2, 48, 48, 48, 1, act=nn.Tanh), loss, batch)


def coordinates() -> Task:
    """SIREN learns one image by its coordinates."""

    def batch(random: torch.Generator, size: int) -> Batch:
        at = torch.rand(16 * size, 2, generator=random) * 2 - 1
        wanted = torch.stack([(5 * at[:, 0] + n).sin() * (4 * at[:, 1] * (n + 1)).cos() for n in range(3)], dim=1)
        return {"at": at, "wanted": wanted}

    return Task(Sines(2, 3), lambda model, given: F.mse_loss(model(given["at"]), given["wanted"]), batch)


class Spectral(nn.Module):
    """A Fourier neural operator on grids of 16 × 16."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.lift, self.project = nn.Conv2d(2, width, 1), nn.Conv2d(width, 2, 1)
        self.spectral = nn.ParameterList(0.05 * torch.randn(2, width, width, 8, 5) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for weight, skip in zip(self.spectral, self.skips, strict=True):
            spectrum = torch.fft.rfft2(x.float())[:, :, :8, :5]
            mixed = torch.einsum("bixy,ioxy->boxy", spectrum, torch.complex(weight[0].float(), weight[1].float()))
            x = F.gelu(torch.fft.irfft2(mixed, s=(16, 16)).type_as(x) + skip(x))
        out: Tensor = self.project(x)
        return out


class Weather(nn.Module):
    """A vision transformer that forecasts a grid in patches of 4 × 4."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embeds, self.head = nn.Linear(32, WIDTH), nn.Linear(WIDTH, 32)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(16, WIDTH))
        self.blocks = nn.Sequential(*(Timm(scale=1.0, squared=True) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.blocks(self.token_embeds(F.unfold(x, 4, stride=4).transpose(1, 2)) + self.pos_embed)
        return F.fold(self.head(hidden).transpose(1, 2), 16, 4, stride=4)


def _grids(random: torch.Generator, size: int) -> Batch:
    """Two fields on a torus that drift and mix, and how they are two steps later."""
    field = F.avg_pool2d(F.pad(torch.randn(size, 2, 16, 16, generator=random), (2, 2, 2, 2), mode="circular"), 5, 1) * 3
    later = field.roll((1, 2), (2, 3))
    later = later + 0.3 * later.flip(1) * later
    return {"now": field, "later": later}


def forecast(model: nn.Module) -> Task:
    return Task(model, lambda model, given: F.mse_loss(model(given["now"]), given["later"]), _grids)


def _picture(make: Callable[[], nn.Module], batch: Any = pictures) -> Callable[[], Task]:
    return lambda: Task(make(), classified, batch)


def noise(random: torch.Generator, size: int) -> Batch:
    """Sixty-four fixed pictures of noise with labels by chance, which can only be learned by heart."""
    which = torch.randint(64, (size,), generator=random)
    fixed = torch.Generator().manual_seed(29)
    return {
        "pixel_values": torch.randn(64, 3, 32, 32, generator=fixed)[which],
        "labels": torch.randint(10, (64,), generator=fixed)[which],
    }


TASKS: Final[dict[str, Callable[[], Task]]] = {
    "timm_vit": _picture(lambda: begun(Sees(4), "lecun")),
    "timm_by_heart": _picture(lambda: begun(Sees(3, scale=1.0), "xavier"), noise),
    "timm_squared": _picture(lambda: begun(Sees(6, width=40, scale=0.1, squared=True), "gpt2")),
    "convmixer": _picture(ConvMixer),
    "vgg": _picture(lambda: ConvMixer(plain=True)),
    "simclr": simclr,
    "byol": byol,
    "vae": vae,
    "hinge_gan": hinge_gan,
    "flow_matching": flow_matching,
    "realnvp": lambda: Task(Coupled(), lambda m, given: m(given["x"]), lambda r, size: {"x": _moons(r, 8 * size)}),
    "heat": heat,
    "siren": coordinates,
    "fourier_operator": lambda: forecast(Spectral()),
    "weather": lambda: forecast(begun(Weather(), "gpt2")),
}
