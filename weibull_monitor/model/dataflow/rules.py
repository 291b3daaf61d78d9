"""The rule of every operation of a followed pass: which codes its result has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from weibull_monitor.model.dataflow import contract, elementwise
from weibull_monitor.model.dataflow.graph import LOW_BITS, coded, events_in, folded, varies
from weibull_monitor.model.dataflow.mode import Follow, attend, flat, hides_later, tree
from weibull_monitor.model.dataflow.operations import (
    ACTIVATIONS,
    ADDS,
    COMPARISONS,
    MOVES,
    MULS,
    NORMS,
    PRODUCTS,
    REDUCTIONS,
    SAME,
    SUMS,
    WRITES,
)
from weibull_monitor.model.dataflow.products import convolution_rule, product_rule
from weibull_monitor.model.dataflow.results import copy_of, first_of, is_weight, result_of
from weibull_monitor.model.dataflow.traced import Traced, spread, untracked
from weibull_monitor.model.dataflow.writes import write_rule

Rule = Callable[[Follow, Any, str, Any, Any], Any]


@cache
def rule_of(name: str) -> Rule:
    """The rule of an operation, by its name in ``torch.ops.aten``."""
    if name in WRITES:
        return write_rule
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    if plain in MOVES:
        return _moved
    if plain in SAME:
        return _same
    if plain == "constant_pad_nd":
        return _padded
    if plain in PRODUCTS:
        return product_rule
    if plain in ("convolution", "_convolution", "convolution_overrideable", "conv1d", "conv2d", "conv3d"):
        return convolution_rule
    if plain in ("embedding", "_embedding_bag", "_embedding_bag_forward_only"):
        return _embedded
    if plain == "glu":
        return _glu
    if plain in NORMS:
        return _norm
    if plain in ADDS or plain in MULS:
        return _binary
    if plain in SUMS or plain in REDUCTIONS:
        return _reduced
    if plain in ACTIVATIONS:
        return _activated
    if plain in ("topk", "argmax", "argsort", "sort", "argmin", "multinomial", "max_pool2d_with_indices"):
        return _chosen
    if plain in ("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"):
        return _pooled
    if plain in ("_cdist_forward", "cdist", "_euclidean_dist"):
        return _distance
    if plain in ("view_as_complex", "view_as_real", "real", "imag", "complex", "polar"):
        return _complex
    if "attention" in plain or "attn" in plain or "flash" in plain:
        return _attention
    return _unknown


def _same(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    first = args[0]
    if name in ("_to_copy", "to") and isinstance(first, Traced):
        kwargs = {**kwargs, "device": torch.device("cpu")} if "device" in kwargs else kwargs
    if not isinstance(first, Traced):  # masked_fill of a real tensor by a traced value
        return _unknown(follow, func, name, args, kwargs)
    if name == "to":
        return follow.wrap(first.elem.clone(), follow.activation(first))
    kwargs = {k: torch.device("meta") if k == "device" else v for k, v in kwargs.items()}
    out = follow.run(func, args, kwargs)
    if is_weight(first) and first.dim() > 1 and isinstance(out, Tensor) and out.is_floating_point():
        return Traced(out, None, True) if follow.weights.holds(out) else copy_of(follow, out, [first])
    codes = follow.activation(first)
    if name in ("clamp_min", "clamp") and codes is not None and _is_relu(args, kwargs):
        codes = elementwise.flagged(follow.graph, codes, "act")
    if name.startswith("masked_fill") and len(args) > 1:
        _note_mask(follow, codes, args[1], True)
    if name == "native_dropout":
        return Traced(out[0], codes), torch.ones(out[1].shape, dtype=torch.bool)
    return result_of(follow, name, args, out, codes)


def _is_relu(args: Any, kwargs: Any) -> bool:
    low = args[1] if len(args) > 1 else kwargs.get("min")
    return isinstance(low, (int, float)) and low == 0


def _moved(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    args, kwargs = _indices(args), kwargs
    tensors = [t for t in flat((args, tuple(kwargs.values()))) if isinstance(t, Traced)]
    if not tensors:
        return func(*args, **kwargs)
    out = follow.run(func, args, kwargs)
    weights = [t for t in tensors if t.weight and t.codes is None]
    if len(weights) == len(tensors):
        one = out[0] if isinstance(out, (list, tuple)) else out
        if follow.weights.holds(one):
            return tree(out, lambda o: Traced(o, None, True))
        if name in ("cat", "stack", "concat"):
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
            sources = list(args[0])
            if all(is_weight(s) for s in sources) and name != "stack":
                return copy_of(follow, out, sources, dim)
            if all(is_weight(s) for s in sources):
                return copy_of(follow, out, [Traced(s.elem.unsqueeze(dim), None, True) for s in sources], dim)
        elif name == "index" and len(args[1]) == 1 and args[1][0] is not None and args[1][0].dim() == 1:
            return copy_of(follow, out, tensors[:1], rows=args[1][0])
        elif name == "index_select" and args[1] % args[0].dim() == 0:
            return copy_of(follow, out, tensors[:1], rows=args[2])
        elif isinstance(out, Tensor) and name in ("view", "_unsafe_view", "reshape", "contiguous"):
            dense = tensors[0].elem.clone(memory_format=torch.contiguous_format)
            follow.weights.copied(dense, (tensors[0].elem,))
            return Traced(dense.view(out.shape), None, True)
    codes = _shadow(follow, func, name, args, kwargs)
    if codes is None:
        return _mixed(follow, name, args, kwargs, out)
    if isinstance(out, (list, tuple)):
        return type(out)(follow.wrap(o, c) for o, c in zip(out, codes, strict=True))
    return result_of(follow, name, args, out, folded(codes))


def _indices(args: Any) -> Any:
    """Arguments of an index with masks turned into positions, since the meta device cannot count them."""
    if len(args) < 2 or not isinstance(args[1], (list, tuple)):
        return args
    if not any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        return args
    out: list[Any] = []
    for index in args[1]:
        if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
            out += index.nonzero().unbind(1)
        else:
            out.append(index)
    return (args[0], out, *args[2:])


def _shadow(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The codes of a result whose elements are elements of the operands: the same operation on their codes."""

    def of(value: Any) -> Any:
        if isinstance(value, Traced):
            codes = follow.activation(value)
            return codes if codes is not None else untracked(value.shape)
        if isinstance(value, Tensor) and value.is_floating_point():
            return untracked(value.shape)
        if isinstance(value, (list, tuple)):
            return type(value)(of(v) for v in value)
        return value

    try:
        if name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
            return of(args[0]).reshape(args[1])
        if name == "as_strided":
            return of(args[0]).contiguous().as_strided(*args[1:], **kwargs)
        return func(*of(args), **{k: of(v) for k, v in kwargs.items()})
    except Exception:
        return None


def _padded(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    pads = list(args[1])
    for n in range(len(pads) // 2):  # what is padded all along with the same elements stays what it is
        dim = codes.dim() - 1 - n
        if codes.stride(dim) == 0 or codes.shape[dim] == 1:
            codes = codes.narrow(dim, 0, 1).expand([-1 if d != dim else out.shape[dim] for d in range(codes.dim())])
            pads[2 * n : 2 * n + 2] = 0, 0
    return follow.wrap(out, torch.constant_pad_nd(codes, pads, -1) if any(pads) else codes)


def _embedded(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    weight = args[0]
    first = out[0] if isinstance(out, (list, tuple)) else out
    codes = None
    if is_weight(weight):
        number = int(follow.weights.locate(weight.elem, torch.zeros(1, weight.dim(), dtype=torch.int64))[0] >> LOW_BITS)
        event = follow.graph.new("embedding", parameter=number)
        codes = coded(event.id, torch.arange(first.shape[-1])).expand(first.shape)
    return follow.wrap(out, codes)


def _glu(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    up, gate = codes.chunk(2, dim=args[1] if len(args) > 1 else -1)
    acted = elementwise.flagged(follow.graph, gate, "act")
    return follow.wrap(out, elementwise.merged(follow.graph, "mul", up, acted, out.shape, follow.calls))


def _norm(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    return result_of(follow, "", args, out, elementwise.flagged(follow.graph, follow.activation(args[0]), "norm"))


def _binary(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    plain = name.rstrip("_")
    operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if plain == "where":
        operands = operands[1:]
    wide = [o for o in operands if is_weight(o) and o.codes is None and o.dim() > 1]
    if wide and all(is_weight(o) or not isinstance(o, Traced) or o.codes is None for o in operands):
        largest = max(wide, key=lambda o: (o.numel(),))
        if largest.shape == out.shape and out.dim() > 1 and not name.endswith("_"):
            return copy_of(follow, out, [largest])
    operation = "mul" if plain in MULS else "add"
    codes = None
    shape = out.shape
    for n, operand in enumerate(operands):
        here = follow.activation(operand) if not (is_weight(operand) and operand.dim() < 2) else None
        how = "mul" if plain in ("addcmul", "addcdiv", "lerp") and n == 2 else operation
        codes = here if n == 0 else elementwise.merged(follow.graph, how, codes, here, shape, follow.calls)
    codes = spread(codes, shape)
    for operand in operands if operation == "add" else []:
        _note_mask(follow, codes, operand, False)
    if plain == "where":
        _note_mask(follow, codes, args[0], False)
    zero = [o for o in operands if not isinstance(o, Traced) and o.numel() and not bool(o.any())]
    rectified = plain in ("maximum", "minimum") and len(zero) > 0
    if codes is not None and (rectified or (plain in ("mul", "where") and any(follow.is_mask(a) for a in args))):
        codes = elementwise.flagged(follow.graph, codes, "act")
    return result_of(follow, name, args, out, codes)


def _note_mask(follow: Follow, codes: Tensor | None, mask: Any, hidden: bool) -> None:
    """Notes that scores were masked so that queries do not see later keys."""
    if isinstance(mask, Tensor) and not isinstance(mask, Traced) and mask.dim() > 1:
        for event in events_in(codes):
            if follow.graph.events[event].type == "scores" and hides_later(mask, hidden):
                follow.graph.base(event).causal = True


def _activated(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = next((follow.activation(a) for a in args if isinstance(a, Traced) and a.shape == first_of(out).shape), None)
    flag = "act"
    if codes is not None and all("stat" in follow.graph.events[e].flags for e in events_in(codes)):
        return result_of(follow, name, args, out, codes)
    return result_of(follow, name, args, out, elementwise.flagged(follow.graph, codes, flag))


def _reduced(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    if "pool" in name:
        few = codes[(slice(None),) * 2 + (slice(0, 1),) * (codes.dim() - 2)]
        return follow.wrap(out, spread(elementwise.flagged(follow.graph, few, "pool"), first_of(out).shape))
    dims = next((a for a in args[1:] if isinstance(a, (list, tuple)) or (type(a) is int and "norm" not in name)), None)
    dims = kwargs.get("dim", dims)
    dims = [dims] if isinstance(dims, int) else list(dims) if dims else list(range(codes.dim()))
    keep = first_of(out).dim() == codes.dim()
    made = elementwise.summed(follow.graph, codes, dims, keep, name not in SUMS)
    made = _paired(follow, codes, dims, made, first_of(out).shape, name)
    made = spread(made, first_of(out).shape)
    return follow.wrap(out, made)


def _paired(
    follow: Follow, codes: Tensor, dims: list[int], made: Tensor | None, shape: torch.Size, name: str
) -> Tensor | None:
    """Products of queries and keys that are summed over features one by one are scores."""
    found = events_in(codes)
    if made is None or name not in SUMS or len(dims) != 1 or len(found) != 1:
        return made
    base = follow.graph.base(found[0])
    if base.type != "gated" or base.first is None or base.second is None or not shape:
        return made
    new = follow.graph.new("scores", base.sources, first=base.second.unsqueeze(0), second=base.first.unsqueeze(0))
    return coded(new.id, torch.arange(shape[-1])).expand(shape)


def _chosen(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    graph = follow.graph
    dim = -1
    given = [a for a in args[1:] if type(a) is int]
    if name == "topk" and len(given) > 1:
        dim = given[1]
    elif name in ("sort", "argsort", "argmax", "argmin") and given:
        dim = given[0]
    size = args[0].shape[dim] if args[0].dim() else 1
    for event in events_in(codes):
        if graph.base(event).type == "product":
            graph.routed.add(graph.events[event].base)

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            kept = None
            if codes is not None and value.dim() == codes.dim():
                kept = spread(codes.narrow(dim, 0, 1), value.shape)
            return Traced(value, kept)
        # Experts take turns: (T, k) with T·k at least their number names each.
        return (torch.arange(value.numel()) % max(size, 1)).view(value.shape).to(value.dtype)

    return tree(out, one)


def _complex(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    if name == "view_as_complex":
        codes = elementwise.real(follow.graph, codes)
    elif name == "view_as_real":
        codes = torch.stack([codes, elementwise.imaginary(follow.graph, codes)], dim=-1)
    return follow.wrap(out, codes)


def _pooled(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """A pool over neighbouring positions, which are the last dimensions."""
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    positions = int(name[-2])
    if codes is None or any(varies(codes, -1 - n) for n in range(positions)):
        return follow.wrap(out, contract.mixed(follow.graph, [codes], out.shape))
    for n in range(positions):
        codes = codes.narrow(-1 - n, 0, 1)
    return follow.wrap(out, spread(codes, out.shape))


def _distance(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Distances of queries and keys, which some attentions use as scores."""
    out = follow.run(func, args, kwargs)
    a, b = follow.activation(args[0]), follow.activation(args[1])
    if a is None or b is None:
        return follow.wrap(out, contract.mixed(follow.graph, [a, b], out.shape))
    return follow.wrap(out, contract.scores(follow.graph, a, b, out.shape))


def _attention(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Attention kernels: the first three tensors of equal rank are query, key and value."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.is_floating_point() and a.dim() > 2]
    if len(tensors) < 3:
        return _unknown(follow, func, name, args, kwargs)
    out = follow.run(func, args, kwargs)
    made = attend(follow, tensors[0], tensors[1], tensors[2])
    first = first_of(out)
    codes = made.codes if isinstance(made, Traced) and made.shape == first.shape else None
    if isinstance(out, (list, tuple)):
        return type(out)((Traced(first, codes), *(follow.wrap(o, None) for o in out[1:])))
    return Traced(first, codes)


def _unknown(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    first = first_of(out)
    operands = [
        follow.activation(t) for t in flat((args, tuple(kwargs.values()))) if not (is_weight(t) and t.dim() < 2)
    ]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return _comparison(name, follow, out, args)
    same = [c for c in operands if c is not None and c.shape == first.shape]
    tracked = [c for c in operands if c is not None]
    codes = same[0] if len(tracked) == 1 and same else contract.mixed(follow.graph, tracked, first.shape)
    return result_of(follow, name, args, out, codes)


def _mixed(follow: Follow, name: str, args: Any, kwargs: Any, out: Any) -> Any:
    first = first_of(out)
    operands = [follow.activation(t) for t in flat((args, tuple(kwargs.values())))]
    return result_of(follow, name, args, out, contract.mixed(follow.graph, operands, first.shape))


def _comparison(name: str, follow: Follow, out: Any, args: Any) -> Any:
    made = follow.wrap(out, None)
    if isinstance(made, Tensor) and made.dtype == torch.bool:
        follow.mark(made)
        if len(args) > 1 and args[0] is args[1]:  # x == x: no value is missing
            return follow.mark(torch.full_like(made, name == "eq"))
    if name.rstrip("_") in COMPARISONS and isinstance(made, Tensor) and made.dtype == torch.bool:
        return follow.mark(torch.ones_like(made))
    return made
