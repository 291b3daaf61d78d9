"""Faults that are composed: where they strike, what they do there, and when; where, when and how strongly are drawn by chance.

The comments of `KINDS` say in which code path or report such a thing happens. Not all of them can be seen in |w|: a judge
measures how far each has moved k and λ against its healthy twin. ``World.drawn`` has what was drawn: ``when``, and ``strength``
from 0 (mild) to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import torch
from corpus_evaluated_faults import Fault
from corpus_faults import at_call
from corpus_unseen_changes import GRADIENTS, PARTS, SETTINGS, STATES, WHERE, WRITTEN, held
from corpus_world import NotHere, World

from weibull_monitor import Component


@dataclass(frozen=True)
class Kind:
    """A kind of fault, by keys of `WHERE`; of `WRITTEN`, `STATES`, `GRADIENTS` or `SETTINGS`; of `STEPS`; and of `PARTS`."""

    where: str
    what: str
    when: tuple[str, ...]
    part: str = "all of it"


GRADUAL: Final = (
    "larger",
    "smaller",
    "noisy",
    "moved twice",
    "merged",
    "dropped",
    "averaged with another layer",
    "pruned",
)
"""What adds up: if it is done at each step, each goes a twentieth of the way."""
STEPS: Final[dict[str, tuple[int, int]]] = {"once": (1, 1), "some": (5, 60), "on": (10**9, 10**9)}
"""At how many steps, the least and the most: once, at some in a row, or from then on."""


def _first(calls: list[Callable[[], object]], change: Callable[[], object], steps: int) -> None:
    """Makes a change at the first calls."""
    numbers = count(1)
    calls.append(lambda: change() if next(numbers) <= steps else None)


def composed(kind: Kind) -> Fault:
    """A fault of this kind."""

    def fault(world: World) -> None:
        u, when, start = world.chance.random() ** 0.5, world.chance.choice(kind.when), world.chance.random()
        steps = world.chance.randint(*STEPS[when])
        chosen = _alone(WHERE[kind.where](world))
        struck = [held(world, c, u) for c in chosen]
        world.drawn = {
            "where": kind.where,
            "part": kind.part,
            "what": kind.what,
            "when": when,
            "at": steps,
            "strength": u,
        }
        masks = [PARTS[kind.part](s.w, start, u) for s in struck]
        if kind.what in WRITTEN:

            def write() -> None:
                for s, mask in zip(struck, masks, strict=True):
                    new = WRITTEN[kind.what](world, s).to(s.w.dtype)
                    new = torch.lerp(s.w, new, 0.05) if when != "once" and kind.what in GRADUAL else new
                    s.w.copy_(torch.where(mask, new, s.w))

            before = [s.w.clone() for s in struck]
            write()
            if all(torch.equal(s.w, old) for s, old in zip(struck, before, strict=True)):
                raise NotHere("something to change")
            _first(world.after_step, write, steps - 1)
        elif kind.what in STATES:

            def store() -> None:
                for s in struck:
                    STATES[kind.what](world, s)

            store()
            _first(world.after_step, store, steps - 1)
        elif kind.what in GRADIENTS:
            kept: dict[str, Any] = {}

            def learn() -> None:
                for s, mask in zip(struck, masks, strict=True):
                    if s.p.grad is not None:
                        g = s.c.part.select(s.p.grad) if s.c.part else s.p.grad
                        new = g.clone()
                        GRADIENTS[kind.what](world, s._replace(name=s.c.name), new, kept)
                        g.copy_(torch.where(mask, new, g))

            _first(world.before_step, learn, steps)
        else:
            for s in {id(s.p): s for s in struck}.values():
                world.after_step.append(at_call(steps, SETTINGS[kind.what](world, s)))
        world.strike(*chosen)

    return fault


def _alone(found: list[Component]) -> list[Component]:
    """Without the parts of parameters that are there as a whole."""
    whole = {c.parameter for c in found if not c.part}
    return [c for c in found if not (c.part and c.parameter in whole)]


_ONCE: Final = ("once",)
_ON: Final = ("on",)
_LASTS: Final = ("some", "on")
KINDS: Final[dict[str, Kind]] = {
    # A conversion multiplies a matrix by a scale that is in it already, such as the softmax scale or μP's multiplier.
    "a matrix too large": Kind("a matrix", "larger", _ONCE),
    "a matrix too small": Kind("a matrix", "smaller", _ONCE),
    "q or k too large": Kind("q or k", "larger", _ONCE),
    "v too small": Kind("v", "smaller", _ONCE),
    "a kind too large": Kind("a kind", "larger", _ONCE),
    "outputs divided again by depth": Kind("an output", "smaller", _ONCE),
    # Weights are multiplied at each step: a projection to a norm, or a decay that is not multiplied by η.
    "a matrix grows at each step": Kind("a whole matrix", "larger", _LASTS),
    "a block shrinks at each step": Kind("a block", "smaller", _LASTS),
    # ``load_state_dict(strict=False)`` leaves what has another name as it was initialised.
    "a block freshly drawn": Kind("a block", "freshly drawn", _ONCE),
    "a kind freshly drawn": Kind("a kind", "freshly drawn", _ONCE),
    "the later blocks as at the start": Kind("the later blocks", "as at the start", _ONCE),
    "the last matrix freshly drawn": Kind("the last matrix", "freshly drawn", _ONCE),
    # ``_init_weights`` runs over modules that were loaded already, or rows that were added to a vocabulary are drawn at 0.02.
    "a matrix at 0.02": Kind("a whole matrix", "0.02 instead", _ONCE),
    "embedding rows at 0.02": Kind("the embedding", "0.02 instead", _ONCE, "rows"),
    # Buffers that were never filled: meta tensors, memory of a failed broadcast.
    "a matrix zeroed": Kind("a whole matrix", "zeroed", _ONCE),
    "a head zeroed": Kind("a head", "zeroed", _ONCE),
    "an expert zeroed": Kind("an expert", "zeroed", _ONCE),
    "a page zeroed": Kind("a whole matrix", "zeroed", _ONCE, "a page"),
    # A rank reads its shard of another step, or its shard is that of another rank.
    "a shard of an earlier step": Kind("a whole matrix", "of an earlier step", _ONCE, "a shard"),
    "a shard as at the start": Kind("a block", "as at the start", _ONCE, "a shard"),
    "a shard twice": Kind("a whole matrix", "repeated", _ONCE),
    "a page of noise": Kind("a whole matrix", "noisy", _ONCE, "a page"),
    # Layers are counted from one instead of zero, or a pipeline's stages are loaded in another order.
    "another layer's matrix": Kind("a whole matrix", "another layer's", _ONCE),
    "a kind exchanged between layers": Kind("a kind", "exchanged", _ONCE),
    "averaged with another layer": Kind("a whole matrix", "averaged with another layer", _ONCE),
    # Conv1D's weights are (in, out), those of Linear (out, in).
    "a matrix transposed": Kind("a whole matrix", "transposed", _ONCE),
    "rows in another order": Kind("a matrix", "rows in another order", _ONCE),
    "signs of a matrix flipped": Kind("a matrix", "other signs", _ONCE),
    "a matrix shifted": Kind("a whole matrix", "shifted", _ONCE),
    # A delta or an adapter is added to weights that have it.
    "moved twice": Kind("a block", "moved twice", _ONCE),
    "an adapter merged again": Kind("a matrix", "merged", _ONCE),
    "adapters merged at each step": Kind("a kind", "merged", _LASTS),
    # Quantised and read back: too few levels, a wrong scale, no scale.
    "few levels": Kind("a matrix", "in few levels", _ONCE),
    "few levels at each step": Kind("a kind", "in few levels", _ON),
    "NF4": Kind("a block", "in NF4", _ONCE),
    "NF4 with the scale of the next block": Kind("a whole matrix", "in NF4 with the next scale", _ONCE),
    "8 bits with the scale of the next row": Kind("a matrix", "with the next row's scale", _ONCE),
    "fp8 without a scale": Kind("a kind", "in fp8 without a scale", _ONCE),
    "fp8 of gradients for weights": Kind("a matrix", "in fp8 with a wide exponent", ("once", "on")),
    "bfloat16 at each step": Kind("all blocks", "in bfloat16", _ON),
    "pruned": Kind("a kind", "pruned", _ONCE),
    "pruned at each step": Kind("a whole matrix", "pruned", _LASTS),
    # Weight clipping of a critic or of quantisation-aware training strikes the wrong parameters.
    "clipped": Kind("a matrix", "clipped", _ONCE),
    "clipped at each step": Kind("a kind", "clipped", _LASTS),
    "rows of one length": Kind("a whole matrix", "rows of one length", ("once", "on")),
    "dropout of weights left in": Kind("a whole matrix", "dropped", ("once", "some")),
    # Memory and wires: a flipped bit of an exponent, a bad page, noise of a lossy transfer.
    "bits flipped": Kind("a whole matrix", "bits", _ONCE),
    "noise in a matrix": Kind("a matrix", "noisy", _ONCE),
    "noise in columns": Kind("a whole matrix", "noisy", _ONCE, "columns"),
    "noise in some elements": Kind("a whole matrix", "larger", _ONCE, "some elements"),
    "noise at each step": Kind("a kind", "noisy", _LASTS),
    "columns too large": Kind("a feed-forward matrix", "larger", _ONCE, "columns"),
    "rows too small": Kind("a matrix", "smaller", _ONCE, "rows"),
    "a part of a fused matrix freshly drawn": Kind("a part of a fused matrix", "freshly drawn", _ONCE),
    "a part of a fused matrix too large": Kind("a part of a fused matrix", "larger", _ONCE),
    "an expert too large": Kind("an expert", "larger", _ONCE),
    "rows of the last matrix too large": Kind("the last matrix", "larger", _ONCE, "rows"),
    # Masters that were not written to, or are written back from an earlier step.
    "a block held at an earlier step": Kind("a block", "of an earlier step", _LASTS),
    "a shard held at an earlier step": Kind("a whole matrix", "of an earlier step", _ON, "a shard"),
    # `Optimizer.load_state_dict` finds states by their order; a new order of parameters gives each those of another.
    "another layer's states": Kind("a kind", "another layer's states", _ONCE),
    # States that are resharded, offloaded or quantised.
    "second moment too small": Kind("a block", "second moment smaller", _ONCE),
    "second moment of all too small": Kind("all blocks", "second moment smaller", _ONCE),
    "second moment too large": Kind("a kind", "second moment larger", _ONCE),
    "second moment of a kind lost": Kind("a kind", "second moment lost", _ONCE),
    "second moment in few levels": Kind("all blocks", "second moment in few levels", _ON),
    "first moment too large": Kind("a block", "first moment larger", _ONCE),
    "first moment lost": Kind("all blocks", "first moment lost", ("once", "on")),
    "first moment negative": Kind("all blocks", "first moment negative", _ONCE),
    "a bit of the first moment flipped": Kind("a whole matrix", "a bit of the first moment", _ONCE),
    "a bit of the second moment flipped": Kind("a whole matrix", "a bit of the second moment", _ONCE),
    # Gradients: a reduction that sums instead of averaging, a loss scale that is not taken out, a hook that is registered twice.
    "gradients too large": Kind("all blocks", "gradient larger", ("once", "some", "on")),
    "gradient of a matrix too large": Kind("a whole matrix", "gradient larger", ("once", "on")),
    "gradient of a kind too small": Kind("a kind", "gradient smaller", _ON),
    # ``detach``, a reentrant checkpoint without inputs that need a gradient, an unused parameter.
    "gradient of a block zero": Kind("a block", "gradient zero", _LASTS),
    "gradient of rows zero": Kind("a whole matrix", "gradient zero", _ON, "rows"),
    "gradients noisy": Kind("all blocks", "gradient noisy", _LASTS),
    "gradient of a matrix noisy": Kind("a whole matrix", "gradient noisy", _ON),
    "gradient of a block negative": Kind("a block", "gradient negative", _LASTS),
    "gradient of another layer": Kind("a kind", "gradient of another layer", _ON),
    "gradients late": Kind("the later blocks", "gradient late", _ON),
    "gradients of a block never zeroed": Kind("a block", "gradient never zeroed", _LASTS),
    "gradients' largest elements only": Kind("all blocks", "gradient's largest elements", _ON),
    "gradients clipped by element": Kind("the later blocks", "gradient clipped by element", _ON),
    "gradients in fp8": Kind("all blocks", "gradient in fp8", _ON),
    # Groups: a scheduler that steps only the first of them, a factor for layers that is taken to the wrong power.
    "η of a block too large": Kind("a block", "η larger", _LASTS),
    "η of a kind too large": Kind("a kind", "η larger", _LASTS),
    "η of a matrix too large": Kind("a whole matrix", "η larger", _LASTS),
    "η of all blocks too large": Kind("all blocks", "η larger", _LASTS),
    "η of the later blocks too small": Kind("the later blocks", "η smaller", _ON),
    "η of a kind zero": Kind("a kind", "η zero", _ON),
    "η of the embedding too large": Kind("the embedding", "η larger", _LASTS),
    "η of a block negative": Kind("a block", "η negative", _LASTS),
    # A decay given in percent, for the wrong group, or added with the wrong sign.
    "decay of a block too large": Kind("a block", "decay larger", _ON),
    "decay of all blocks too large": Kind("all blocks", "decay larger", _LASTS),
    "decay of a kind negative": Kind("a kind", "decay negative", _ON),
    # Settings of a group that come from another optimizer's defaults.
    "β₂ of a block too small": Kind("a block", "β₂ smaller", _ON),
    "β₁ of all blocks too large": Kind("all blocks", "β₁ larger", _ON),
    "ε of a kind too large": Kind("a kind", "ε larger", _ON),
}
UNSEEN_FAULTS: Final[dict[str, Fault]] = {name: composed(kind) for name, kind in KINDS.items()}
UNSEEN_INDIRECT: Final = frozenset(name for name, kind in KINDS.items() if kind.what in GRADIENTS)
"""Faults that write to no matrix, rate or state of an optimizer: they change what is learned from."""
UNSEEN_SAME: Final = frozenset(
    name
    for name, kind in KINDS.items()
    if kind.what in ("other signs", "rows in another order", "shifted", "exchanged")
)
"""Faults that leave the distribution of |w| of each matrix as it was, or as it was in another one."""
