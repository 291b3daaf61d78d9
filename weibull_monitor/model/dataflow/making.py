"""Weights that a forward pass makes of parameters before it uses them: normalised, rounded, masked, with adapters added."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from weibull_monitor.model.dataflow import elementwise
from weibull_monitor.model.dataflow.graph import LOW_BITS, events_in
from weibull_monitor.model.dataflow.mode import Follow, flat
from weibull_monitor.model.dataflow.operations import ACTIVATIONS, ADDS, MULS, NORMS, REDUCTIONS, SAME, SUMS
from weibull_monitor.model.dataflow.results import copy_of, first_of, is_weight
from weibull_monitor.model.dataflow.traced import Traced, spread

Rule = Callable[[Follow, Any, str, Any, Any], Any]


def weights_first(rule: Rule) -> Rule:
    """A rule before which is asked whether its operation makes one weight of another."""

    @wraps(rule)
    def ruled(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        made = _made(follow, func, name, args, kwargs)
        return rule(follow, func, name, args, kwargs) if made is None else made

    return ruled


def _made(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """An elementwise function of a weight, or a figure of one; None if it is something else."""
    tensors = [t for t in flat((args, tuple(kwargs.values()))) if isinstance(t, Traced)]
    wide = [t for t in tensors if t.weight and t.dim() > 1]
    products = [t for t in tensors if t.factors is not None]
    if not (wide or products) or name.endswith("_"):
        return None
    others = [t for t in tensors if not t.weight]
    if not all(follow.graph.constant(event) for t in others for event in events_in(t.codes)):
        return None  # it meets what the model was given
    plain = name.rstrip("_")
    if plain in SUMS or plain in REDUCTIONS:
        return follow.wrap(follow.run(func, args, kwargs), None) if wide else None
    out = follow.run(func, args, kwargs)
    first = first_of(out)
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    like = [t for t in wide if t.shape == first.shape]
    if not like:
        return _scaled(follow, plain, products, out) if len(tensors) == 1 else None
    made = copy_of(follow, first, like[:1])
    if plain in ADDS:
        for t in products:
            _note_adapter(follow, t)
    if plain in ADDS or plain in MULS:  # if it is not a weight: a sum of a parameter and of what others made
        for t in others:
            if t.codes is not None and t.dim() > 1:
                how = "add" if plain in ADDS else "mul"
                codes = made.codes if made.codes is not None else follow.activation(like[0])
                made.codes = elementwise.merged(follow.graph, how, codes, t.codes, first.shape, follow.calls)
    flag = "norm" if plain in NORMS else "act" if plain in ACTIVATIONS else ""
    if flag and like[0].codes is not None:
        made.codes = elementwise.flagged(follow.graph, like[0].codes, flag)
    rest = [follow.wrap(o, None) for o in out[1:]] if isinstance(out, (list, tuple)) else []
    return (made, *rest) if rest else made


def _scaled(follow: Follow, plain: str, products: list[Traced], out: Any) -> Any:
    """A product of two weights times a number is one."""
    if len(products) != 1 or plain not in (MULS | SAME) or not isinstance(out, Tensor):
        return None
    made = Traced(out, spread(products[0].codes, out.shape))
    made.factors = products[0].factors
    return made


def product_of(follow: Follow, a: Any, b: Any, made: Any) -> None:
    """Notes that a result is the product of two weights, which may become a weight itself."""
    if isinstance(made, Traced) and is_weight(a) and is_weight(b) and a.dim() == b.dim() == 2:
        made.factors = (a, b)


def turned(source: Traced, made: Any) -> None:
    """Notes the factors of a product of two weights that was transposed or only viewed."""
    if source.factors is None or not isinstance(made, Traced):
        return
    a, b = source.factors
    if made.shape == source.shape and made.elem.stride() == source.elem.stride():
        made.factors = source.factors
    elif made.shape == source.shape[::-1]:
        made.factors = (Traced(b.elem.mT, None, True), Traced(a.elem.mT, None, True))


def with_adapter(follow: Follow, base: Any, a: Any, b: Any, out: Tensor) -> Any:
    """``base + a @ b`` in one operation, of three weights; None if it is something else."""
    if not (is_weight(base) and is_weight(a) and is_weight(b)) or base.shape != out.shape:
        return None
    pair = Traced(out, None)
    pair.factors = (a, b)
    _note_adapter(follow, pair)
    return copy_of(follow, out, [base])


def _note_adapter(follow: Follow, product: Traced) -> None:
    assert product.factors is not None
    a, b = product.factors
    if a.shape[-1] < min(a.shape[0], b.shape[-1]):
        numbers = [int(follow.weights.locate(w.elem, torch.zeros(1, w.dim(), dtype=torch.int64))[0]) for w in (a, b)]
        if min(numbers) >= 0:
            follow.graph.merged.add((numbers[0] >> LOW_BITS, numbers[1] >> LOW_BITS))
