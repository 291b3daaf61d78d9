"""Families that no rule was chosen with, written by us: graphs, tables, words, games, series and sets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from corpus_evaluated_senses import waves
from corpus_families import Batch, Task
from corpus_fresh_blocks import Cross
from corpus_fresh_tasks import follow, mlp
from torch import Tensor, nn
from torch.nn import functional as F


class Graph(nn.Module):
    """A graph transformer: attention whose scores have a bias by edge, over 10 nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.node_encoder, self.edge_encoder = nn.Embedding(6, 48), nn.Embedding(3, 4)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(48), "norm2": nn.LayerNorm(48), "q": nn.Linear(48, 48), "k": nn.Linear(48, 48),
                    "v": nn.Linear(48, 48), "o": nn.Linear(48, 48), "ffn": mlp(48, 96, 48, act=nn.GELU),
                }
            )
            for _ in range(3)
        )  # fmt: skip
        self.readout = nn.Linear(48, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x, bias = self.node_encoder(nodes), self.edge_encoder(edges).permute(0, 3, 1, 2)
        for layer in self.layers:
            y = layer["norm1"](x)  # type: ignore[index]
            q, k, v = (layer[n](y).unflatten(-1, (4, 12)).transpose(1, 2) for n in "qkv")  # type: ignore[index]
            att = (q @ k.transpose(-2, -1) / 12**0.5 + bias).softmax(-1)
            x = x + layer["o"]((att @ v).transpose(1, 2).flatten(2))  # type: ignore[index]
            x = x + layer["ffn"](layer["norm2"](x))  # type: ignore[index]
        out: Tensor = self.readout(x)[..., 0]
        return out


class Convolved(nn.Module):
    """A graph convolutional network with sums over neighbours (GIN)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.convs = nn.Embedding(6, 48), nn.ModuleList(mlp(48, 96, 48) for _ in range(3))
        self.out = nn.Linear(48, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x, joined = self.embed(nodes), (edges > 0).float()
        for conv in self.convs:
            x = F.layer_norm(conv(x + joined.type_as(x) @ x), (48,))
        out: Tensor = self.out(x)[..., 0]
        return out


def graph(make: Callable[[], nn.Module]) -> Callable[[], Task]:
    """For each node of a random graph, the sum of its neighbours' kinds, by the kind of the edge."""

    def batch(random: torch.Generator, size: int) -> Batch:
        nodes, edges = torch.randint(6, (size, 10), generator=random), torch.rand(size, 10, 10, generator=random)
        edges = (edges > 0.6).long() + (edges > 0.85).long()
        wanted = (edges.float() @ nodes.float()[..., None])[..., 0] / 5 - 2
        return {"nodes": nodes, "edges": edges, "wanted": wanted}

    return lambda: Task(make(), lambda m, given: F.mse_loss(m(given["nodes"], given["edges"]), given["wanted"]), batch)


class Table(nn.Module):
    """TabTransformer: categories look at each other, and an MLP at them and at numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.categories = nn.ModuleList(nn.Embedding(8, 32) for _ in range(6))
        self.transformer = nn.Sequential(*(Cross(32, causal=False) for _ in range(2)))
        self.mlp = mlp(6 * 32 + 4, 128, 64, 2)

    def forward(self, kinds: Tensor, numbers: Tensor) -> Tensor:
        x = torch.stack([embed(kinds[:, n]) for n, embed in enumerate(self.categories)], dim=1)
        out: Tensor = self.mlp(torch.cat([self.transformer(x).flatten(1), numbers], dim=1))
        return out


def table() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        kinds, numbers = torch.randint(8, (4 * size, 6), generator=random), torch.randn(4 * size, 4, generator=random)
        score = (kinds[:, 0] - 3.5) * numbers[:, 0] + (kinds[:, 1] == kinds[:, 2]).float() * 3 - kinds[:, 3] * 0.3
        return {"kinds": kinds, "numbers": numbers, "labels": (score > 0).long()}

    return Task(Table(), lambda m, given: F.cross_entropy(m(given["kinds"], given["numbers"]), given["labels"]), batch)


class Recommender(nn.Module):
    """DLRM: embeddings of users and things, an MLP below and one above their products."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(number, 16) for number in (200, 300, 20))
        self.bottom_mlp, self.top_mlp = mlp(8, 64, 16), mlp(16 + 6, 64, 32, 1)

    def forward(self, who: Tensor, dense: Tensor) -> Tensor:
        low = self.bottom_mlp(dense)
        both = torch.stack([low, *(embed(who[:, n]) for n, embed in enumerate(self.embeddings))], dim=1)
        one, two = torch.triu_indices(4, 4, 1)
        out: Tensor = self.top_mlp(torch.cat([low, (both @ both.transpose(1, 2))[:, one, two]], dim=1))[:, 0]
        return out


def recommender() -> Task:
    fixed = torch.Generator().manual_seed(17)
    users, things = torch.randn(200, 4, generator=fixed), torch.randn(300, 4, generator=fixed)

    def batch(random: torch.Generator, size: int) -> Batch:
        who = torch.stack([torch.randint(n, (8 * size,), generator=random) for n in (200, 300, 20)], dim=1)
        dense = torch.randn(8 * size, 8, generator=random)
        score = (users[who[:, 0]] * things[who[:, 1]]).sum(1) + dense[:, 0]
        return {"who": who, "dense": dense, "bought": (score > 0).float()}

    return Task(
        Recommender(), lambda m, g: F.binary_cross_entropy_with_logits(m(g["who"], g["dense"]), g["bought"]), batch
    )


class Skipgram(nn.Module):
    """word2vec: two embeddings, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.center, self.context = nn.Embedding(500, 48), nn.Embedding(500, 48)
        nn.init.uniform_(self.center.weight, -0.5 / 48, 0.5 / 48)
        nn.init.zeros_(self.context.weight)


def skipgram() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        word = torch.randint(500, (16 * size,), generator=random)
        near = (word // 10 * 10 + torch.randint(10, word.shape, generator=random)) % 500
        return {"word": word, "near": near, "far": torch.randint(500, (16 * size, 5), generator=random)}

    def loss(model: Any, given: Batch) -> Tensor:
        word = model.center(given["word"])
        good = (word * model.context(given["near"])).sum(-1)
        bad = (word[:, None] * model.context(given["far"])).sum(-1)
        return -(F.logsigmoid(good) + F.logsigmoid(-bad).sum(1)).mean()

    return Task(Skipgram(), loss, batch)


class Values(nn.Module):
    """A Q-network of a walk on a ring, and its target, which follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.q = mlp(16, 96, 96, 3)
        self.target = copy.deepcopy(self.q).requires_grad_(False)


def dqn() -> Task:
    """DQN: reward for standing on place 0 of a ring of 16, by steps to the left, to the right or none."""

    def batch(random: torch.Generator, size: int) -> Batch:
        return {
            "place": torch.randint(16, (4 * size,), generator=random),
            "act": torch.randint(3, (4 * size,), generator=random),
        }

    def loss(model: Any, given: Batch) -> Tensor:
        follow(model.target, model.q, 0.05)
        after = (given["place"] + given["act"] - 1) % 16
        with torch.no_grad():
            wanted = (after == 0).float() + 0.9 * model.target(F.one_hot(after, 16).float()).max(1).values
        mine = model.q(F.one_hot(given["place"], 16).float()).gather(1, given["act"][:, None])[:, 0]
        return F.smooth_l1_loss(mine, wanted)

    return Task(Values(), loss, batch)


class Stacked(nn.Module):
    """N-BEATS: blocks that each take away what they explain of the past, and add to the forecast."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp(48, 96, 96, 48 + 12) for _ in range(4))

    def forward(self, past: Tensor) -> Tensor:
        total = torch.zeros(len(past), 12)
        for block in self.blocks:
            seen, ahead = block(past).split((48, 12), dim=1)
            past, total = past - seen, total + ahead
        return total


def nbeats() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        series = waves(random, 2 * size, 60, 1)[..., 0]
        return {"past": series[:, :48], "wanted": series[:, 48:]}

    return Task(Stacked(), lambda model, given: F.l1_loss(model(given["past"]), given["wanted"]), batch)


class Cloud(nn.Module):
    """A set transformer's encoder on clouds of points, without places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 48)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.classifier = nn.Linear(48, 5)

    def forward(self, points: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.encoder(self.embed(points)).max(1).values)
        return out


def cloud() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        labels = torch.randint(5, (size,), generator=random)
        points = torch.randn(size, 24, 3, generator=random)
        stretch = torch.ones(size, 3).scatter(1, (labels % 3)[:, None], torch.where(labels < 3, 0.2, 3.0)[:, None])
        return {"points": points * stretch[:, None], "labels": labels}

    return Task(Cloud(), lambda model, given: F.cross_entropy(model(given["points"]), given["labels"]), batch)


class Sparse(nn.Module):
    """A sparse autoencoder, 4 times as wide as what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 256), nn.Linear(256, 64)
        with torch.no_grad():
            self.encoder.weight.copy_(self.decoder.weight.T)


def sparse() -> Task:
    atoms = F.normalize(torch.randn(128, 64, generator=torch.Generator().manual_seed(23)), dim=1)

    def batch(random: torch.Generator, size: int) -> Batch:
        used = (torch.rand(16 * size, 128, generator=random) < 0.04) * torch.rand(16 * size, 128, generator=random)
        return {"x": used @ atoms * 4}

    def loss(model: Any, given: Batch) -> Tensor:
        code = F.relu(model.encoder(given["x"]))
        return F.mse_loss(model.decoder(code), given["x"]) * 64 + 0.02 * code.sum(1).mean()

    return Task(Sparse(), loss, batch)


TABLES: Final[dict[str, Callable[[], Task]]] = {
    "graph_transformer": graph(Graph),
    "gin": graph(Convolved),
    "tab_transformer": table,
    "dlrm": recommender,
    "skipgram": skipgram,
    "dqn": dqn,
    "nbeats": nbeats,
    "set_transformer": cloud,
    "sparse_autoencoder": sparse,
}
