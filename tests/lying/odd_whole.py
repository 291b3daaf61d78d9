"""Models that are odd as a whole: heads, towers, hooks, wrappers, and code that asks tensors for numbers."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import WIDTH, Sdpa
from lying.base import Names, Role, linear
from lying.feed_forward import WIDE, InAndOut
from lying.whole import Block, Model, ids, whole


@whole
def head_of_two_matrices(names: Names) -> tuple[nn.Module, Any]:
    """A classifier on the first position: no block of the stream, since nothing is added."""

    class Classifier(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(last1=(linear(WIDTH, WIDTH), Role("last")), last2=(linear(WIDTH, 3), Role("last")))
            self.roles[self.called["head"]] = Role("any")

        def forward(self, x: Tensor) -> Tensor:
            return self["last2"](torch.tanh(self["last1"](self.stream(self["emb"](x))[:, 0])))  # type: ignore[no-any-return]

    return Classifier(names), (ids(),)


@whole
def picture_into_words(names: Names) -> tuple[nn.Module, Any]:
    """A tower's outputs go through two matrices into the stream of another, among words."""

    class Joined(Model):
        def __init__(self, names: Names):
            super().__init__(names)
            self.put(tower=Block(names, Sdpa, InAndOut), emb1=nn.Conv2d(3, WIDTH, 4, 4))
            self.put(none1=linear(WIDTH, 50), none2=linear(50, WIDTH))

        def forward(self, x: Tensor, picture: Tensor) -> Tensor:
            y = self["tower"](self["emb1"](picture).flatten(2).mT)
            y = self["none2"](F.gelu(self["none1"](y)))
            words = self["emb"](x)
            mask = (x < 4)[..., None].expand_as(words)
            words = words.masked_scatter(mask, y.reshape(-1)[: int(mask.sum())].to(words.dtype))
            return self["head"](self.stream(words))  # type: ignore[no-any-return]

    return Joined(names), (ids(), torch.randn(2, 3, 12, 12))


@whole
def with_hooks_and_a_way_back(names: Names) -> tuple[nn.Module, Any]:
    """A module that knows its parent, with hooks that change what goes in and out."""
    model = Model(names)
    for block in model["blocks"]:
        block.__dict__["parent"] = weakref.ref(model)
        block.register_forward_pre_hook(lambda module, args: (args[0] * 1.0,))
        block.register_forward_hook(lambda module, args, out: out + 0.0)
    return model, (ids(),)


@whole
def under_two_names(names: Names) -> tuple[nn.Module, Any]:
    model = Model(names)
    model.add_module("alias", model["blocks"][0])
    return model, (ids(),)


@whole
def copied_and_wrapped(names: Names) -> tuple[nn.Module, Any]:
    return nn.DataParallel(copy.deepcopy(Model(names))), (ids(),)


@whole
def asks_numpy(names: Names) -> tuple[nn.Module, Any]:
    """Positions by numpy, checks of values, and a list of numbers."""

    class Asks(Model):
        def forward(self, x: Tensor) -> Tensor:
            places = torch.as_tensor(x.cpu().numpy().argsort(-1))
            y = self["emb"](x).gather(1, places[..., None].expand(-1, -1, WIDTH))
            assert torch.isfinite(y).all()
            if float(y.detach().mean()) > 1e9 or y.norm().item() > 1e9:
                raise ValueError("too large")
            sizes = [len(row) for row in y.tolist()]
            return self["head"](self.stream(y[:, : max(sizes)]))  # type: ignore[no-any-return]

    return Asks(names), (ids(),)


@whole
def traced_by_fx(names: Names) -> tuple[nn.Module, Any]:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.roles = {"a": Role("emb"), "b": Role("head"), "c": Role("gate"), "d": Role("up"), "e": Role("down")}
            self.a, self.b = nn.Embedding(30, WIDTH), linear(WIDTH, 30)
            self.c, self.d, self.e = linear(WIDTH, WIDE), linear(WIDTH, WIDE), linear(WIDE, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x + self.e(F.silu(self.c(x)) * self.d(x)))  # type: ignore[no-any-return]

    made = torch.fx.symbolic_trace(Flat())
    made.roles = Flat().roles
    return made, (ids(),)


@whole
def exported_data(names: Names) -> tuple[nn.Module, Any]:
    """A tensor's data is given to another, as Megatron does to free memory."""

    class Viewless(Model):
        def stream(self, x: Tensor) -> Tensor:
            for block in self["blocks"]:
                y = block(x)
                x = torch.empty((1,), dtype=y.dtype, device=y.device)
                x.data = y.data
            return self["last"](x)  # type: ignore[no-any-return]

    return Viewless(names), (ids(),)
