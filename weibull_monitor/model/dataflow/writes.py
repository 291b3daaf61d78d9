"""The rule of operations that write into a tensor."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from weibull_monitor.model.dataflow import contract, elementwise
from weibull_monitor.model.dataflow.crossed import gathered
from weibull_monitor.model.dataflow.graph import UNTRACKED, Graph, event_of, events_in
from weibull_monitor.model.dataflow.mode import Follow
from weibull_monitor.model.dataflow.results import is_weight
from weibull_monitor.model.dataflow.traced import Traced, spread, untracked

MOST_EXPERTS: Final = 512
"""How many different things one operation may add up."""


def write_rule(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Writes into a tensor, all of it or some elements."""
    target = args[0]
    target_codes = follow.activation(target) if isinstance(target, Traced) else None
    values = [
        a for a in (*args[1:], *kwargs.values()) if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())
    ]
    value = values[-1] if values else None
    codes = follow.activation(value) if value is not None else None
    plain = name.strip("_").removesuffix("_")
    if plain == "copy":
        new = spread(codes, target.shape)
        if is_weight(value) and not isinstance(target, Traced):
            new = codes
    elif isinstance(target, Tensor):
        try:
            before = target_codes if target_codes is not None else untracked(target.shape)
            new = _shadow_write(
                follow.graph,
                follow.calls,
                plain,
                before.clone(memory_format=torch.contiguous_format),
                args,
                value,
                codes,
            )
        except Exception:
            new = contract.mixed(follow.graph, [target_codes, codes], target.shape)
    if name.endswith("_"):
        follow.write(target, new)
        return target
    out = follow.run(func, args, kwargs)
    return follow.wrap(out, spread(new, out.shape))


def _shadow_write(
    graph: Graph, calls: int, plain: str, before: Tensor, args: Any, value: Any, codes: Tensor | None
) -> Tensor:
    source = codes if codes is not None else untracked(value.shape if value is not None else ())
    if plain in ("index_put", "index_put_impl"):
        indices = tuple(slice(None) if i is None else i for i in args[1])
        if len(args) > 3 and args[3]:
            return _accumulated(graph, calls, before, indices, source)
        before[indices] = source
    elif plain == "index_add":
        index = args[2].view([-1 if d == args[1] % before.dim() else 1 for d in range(before.dim())])
        return _added(graph, calls, before, args[1], index.expand(source.shape), source)
    elif plain == "index_copy":
        before.index_copy_(args[1], args[2], source)
    elif plain == "scatter_add":
        index = args[2]
        return _added(graph, calls, before, args[1], index, source[tuple(slice(0, n) for n in index.shape)])
    elif plain in ("scatter", "scatter_reduce"):
        before.scatter_(args[1], args[2], source)
    elif plain == "masked_scatter":
        before.masked_scatter_(args[1].expand(before.shape), source.contiguous())
    elif plain == "slice_scatter":
        given = [*args[2:], None, None, None, None]
        index = [slice(None)] * before.dim()
        index[given[0] or 0] = slice(given[1], given[2], given[3])
        before[tuple(index)] = source
    elif plain == "select_scatter":
        before.select(args[2], args[3]).copy_(source)
    else:
        raise NotImplementedError(plain)
    return before


def _accumulated(graph: Graph, calls: int, before: Tensor, indices: tuple[Any, ...], source: Tensor) -> Tensor:
    """Codes of a tensor to which elements were added at some places."""
    source = gathered(graph, source)
    part = torch.full_like(before, UNTRACKED)
    part[indices] = source
    made = elementwise.merged(graph, "add", before, part, before.shape, -1 - (calls << 10))
    return before if made is None else made


def _added(graph: Graph, calls: int, before: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Codes of a tensor to which elements were added, several at one place: those of several experts, say."""
    total, source = before, gathered(graph, source)
    for n, event in enumerate(events_in(source)[:MOST_EXPERTS]):
        mine = torch.where(event_of(source) == event, source, UNTRACKED)
        part = torch.full_like(before, UNTRACKED).scatter_reduce_(dim, index, mine, "amax")
        made = elementwise.merged(graph, "add", total, part, total.shape, -1 - (calls << 10) - n)
        total = total if made is None else made
    return total
