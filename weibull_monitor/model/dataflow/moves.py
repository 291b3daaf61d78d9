"""The rules of operations whose results have elements of their arguments at other places."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from weibull_monitor.model.dataflow import contract
from weibull_monitor.model.dataflow.graph import compact, folded
from weibull_monitor.model.dataflow.making import turned
from weibull_monitor.model.dataflow.mode import Follow, flat, tree
from weibull_monitor.model.dataflow.operations import names
from weibull_monitor.model.dataflow.results import copy_of, first_of, is_weight, looked_up, result_of
from weibull_monitor.model.dataflow.sampled import at_chosen
from weibull_monitor.model.dataflow.traced import Traced, untracked

VIEWS: Final = names("view select slice transpose permute t unsqueeze squeeze expand narrow as_strided alias")
"""Operations whose results share the memory of their argument."""
LOOKS: Final = names("index gather index_select take_along_dim")
"""Operations that look elements up where other numbers say."""


def move_rule(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Views, permutations, slices, concatenations: elements keep their codes, and parts of weights are weights."""
    args = _indices(args)
    tensors = [t for t in flat((args, tuple(kwargs.values()))) if isinstance(t, Traced)]
    if not tensors:
        return func(*args, **kwargs)
    out = follow.run(func, args, kwargs)
    if name == "index" and is_weight(args[0]) and args[0].dim() == 2 and len(args[1]) == 1 and args[1][0].dim() > 1:
        return looked_up(follow, args[0], out)
    if name == "index" and is_weight(args[0]) and args[0].dim() > 2 and len(args[1]) == 1 and args[1][0].dim() > 1:
        rows = args[1][0].flatten()  # of several experts for each token
        flat_rows = torch.empty((len(rows), *out.shape[args[1][0].dim() :]), dtype=out.dtype, device="meta")
        return Traced(copy_of(follow, flat_rows, tensors[:1], rows=rows).elem.view(out.shape), None, True)
    made = _of_weights(follow, name, args, kwargs, tensors, out) if all(t.weight for t in tensors) else None
    if made is not None and all(t.codes is None for t in tensors):
        return made
    codes = _shadow(follow, func, name, args, kwargs)
    if codes is None:
        return _mixed(follow, name, args, kwargs, out) if made is None else made
    if made is not None:
        for one, its in zip(flat(made), flat(codes), strict=True):
            one.codes = its  # type: ignore[attr-defined]
        return made
    if isinstance(out, (list, tuple)):
        return type(out)(follow.wrap(o, c) for o, c in zip(out, codes, strict=True))
    if name in VIEWS and tensors[0].shared and isinstance(codes, Tensor):
        result = follow.wrap(out, codes)  # what is written into a view is written into the real tensor
        result.shared = codes.untyped_storage()._cdata == tensors[0].codes.untyped_storage()._cdata  # type: ignore[union-attr]
        return result
    if name in LOOKS and any(follow.is_mask(t, follow.places) for t in flat((args[1:], tuple(kwargs.values())))):
        codes = at_chosen(follow.graph, codes)
    result = result_of(follow, name, args, out, folded(codes))
    turned(tensors[0], result)
    return result


def _of_weights(follow: Follow, name: str, args: Any, kwargs: Any, tensors: list[Traced], out: Any) -> Any:
    """A view, a part or a concatenation of weights; None if it is another operation on them."""
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
    return None


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


def pad_rule(follow: Follow, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Padding with a constant."""
    out = follow.run(func, args, kwargs)
    codes = follow.activation(args[0])
    if codes is None:
        return follow.wrap(out, None)
    pads = list(args[1])
    for n in range(len(pads) // 2):  # what is padded all along with the same elements stays what it is
        dim = codes.dim() - 1 - n
        if codes.numel() and bool((compact(codes) == compact(codes.narrow(dim, 0, 1))).all()):
            codes = codes.narrow(dim, 0, 1).expand([-1 if d != dim else out.shape[dim] for d in range(codes.dim())])
            pads[2 * n : 2 * n + 2] = 0, 0
    return follow.wrap(out, torch.constant_pad_nd(codes, pads, -1) if any(pads) else codes)


def _mixed(follow: Follow, name: str, args: Any, kwargs: Any, out: Any) -> Any:
    first = first_of(out)
    operands = [follow.activation(t) for t in flat((args, tuple(kwargs.values())))]
    return result_of(follow, name, args, out, contract.mixed(follow.graph, operands, first.shape))
