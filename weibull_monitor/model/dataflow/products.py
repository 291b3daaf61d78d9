"""The rules of products: with weights, of two tensors, and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weibull_monitor.model.dataflow import contract, elementwise
from weibull_monitor.model.dataflow.crossed import scores_of
from weibull_monitor.model.dataflow.graph import LOW_BITS, Graph, events_in
from weibull_monitor.model.dataflow.making import product_of, with_adapter
from weibull_monitor.model.dataflow.mode import Follow
from weibull_monitor.model.dataflow.results import is_weight, result_of
from weibull_monitor.model.dataflow.traced import Traced, spread


def product_rule(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Products of matrices."""
    plain = name.rstrip("_")
    bias = args[0] if plain in ("addmm", "baddbmm", "addmv") else None
    a, b = args[1:3] if bias is not None else args[:2]
    if plain == "_grouped_mm":  # its check of dtypes is for the values of a GPU
        out = torch.empty((*a.shape[:-1], b.shape[-1]), dtype=a.dtype, device="meta")
    else:
        out = follow.run(func, args, kwargs)
    if bias is not None and (merged := with_adapter(follow, bias, a, b, out)) is not None:
        return merged
    codes = _contracted(follow, a, b, out, plain)
    if bias is not None and isinstance(bias, Traced) and bias.dim() > 1 and codes is not None:
        codes = elementwise.merged(follow.graph, "add", codes, follow.activation(bias), out.shape, follow.calls)
    made = result_of(follow, name, args, out, codes)
    product_of(follow, a, b, made)
    return made


def _contracted(follow: Follow, a: Any, b: Any, out: Tensor, name: str) -> Tensor | None:
    """Codes of a @ b."""
    codes = follow.activation(a) if not is_weight(a) else None
    if codes is not None and out.shape[a.dim() - 1 :].numel() < a.shape[-1]:  # additive attention, by a vector
        scores = scores_of(follow.graph, codes.narrow(-1, 0, 1))
        if scores is not None:
            return spread(scores if out.dim() == a.dim() else scores.squeeze(-1), out.shape)
    if isinstance(b, Traced) and b.factors is not None and not is_weight(a) and isinstance(a, Tensor):
        first, second = b.factors  # x @ (p @ q) is (x @ p) @ q
        between = torch.Size((*a.shape[:-1], first.shape[-1]))
        x = Traced(torch.empty(between, device="meta"), _by_weight(follow, a, first, name, between))
        return _by_weight(follow, x, second, name, out.shape)
    if isinstance(a, Traced) and a.factors is not None and not is_weight(b) and isinstance(b, Tensor) and b.dim() > 1:
        first, second = a.factors
        between = torch.Size((*b.shape[:-2], second.shape[-2], b.shape[-1]))
        x = Traced(torch.empty(between, device="meta"), _of_weight(follow, second, b, between))
        return _of_weight(follow, first, x, out.shape)
    if is_weight(a) and is_weight(b) and a.dim() > 1 and b.dim() > 1:
        a = Traced(a.elem, follow.activation(a))  # learned queries, say, through a linear layer
    if is_weight(b) and not is_weight(a) and b.dim() > 1:
        return _by_weight(follow, a, b, name, out.shape)
    if is_weight(a) and not is_weight(b) and isinstance(a, Tensor) and a.dim() > 1:
        if isinstance(b, Tensor) and b.dim() == 1:
            rows = contract.product(follow.graph, follow.weights, follow.activation(b), a.elem, -1, 1)
            return spread(rows.squeeze(1), out.shape)
        return _of_weight(follow, a, b, out.shape)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() > 1 and b.dim() > 1:
        return contract.matmul(follow.graph, follow.activation(a), follow.activation(b), out.shape)
    return contract.mixed(follow.graph, [follow.activation(a), follow.activation(b)], out.shape)


def _by_weight(follow: Follow, a: Any, weight: Traced, name: str, shape: torch.Size) -> Tensor | None:
    """Codes of a @ weight, in a shape."""
    x = follow.activation(a)
    stacked = name == "_grouped_mm" and weight.dim() == 3  # (E, D, I): what is said of the first expert holds for all
    elem = weight.elem[0] if stacked else weight.elem
    mixing = _mixes_scores(follow, x, elem.shape[-2:])
    rows = contract.product(follow.graph, follow.weights, x, elem, -1, elem.dim() - 2)
    if not isinstance(a, Traced) and not bool(a.any()):  # the output of an attention that needs a kernel, say
        follow.graph.idle.update(events_in(rows))
    if 0 in shape:
        follow.graph.hollow.update(events_in(rows))
    if mixing and x is not None:
        follow.graph.heads_mixed += events_in(rows)
        return spread(x.narrow(-1, 0, 1), shape)
    return _over_positions(follow, x, rows, -1, shape)


def _of_weight(follow: Follow, weight: Traced, b: Any, shape: torch.Size) -> Tensor | None:
    """Codes of weight @ b, in a shape."""
    x = follow.activation(b)
    mixing = _mixes_scores(follow, x, weight.shape[-2:])
    rows = contract.product(follow.graph, follow.weights, x, weight.elem, -2, weight.dim() - 1)
    if mixing and x is not None:
        follow.graph.heads_mixed += events_in(rows)
        return spread(x.narrow(-2, 0, 1), shape)
    return _over_positions(follow, x, rows, -2, shape)


def _over_positions(follow: Follow, x: Tensor | None, rows: Tensor, dim: int, shape: torch.Size) -> Tensor | None:
    """Codes of a product that sums over positions: of keys and values, say, which stay what they are (Linformer)."""
    graph = follow.graph
    over = bool(events_in(rows)) and all(graph.events[e].tokens for e in events_in(rows))
    if x is None or not over or not all(_by_features(graph, e) for e in events_in(x)):
        return spread(rows, shape)
    return spread(elementwise.flagged(graph, x.narrow(dim, 0, 1), "expanded"), shape)


def _by_features(graph: Graph, event: int) -> bool:
    """Whether an event is a product over features, and of things that are known by features."""
    one = graph.events[event]
    mixed = one.tokens or any(graph.events[s].tokens for s in one.sources)
    return one.type == "product" and "act" not in one.flags and not mixed


def _mixes_scores(follow: Follow, codes: Tensor | None, shape: Sequence[int]) -> bool:
    """Whether what a weight is multiplied with are scores, which it mixes over heads: as many as before.

    Streams that are mixed with numbers made of themselves (hyper-connections) look like scores, too. What reads them seldom keeps
    their size.
    """
    found = events_in(codes)
    heads = {size for size in shape if size > 1}
    return bool(found) and len(heads) <= 1 and all(follow.graph.events[e].type == "scores" for e in found)


def convolution_rule(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Convolutions: with one position and one group these are products, channel by channel they leave features apart."""
    out = follow.run(func, args, kwargs)
    x, w = args[0], args[1]
    transposed, groups = (args[6], args[8]) if len(args) > 8 else (False, 1)
    codes = follow.activation(x)
    if not is_weight(w):
        return follow.wrap(out, contract.mixed(follow.graph, [codes, follow.activation(w)], out.shape))
    kernel = 1
    for n in w.shape[2:]:
        kernel *= n
    if groups > 1 and groups == w.shape[0] and w.shape[1] == 1 and not transposed:
        number = int(follow.weights.rows(w.elem, 1)[0].flatten()[0] >> LOW_BITS)
        graph = follow.graph
        graph.depthwise.append((number, events_in(codes)[0] if codes is not None and events_in(codes) else -1))
        if codes is None or out.shape[1] != codes.shape[1]:
            return follow.wrap(out, contract.mixed(graph, [codes], out.shape))
        few = codes[(slice(None), slice(None), *(slice(0, 1) for _ in w.shape[2:]))]
        expanded = any("act" in graph.events[e].flags for e in events_in(few))
        # Over pictures it leaves a feed-forward block one (SegFormer); along time it is part of a recurrence or a convolution.
        flag = "expanded" if expanded or w.dim() != 4 else "depthwise"
        return follow.wrap(out, spread(elementwise.flagged(graph, few, flag), out.shape))
    rows = contract.product(follow.graph, follow.weights, codes, w.elem, 1, 0 if transposed else 1, kernel, groups)
    if codes is not None and codes.shape[2:] == out.shape[2:] and _mixes_scores(follow, codes, w.shape[:2]):
        follow.graph.heads_mixed += events_in(rows)
        return follow.wrap(out, spread(codes.narrow(1, 0, 1), out.shape))
    rows = rows[(slice(None), slice(None), *(slice(0, 1) for _ in w.shape[2:]))]
    line = rows.flatten() if groups == 1 or not transposed else None
    if line is None or len(line) != out.shape[1]:
        return follow.wrap(out, contract.mixed(follow.graph, [rows], out.shape))
    return follow.wrap(out, spread(line.view(1, -1, *([1] * (out.dim() - 2))), out.shape))
