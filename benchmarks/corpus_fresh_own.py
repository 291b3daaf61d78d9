"""Families that no rule was chosen with, of sequences: blocks of well-known code bases on texts and on made-up tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from corpus_families import BYTES, WIDTH, Batch, Task, windows
from corpus_fresh_blocks import (
    Cross,
    Diagonal,
    How,
    Linear,
    Meta,
    Mini,
    Modded,
    Palm,
    Receptance,
    Spatial,
    Stack,
    begun,
)
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS: Final = BYTES + 1
Make = Callable[[torch.Generator, int], Batch]


def asked(x: Tensor, y: Tensor) -> Batch:
    return {"x": x, "y": y}


def answered(model: nn.Module, given: Batch) -> Tensor:
    """The cross-entropy of the wanted tokens; -100 where none is wanted."""
    return F.cross_entropy(model(given["x"]).flatten(0, 1), given["y"].flatten(), ignore_index=-100)


# What is learned: x and y have shapes (size, length).


def text(random: torch.Generator, size: int) -> Batch:
    tokens = windows(random, size, 33)
    return asked(tokens[:, :-1], tokens[:, 1:])


def backwards(random: torch.Generator, size: int) -> Batch:
    tokens = windows(random, size, 33).flip(1)
    return asked(tokens[:, :-1], tokens[:, 1:])


def classes(random: torch.Generator, size: int) -> Batch:
    """For each byte, which of six classes it and the byte before it have."""
    tokens = windows(random, size)
    kind = torch.zeros(256, dtype=torch.long)
    for n, span in enumerate(((97, 123), (65, 91), (48, 58), (32, 33), (10, 11)), start=1):
        kind[span[0] : span[1]] = n
    return asked(tokens, kind[tokens] + 6 * F.pad(kind[tokens], (1, -1)))


def modular(random: torch.Generator, size: int) -> Batch:
    """Ten sums modulo 11 in a row, each as a, b, =; only the answers are asked for. It is learned late, in a jump."""
    a, b = (torch.randint(11, (size, 10), generator=random) for _ in range(2))
    nothing = torch.full_like(a, -100)
    return asked(
        torch.stack([a, b, torch.full_like(a, 11)], dim=2).flatten(1),
        torch.stack([nothing, nothing, (a + b) % 11], dim=2).flatten(1),
    )


def copying(random: torch.Generator, size: int) -> Batch:
    """Fifteen letters, a mark, and the letters again; only the second time is asked for."""
    letters = torch.randint(24, (size, 15), generator=random)
    whole = torch.cat([letters, torch.full((size, 1), 24), letters], dim=1)
    return asked(whole[:, :-1], whole[:, 1:].masked_fill(torch.arange(30) < 15, -100))


def sorting(random: torch.Generator, size: int) -> Batch:
    letters = torch.randint(16, (size, 12), generator=random)
    whole = torch.cat([letters, torch.full((size, 1), 24), letters.sort(1).values], dim=1)
    return asked(whole[:, :-1], whole[:, 1:].masked_fill(torch.arange(24) < 12, -100))


def recalling(random: torch.Generator, size: int) -> Batch:
    """Eight pairs of key and value, and then eight of the keys, whose values are asked for."""
    keys = torch.rand(size, 16, generator=random).argsort(1)[:, :8]
    values = torch.randint(16, 32, (size, 8), generator=random)
    order = torch.rand(size, 8, generator=random).argsort(1)
    told = torch.stack([keys, values], dim=2).flatten(1)
    return asked(
        torch.cat([told, keys.gather(1, order)], dim=1),
        torch.cat([torch.full_like(told, -100), values.gather(1, order)], dim=1),
    )


def parity(random: torch.Generator, size: int) -> Batch:
    bits = torch.randint(2, (size, 16), generator=random)
    return asked(bits, bits.cumsum(1) % 2)


def brackets(random: torch.Generator, size: int) -> Batch:
    """How deep one is in brackets, of which each closes the one before it."""
    turns = torch.randint(0, 2, (size, 28), generator=random) * 2 - 1
    depth, seen = torch.zeros(size, dtype=torch.long), []
    for turn in turns.T:
        depth = torch.where((depth + turn < 0) | (depth + turn > 5), depth - turn, depth + turn)
        seen.append(depth)
    after = torch.stack(seen, dim=1)
    return asked((after > F.pad(after, (1, -1))).long(), after)


def adding(random: torch.Generator, size: int) -> Batch:
    """Two numbers of four digits, the last digits first, and their sum."""
    a, b = (torch.randint(10_000, (size, 1), generator=random) for _ in range(2))
    places = 10 ** torch.arange(5)
    digits = [(n // places % 10)[:, :count] for n, count in ((a, 4), (b, 4), (a + b, 5))]
    whole = torch.cat([digits[0], torch.full((size, 1), 10), digits[1], torch.full((size, 1), 11), digits[2]], dim=1)
    return asked(whole[:, :-1], whole[:, 1:].masked_fill(torch.arange(14) < 9, -100))


def chain(random: torch.Generator, size: int) -> Batch:
    """A walk over 24 states, whose next steps have fixed chances."""
    chances = torch.softmax(2.0 * torch.randn(24, 24, generator=torch.Generator().manual_seed(5)), dim=1)
    walk = [torch.randint(24, (size,), generator=random)]
    for _ in range(24):
        walk.append(torch.multinomial(chances[walk[-1]], 1, generator=random)[:, 0])
    states = torch.stack(walk, dim=1)
    return asked(states[:, :-1], states[:, 1:])


def music(random: torch.Generator, size: int) -> Batch:
    """A scale in one of twelve keys, up and down in steps, with its chord as every fourth note."""
    key = torch.randint(12, (size, 1), generator=random)
    walk = torch.randint(-1, 2, (size, 33), generator=random).cumsum(1)
    scale = torch.tensor([0, 2, 4, 5, 7, 9, 11])
    notes = 36 + key + scale[walk % 7] + 12 * (walk // 7).clamp(-1, 1)
    notes = torch.where(torch.arange(33) % 4 == 0, 80 + key, notes)
    return asked(notes[:, :-1], notes[:, 1:])


class Unrolled(nn.Module):
    """A recurrent network of torch between an embedding and a head, as in PyTorch's word-language example."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int, outputs: int, layers: int = 2) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(inputs, WIDTH), nn.Linear(WIDTH, outputs)
        self.rnn = kind(WIDTH, WIDTH, layers, batch_first=True)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.rnn(self.encoder(x))[0])
        return out


class Dilated(nn.Module):
    """WaveNet: gated causal convolutions of growing reach, with skips to the head."""

    def __init__(self, inputs: int, outputs: int, width: int = 48) -> None:
        super().__init__()
        self.start = nn.Embedding(inputs, width)
        self.filter_convs = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**n) for n in range(5))
        self.residual_convs = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(5))
        self.skip_convs = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(5))
        self.end = nn.Conv1d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, skips = self.start(x).transpose(1, 2), 0.0
        for n, (conv, residual, skip) in enumerate(
            zip(self.filter_convs, self.residual_convs, self.skip_convs, strict=True)
        ):
            value, gate = conv(F.pad(hidden, (2**n, 0))).chunk(2, dim=1)
            seen = value.tanh() * gate.sigmoid()
            skips, hidden = skips + skip(seen), hidden + residual(seen)
        out: Tensor = self.end(F.relu(skips)).transpose(1, 2)  # type: ignore[arg-type]
        return out


class Rewarded(nn.Module):
    """A model whose last place says how good an answer is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Stack([Meta() for _ in range(3)], TOKENS, WIDTH, "tok_embeddings layers norm output")
        self.v_head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.v_head(self.body(x)[:, -1])[:, 0]
        return out


def rewards() -> Task:
    """A reward model: of two texts, the one with fewer wrong bytes is better (Bradley and Terry)."""

    def batch(random: torch.Generator, size: int) -> Batch:
        tokens = windows(random, size, 24)
        wrong = [torch.rand(tokens.shape, generator=random) < share for share in (0.1, 0.5)]
        other = torch.randint(BYTES, tokens.shape, generator=random)
        return {name: torch.where(bad, other, tokens) for name, bad in zip(("better", "worse"), wrong, strict=True)}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        return -F.logsigmoid(model(given["better"]) - model(given["worse"])).mean()

    return Task(begun(Rewarded(), "gpt2"), loss, batch)


class Optimised(nn.Module):
    """An actor and its critic on one body, and the actor of before, as PPO has them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Stack([Cross(width=48) for _ in range(2)], 16, 48, width=48)
        self.actor, self.critic = nn.Linear(48, 16), nn.Linear(48, 1)
        self.before = copy.deepcopy(nn.ModuleList([self.body, self.actor])).requires_grad_(False)


def ppo() -> Task:
    """PPO: acts of the actor of before are rewarded for being the letter after what stands there; it follows slowly."""

    def batch(random: torch.Generator, size: int) -> Batch:
        return {"x": torch.randint(16, (size, 12), generator=random), "dice": torch.rand(size, 12, 1, generator=random)}

    def loss(model: Any, given: Batch) -> Tensor:
        x = given["x"]
        with torch.no_grad():
            for mine, its in zip(
                model.before.parameters(), [*model.body.parameters(), *model.actor.parameters()], strict=True
            ):
                mine.lerp_(its, 0.2)
            old = model.before[1](model.before[0](x)).log_softmax(-1)
            acts = (old.exp().cumsum(-1) < given["dice"]).sum(-1).clamp(max=15)
        hidden = model.body(x)
        new, value = model.actor(hidden).log_softmax(-1), model.critic(hidden)[..., 0]
        reward = (acts == (x + 1) % 16).float()
        gain = reward - value.detach()
        ratio = (new - old).gather(-1, acts[..., None])[..., 0].exp()
        clipped = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        entropy = -(new.exp() * new).sum(-1).mean()
        out = 0.5 * F.mse_loss(value, reward) - clipped.mean() - 0.01 * entropy
        # The value is the share of wrong acts and the gradient PPO's, whose own loss says nothing of what is learned.
        shown: Tensor = out - out.detach() + (1 - reward.mean())
        return shown

    return Task(Optimised(), loss, batch)


def trajectories() -> Task:
    """Trajectory Transformer: states and acts as tokens of 16 bins, one after the other."""

    def batch(random: torch.Generator, size: int) -> Batch:
        state, tokens = torch.rand(size, generator=random) * 2 - 1, []
        for _ in range(12):
            act = (-0.5 * state + 0.2 * torch.randn(size, generator=random)).clamp(-1, 1)
            tokens += [(7.99 * (state + 1)).long(), 16 + (7.99 * (act + 1)).long()]
            state = (state + act + 0.3 * torch.randn(size, generator=random)).clamp(-1, 1)
        whole = torch.stack(tokens, dim=1)
        return asked(whole[:, :-1], whole[:, 1:])

    return Task(begun(Stack([Mini() for _ in range(3)], 32, 32, "tok_emb blocks ln_f head"), "gpt2"), answered, batch)


def layers(
    make: Make, block: Callable[[], nn.Module], number: int, how: How | None = None, words: int = TOKENS, **stack: Any
) -> Callable[[], Task]:
    """A stack of equal blocks that is trained for one of the tasks above."""

    def task() -> Task:
        model = Stack([block() for _ in range(number)], words, words, **stack)
        return Task(begun(model, how) if how else model, answered, make)

    return task


def normed(linear: nn.Linear) -> nn.Module:
    out: nn.Module = nn.utils.parametrizations.weight_norm(linear)
    return out


def bounded(linear: nn.Linear) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(linear)


_META: Final = "tok_embeddings layers norm output"
_CROSS: Final = "token_emb layers final_norm to_logits"

OWN: Final[dict[str, Callable[[], Task]]] = {
    "modded": layers(text, Modded, 4, cap=15.0, places=0),
    "modded_backwards": layers(backwards, lambda: Modded(zero=False), 3, "lecun", places=0),
    "mingpt": layers(text, Mini, 3, "gpt2", names="tok_emb blocks ln_f head"),
    "mingpt_sorting": layers(sorting, lambda: Mini(48), 3, "gpt2", 32, names="tok_emb blocks ln_f head", width=48),
    "mingpt_adding": layers(adding, lambda: Mini(48), 2, "gpt2", 16, width=48),
    "llama2c_deep": layers(text, lambda: Meta(32), 8, "depth", width=32, names=_META, places=0, tied=True),
    "llama2c_one_key": layers(text, lambda: Meta(keys=1), 3, "gpt2", names=_META, places=0),
    "llama2c_post": layers(backwards, lambda: Meta(post=True), 4, "wide", names=_META, places=0),
    "llama2c_recall": layers(recalling, lambda: Meta(48), 2, "lecun", 32, names=_META, width=48, places=0),
    "mup": layers(text, lambda: Meta(96, keys=2), 2, "mup", names="embed layers norm lm_head", width=96, places=0),
    "palm": layers(text, Palm, 3, names=_CROSS, places=0, tied=True),
    "palm_modular": layers(modular, lambda: Palm(48), 2, words=12, names=_CROSS, width=48),
    "alibi": layers(text, lambda: Cross(alibi=True), 3, "gpt2", names=_CROSS, places=0),
    "post_norm": layers(text, lambda: Cross(norm="after"), 4, "xavier", names=_CROSS),
    "sandwich": layers(backwards, lambda: Cross(norm="sandwich", talking=True), 3, "orthogonal", names=_CROSS),
    "layer_scale": layers(text, lambda: Cross(scale=0.1), 5, "lecun", names=_CROSS),
    "zero_outputs": layers(copying, lambda: Cross(48), 2, "zero", 25, names=_CROSS, width=48),
    "weight_norm": layers(text, lambda: Cross(wrap=normed), 3, names=_CROSS),
    "spectral_norm": layers(chain, lambda: Cross(48, wrap=bounded), 2, words=24, names=_CROSS, width=48),
    "universal": layers(modular, lambda: Cross(norm="sandwich"), 1, "xavier", 12, turns=4),
    "tagger": layers(classes, lambda: Cross(causal=False), 2, "xavier", names=_CROSS),
    "linear_attention": layers(text, Linear, 3),
    "rwkv4": layers(text, Receptance, 3, names="emb blocks ln_out head", places=0),
    "rwkv4_parity": layers(parity, lambda: Receptance(32), 2, words=8, width=32, places=0),
    "s4d": layers(text, Diagonal, 4, names="encoder s4_layers norm decoder", places=0),
    "gmlp": layers(text, Spatial, 5, places=0),
    "gru": lambda: Task(Unrolled(nn.GRU, TOKENS, TOKENS), answered, text),
    "lstm_brackets": lambda: Task(Unrolled(nn.LSTM, 2, 8, 1), answered, brackets),
    "wavenet": lambda: Task(Dilated(128, 128), answered, music),
    "rewards": rewards,
    "ppo": ppo,
    "trajectories": trajectories,
}
