"""The rule of every operation of a followed pass: which codes its result has."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from weibull_monitor.model.dataflow import contract, elementwise, sums
from weibull_monitor.model.dataflow.graph import events_in, varies
from weibull_monitor.model.dataflow.making import turned, weights_first
from weibull_monitor.model.dataflow.mode import Follow, attend, flat, hides_later, tree
from weibull_monitor.model.dataflow.moves import move_rule, pad_rule
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
    SELF_GATED,
    SUMS,
    WRITES,
)
from weibull_monitor.model.dataflow.products import convolution_rule, product_rule
from weibull_monitor.model.dataflow.results import copy_of, first_of, is_weight, looked_up, result_of
from weibull_monitor.model.dataflow.sampled import at_chosen
from weibull_monitor.model.dataflow.traced import Traced, spread
from weibull_monitor.model.dataflow.writes import write_rule

Rule = Callable[[Follow, Any, str, Any, Any], Any]


@cache
def rule_of(name: str) -> Rule:
    """The rule of an operation, by its name in ``torch.ops.aten``."""
    if name in WRITES:
        return write_rule
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    if plain in MOVES:
        return move_rule
    if plain in SAME:
        return _same
    if plain == "constant_pad_nd":
        return pad_rule
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
    if plain in ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"):
        return _run_along
    if plain in ("topk", "argmax", "argsort", "sort", "argmin", "multinomial"):
        return _chosen
    if re.fullmatch(r"(avg|max)_pool[123]d(_with_indices)?|_?upsample_\w+[123]d(_aa)?", plain):
        return _pooled
    if plain in ("im2col", "col2im"):
        return _patches
    if plain.startswith(("grid_sampler", "cudnn_grid_sampler", "_grid_sampler")):
        return _sampled
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
        made = Traced(out, None, True) if follow.weights.holds(out) else copy_of(follow, out, [first])
        made.codes = spread(first.codes, out.shape)
        return made
    codes = follow.activation(first)
    if name in ("clamp_min", "clamp") and codes is not None and _is_relu(args, kwargs):
        codes = elementwise.flagged(follow.graph, codes, "act")
    if name.startswith("masked_fill") and len(args) > 1:
        _note_mask(follow, codes, args[1], True)
    if name == "native_dropout":
        return Traced(out[0], codes), torch.ones(out[1].shape, dtype=torch.bool)
    made = result_of(follow, name, args, out, codes)
    if codes is not None and isinstance(made, Tensor) and not isinstance(made, Traced):
        follow.mark(made, follow.places)  # numbers that become whole may say where something lies
    turned(first, made)
    return made


def _patches(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Patches of pictures, (B, C, H, W) → (B, C·k, L), and back: a channel stays one, at other positions."""
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    if name == "im2col":
        line = codes.select(-1, 0).select(-1, 0)  # (B, C)
        line = line.repeat_interleave(out.shape[-2] // codes.shape[-3], -1).unsqueeze(-1)
    else:
        line = codes.select(-1, 0)  # (B, C·k)
        line = line[..., :: codes.shape[-2] // out.shape[-3]].unsqueeze(-1).unsqueeze(-1)
    return follow.wrap(out, line.expand(out.shape))


def _is_relu(args: Any, kwargs: Any) -> bool:
    low = args[1] if len(args) > 1 else kwargs.get("min")
    return isinstance(low, (int, float)) and low == 0


def _embedded(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    return looked_up(follow, args[0], out) if is_weight(args[0]) else follow.wrap(out, None)


def _glu(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    up, gate = codes.chunk(2, dim=args[1] if len(args) > 1 else -1)
    acted = elementwise.flagged(follow.graph, gate, "act")
    return follow.wrap(out, elementwise.merged(follow.graph, "mul", up, acted, out.shape, follow.calls))


@weights_first
def _norm(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    return result_of(follow, "", args, out, elementwise.flagged(follow.graph, follow.activation(args[0]), "norm"))


@weights_first
def _binary(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    plain = name.rstrip("_")
    operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if plain == "where":
        operands = operands[1:]
    operation = "mul" if plain in MULS else "add"
    codes = None
    shape = out.shape
    scaled = plain in ("addcmul", "addcdiv")
    # a + b * c: the product first. A vector of scales or biases, however many dimensions it has, makes nothing of its own.
    for n, operand in enumerate(operands[1:] + operands[:1] if scaled else operands):
        vector = is_weight(operand) and operand.numel() == max(operand.shape, default=1)
        here = follow.activation(operand) if not vector else None
        how = "mul" if (scaled and n == 1) or (plain == "lerp" and n == 2) else operation
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


@weights_first
def _activated(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    codes = next((follow.activation(a) for a in args if isinstance(a, Traced) and a.shape == first_of(out).shape), None)
    if codes is not None and all("stat" in follow.graph.events[e].flags for e in events_in(codes)):
        return result_of(follow, name, args, out, codes)
    for flag in ("act", "self") if name.rstrip("_") in SELF_GATED else ("act",):
        codes = elementwise.flagged(follow.graph, codes, flag)
    return result_of(follow, name, args, out, codes)


@weights_first
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
    made = sums.summed(follow.graph, codes, dims, keep, name not in SUMS)
    made = spread(made, first_of(out).shape)
    return follow.wrap(out, made)


def _run_along(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Running sums, which over positions are part of a recurrence."""
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    dim = args[1] if len(args) > 1 else kwargs["dim"]
    if codes is not None and first_of(out).is_floating_point() and not varies(codes, dim):
        codes = elementwise.flagged(follow.graph, codes, "expanded")
    return result_of(follow, name, args, out, codes)


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
    """A pool over neighbouring positions, which are the last dimensions, or more positions between those there are."""
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    positions = next(n for n in (1, 2, 3) if f"{n}d" in name)
    if codes is None or any(varies(codes, -1 - n) for n in range(positions)):
        return follow.wrap(out, contract.mixed(follow.graph, [codes], first_of(out).shape))
    for n in range(positions):
        codes = codes.narrow(-1 - n, 0, 1)
    return follow.wrap(out, spread(codes, first_of(out).shape))


def _sampled(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Features (N, C, H, W) at the positions of a grid, (N, C, H', W'): they stay features, at other positions."""
    out = follow.run(func, args, kwargs)
    codes, grid = follow.activation(args[0]), follow.activation(args[1])
    if codes is None or any(varies(codes, dim) for dim in range(2, codes.dim())):
        return follow.wrap(out, contract.mixed(follow.graph, [codes, grid], out.shape))
    for dim in range(2, codes.dim()):
        codes = codes.narrow(dim, 0, 1)
    if events_in(grid):  # positions that depend on what a matrix made
        codes = at_chosen(follow.graph, codes)
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


@weights_first
def _unknown(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    out = follow.run(func, args, kwargs)
    first = first_of(out)
    operands = [
        follow.activation(t) for t in flat((args, tuple(kwargs.values()))) if not (is_weight(t) and t.dim() < 2)
    ]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return _comparison(name, follow, out, args)
    if "loss" in name or "entropy" in name:
        follow.graph.outputs.update(event for codes in operands for event in events_in(codes))
    same = [c for c in operands if c is not None and c.shape == first.shape]
    tracked = [c for c in operands if c is not None]
    codes = same[0] if len(tracked) == 1 and same else contract.mixed(follow.graph, tracked, first.shape)
    return result_of(follow, name, args, out, codes)


def _comparison(name: str, follow: Follow, out: Any, args: Any) -> Any:
    made = follow.wrap(out, None)
    if isinstance(made, Tensor) and made.dtype == torch.bool:
        follow.mark(made)
        if len(args) > 1 and args[0] is args[1]:  # x == x: no value is missing
            return follow.mark(torch.full_like(made, name == "eq"))
    if name.rstrip("_") in COMPARISONS and isinstance(made, Tensor) and made.dtype == torch.bool:
        return follow.mark(torch.ones_like(made))
    return made
