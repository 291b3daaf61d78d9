"""The results of operations in a followed pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.graph import LOW_BITS, coded
from weibull_monitor.model.dataflow.mode import Follow
from weibull_monitor.model.dataflow.traced import Traced


def result_of(follow: Follow, name: str, args: Any, out: Any, codes: Tensor | None) -> Any:
    """The result of an operation that changes no weight; in place, its first argument, which is changed."""
    if name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Tensor):
        follow.write(args[0], codes)
        return args[0]
    return follow.wrap(out, codes)


def is_weight(value: Any) -> TypeGuard[Traced]:
    """Whether a value stands for a parameter, or for a view or a copy of one."""
    return isinstance(value, Traced) and value.weight


def copy_of(follow: Follow, out: Any, sources: Sequence[Any], dim: int = 0, rows: Tensor | None = None) -> Any:
    """A weight made of weights: where its elements lie is remembered."""
    if isinstance(out, (list, tuple)):
        return type(out)(copy_of(follow, o, sources, dim, rows) for o in out)
    follow.weights.copied(out, tuple(s.elem for s in sources), dim, rows)
    return Traced(out, None, weight=True)


def first_of(out: Any) -> Tensor:
    """The first result of an operation."""
    first: Tensor = out[0] if isinstance(out, (list, tuple)) else out
    return first


def looked_up(follow: Follow, weight: Traced, out: Any) -> Any:
    """The rows of a weight that numbers stand for, in the last dimension of the result."""
    first = first_of(out)
    place = follow.weights.locate(weight.elem, torch.zeros(1, weight.dim(), dtype=torch.int64))
    event = follow.graph.new("embedding", parameter=int(place[0] >> LOW_BITS))
    return follow.wrap(out, coded(event.id, torch.arange(first.shape[-1])).expand(first.shape))
