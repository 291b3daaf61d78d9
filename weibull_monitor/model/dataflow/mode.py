"""Runs a forward pass without data: what depends on weights has shapes only, everything else is computed.

Position ids, masks, window indices and all control flow that depends on them are real. Where code asks for a number that
depends on weights (which experts are chosen, whether a value is finite), a plausible one is made up: experts take turns.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from weibull_monitor.model.dataflow import contract
from weibull_monitor.model.dataflow.graph import LOW_BITS, Graph, coded, events_in
from weibull_monitor.model.dataflow.traced import Traced, spread, untracked
from weibull_monitor.model.dataflow.weights import Weights, key_of

LARGEST: Final = 1 << 24
"""The largest number of elements of a real tensor that is copied, or followed."""


class OutOfTime(BaseException):
    """A pass took too long; not an Exception, so that the model's own code does not catch it."""


class Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a followed pass.

    Args:
        twins: For each parameter of the model by its ``id``: what stands for it.
        rule_of: Gives the rule of an operation by its name.
        deadline: When to give up, on the clock of `time.thread_time`.

    Attributes:
        graph: What happened.
        weights: Where weights lie.
        failed: Operations that had to be skipped.
        places: Whole numbers that were made of a product, by their memory.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        weights: Weights,
        twins: Mapping[int, Traced],
        rule_of: Callable[[str], Callable[..., Any]],
        deadline: float = math.inf,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.weights, self.twins, self.deadline = weights, twins, deadline
        self._rule_of = rule_of
        self.failed: set[str] = set()
        self.calls = 0
        self._masks: dict[int, Tensor] = {}
        self.places: dict[int, Tensor] = {}
        self._parameters: dict[int, int] = {}
        self._whole: weakref.WeakValueDictionary[int, Traced] = weakref.WeakValueDictionary()
        self._rewritten: dict[int, tuple[Tensor, Tensor]] = {}
        self._tainted: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> Any:
        Traced.follow = self
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        Traced.follow = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if not hasattr(func, "_schema"):
            return self._higher(func, args, kwargs or {})
        if not self.calls % 8 and time.thread_time() > self.deadline:  # the clock may take as long as an operation
            raise OutOfTime
        name = func._schema.name.partition("::")[2]
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        args = tuple(self._local(a) for a in args)
        kwargs = {k: self._local(v) for k, v in kwargs.items()}
        tensors = list(flat((args, tuple(kwargs.values()))))
        if not any(isinstance(t, Traced) for t in tensors):
            out = func(*args, **kwargs)
            for noted in (self._masks, self.places) if isinstance(out, Tensor) else ():
                if noted and any(self.is_mask(t, noted) for t in tensors):
                    self.mark(out, noted)
            return out
        if name in ("_local_scalar_dense", "item"):
            return made_up_number(args[0].dtype)
        if name.endswith("_like") or name.startswith("new_"):
            return self._fresh(func, name, args, kwargs)
        written = written_in_python(func)
        if written is not None:
            try:
                return written(*args, **kwargs)
            except Exception:
                self.failed.add(str(func))  # it may need a GPU
        return self._rule_of(name)(self, func, name, args, kwargs)

    def _higher(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Operations that take functions: an attention with a function on scores."""
        if "flex_attention" not in str(func):
            return NotImplemented
        out = attend(self, *args[:3])
        shape = out.shape[:-1]
        return out, torch.zeros(shape), torch.zeros(shape)

    def _fresh(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        """A new tensor in the shape of another: real, so that masks made of it can be computed."""
        out = func(*(meta(a) for a in args), **({**kwargs, "device": "meta"}))
        fill = 1 if "ones" in name else 0
        if "full" in name:
            numbers = [a for a in args if isinstance(a, (int, float, bool))]
            fill = numbers[0] if numbers else 0  # type: ignore[assignment]
        return torch.full(out.shape, fill, dtype=out.dtype)

    def _local(self, value: Any) -> Any:
        """An argument on the CPU: parameters become what stands for them, values of weights that were written remembered."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._local(v) for v in value) if type(value) in (list, tuple) else value
        if not isinstance(value, Tensor) or isinstance(value, Traced):
            return value
        twin = self.twins.get(id(value))
        if twin is not None:
            return twin
        if value.device.type == "cpu" and value.layout == torch.strided and value.numel() and not value.data_ptr():
            return Traced(_empty_like(value))  # nothing that could be read
        if self._tainted and value.device.type == "cpu":
            found = self._tainted.get(value.untyped_storage()._cdata)
            if found is not None:
                codes = found[1].as_strided(value.size(), value.stride(), value.storage_offset())
                made = Traced(_empty_like(value), codes)
                made.shared = True
                return made
        if value.device.type != "cpu":
            if value.device.type == "meta" or value.numel() > LARGEST:
                return torch.zeros(()).to(value.dtype).expand(value.shape)
            return value.detach().cpu()
        return value

    def mark(self, made: Tensor, noted: dict[int, Tensor] | None = None) -> Tensor:
        """Notes that truth values, or numbers made of them, say where values are large or small: or `places`."""
        (self._masks if noted is None else noted)[made.untyped_storage()._cdata] = made
        return made

    def is_mask(self, value: Any, noted: dict[int, Tensor] | None = None) -> bool:
        """Whether a real tensor is such a mask."""
        noted = self._masks if noted is None else noted
        return (
            bool(noted)
            and isinstance(value, Tensor)
            and not isinstance(value, Traced)
            and value.device.type == "cpu"
            and value.untyped_storage()._cdata in noted
        )

    def write(self, target: Tensor, codes: Tensor | None) -> None:
        """Notes that a tensor was overwritten with tracked elements.

        Args:
            target: The tensor: real, or one that stands for another.
            codes: Codes that broadcast to its shape.
        """
        codes = spread(codes, target.shape)
        if isinstance(target, Traced):
            if codes is None:
                return
            if target.shared and target.codes is not None:
                target.codes.copy_(codes)
            else:
                self._rewrite(target, codes)
            return
        if codes is None or target.untyped_storage().nbytes() > 2 * LARGEST * target.element_size():
            return
        key = target.untyped_storage()._cdata
        if key not in self._tainted:
            numel = target.untyped_storage().nbytes() // max(target.element_size(), 1)
            self._tainted[key] = (target, torch.full((numel,), -1, dtype=torch.int64))
        self._tainted[key][1].as_strided(target.size(), target.stride(), target.storage_offset()).copy_(codes)

    def _rewrite(self, target: Traced, codes: Tensor) -> None:
        """Notes that a part of what stands for a tensor was overwritten, for all that share its memory."""
        elem, key = target.elem, key_of(target.elem)
        whole = self._whole.get(key)
        numel = elem.untyped_storage().nbytes() // max(elem.element_size(), 1)
        if key not in self._rewritten:
            if whole is None or whole.numel() == target.numel() or numel > LARGEST // 4:
                target.codes = codes
                return
            flat = torch.full((numel,), -1, dtype=torch.int64)
            before = self.activation(whole)
            if before is not None:
                _strided(flat, whole.elem).copy_(before)
            self._rewritten[key] = (elem, flat)
        _strided(self._rewritten[key][1], elem).copy_(codes)

    def entering(self, value: Tensor) -> Traced:
        """What stands for an input of the model, each of whose elements is another."""
        with _disable_current_modes():
            event = self.graph.new("input")
            count = value.numel() if value.numel() <= LARGEST // 4 else value.shape[-1]
            low = torch.arange(count).view(value.shape if count == value.numel() else (-1,))
            return Traced(
                torch.empty(value.shape, dtype=value.dtype, device="meta"), coded(event.id, low).expand(value.shape)
            )

    def activation(self, value: Any) -> Tensor | None:
        """The codes of an operand of an operation that is not a product with a weight."""
        if not isinstance(value, Traced):
            return None
        if self._rewritten and (found := self._rewritten.get(key_of(value.elem))) is not None:
            value.codes = _strided(found[1], value.elem).clone()
        if value.codes is not None or not value.weight:
            return value.codes
        place = int(self.weights.locate(value.elem, torch.zeros(1, value.dim(), dtype=torch.int64))[0])
        if place not in self._parameters:  # one event, however it is viewed or normalised
            number = place >> LOW_BITS
            self._parameters[place] = self.graph.new("parameter", parameter=number).id if number >= 0 else -1
        event = self._parameters[place]
        return coded(event, torch.arange(value.shape[-1])).expand(value.shape) if event >= 0 else None

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation, on the meta device."""
        try:
            return func(*(meta(a) for a in args), **{k: meta(v) for k, v in kwargs.items()})
        except Exception:
            with contextlib.suppress(Exception):  # dtypes may differ here that do not on a GPU
                return func(*(meta(a, True) for a in args), **{k: meta(v, True) for k, v in kwargs.items()})
            tensors = list(flat((args, tuple(kwargs.values()))))
            if sum(t.numel() for t in tensors) > LARGEST:
                raise
            self.failed.add(str(func))
            return tree(func(*(zeros(a) for a in args), **{k: zeros(v) for k, v in kwargs.items()}), meta)

    def wrap(self, out: Any, codes: Tensor | None) -> Any:
        """What stands for the result of an operation; numbers and truth values are made up, and real."""

        def one(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if not (value.is_floating_point() or value.is_complex()):
                return made_up(value)
            made = Traced(value, codes if codes is not None and codes.shape == value.shape else None)
            if value.numel() * value.element_size() == value.untyped_storage().nbytes():
                self._whole[key_of(value)] = made
            return made

        return tree(out, one)


class FollowFunctions(TorchFunctionMode):
    """What has to be caught before it is taken apart into operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        follow: Follow | None = Traced.follow
        name = getattr(func, "__name__", "")
        if follow is not None:
            if name == "scaled_dot_product_attention":
                with _disable_current_modes():
                    return attend(follow, *args, **kwargs)
            if name == "__set__" and len(args) == 2 and isinstance(args[1], Traced):
                return _set_data(func, *args)
            if (
                name in ("tolist", "numpy", "__array__", "__bool__", "__format__")
                and args
                and isinstance(args[0], Traced)
            ):
                stand = torch.zeros(args[0].shape, dtype=args[0].dtype)
                return getattr(stand, name)(*args[1:], **kwargs)
        return func(*args, **kwargs)


def _strided(flat: Tensor, like: Tensor) -> Tensor:
    """A flat tensor, one element for each of a storage, seen as a tensor in that storage is."""
    return flat.as_strided(like.size(), like.stride(), like.storage_offset())


def _set_data(setter: Any, target: Tensor, value: Traced) -> None:
    """``target.data = value``: the target becomes what stands for the value. It has no memory that could be read."""
    if getattr(getattr(setter, "__self__", None), "__name__", "") != "data":
        raise RuntimeError("an attribute of a tensor was set to a tensor of a followed pass")
    with _disable_current_modes():
        torch.utils.swap_tensors(target, Traced(value.elem, value.codes, value.weight))  # type: ignore[no-untyped-call]


def attend(
    follow: Follow,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Any:
    """An attention that is one operation."""
    tensors = [follow._local(t) for t in (query, key, value)]
    if not any(isinstance(t, Traced) for t in tensors):
        return torch.zeros((*query.shape[:-1], value.shape[-1]), dtype=query.dtype)
    shape = torch.Size((*query.shape[:-1], value.shape[-1]))
    codes = [follow.activation(t) for t in tensors]
    q, k, v = (c if c is not None else untracked(t.shape) for c, t in zip(codes, tensors, strict=True))
    elem = torch.empty(shape, dtype=query.dtype, device="meta")
    codes_out = contract.attention(follow.graph, q, k, v, shape)
    follow.graph.events[events_in(codes_out)[0]].causal = is_causal or hides_later(attn_mask)
    return Traced(elem, codes_out)


def hides_later(mask: Any, hidden: bool = False) -> bool:
    """Whether a real mask (…, queries, keys) hides the keys after each query, and not the query's own.

    Args:
        mask: Truth values, or numbers that are added to scores.
        hidden: The truth value of what is hidden.
    """
    if not isinstance(mask, Tensor) or isinstance(mask, Traced) or mask.dim() < 2 or mask.device.type != "cpu":
        return False
    last = mask[(0,) * (mask.dim() - 2)]
    if last.shape[0] < 2 or last.shape[0] != last.shape[1]:
        return False
    hides = last == hidden if last.dtype == torch.bool else last < -100.0
    later = torch.ones_like(hides).triu(1)
    return bool(hides[later].all()) and not bool(hides.diagonal().all())


def written_in_python(func: Any) -> Callable[..., Any] | None:
    """What an operation of `torch.library.custom_op` does, if it is one: its own operations are followed."""
    if func.namespace in ("aten", "prims"):
        return None
    known = getattr(sys.modules.get("torch._library.custom_ops"), "OPDEFS", {})
    return getattr(known.get(func._schema.name), "_init_fn", None)


def flat(value: Any) -> Iterable[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from flat(v)


def tree(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested values with each replaced by what a function makes of it."""
    if isinstance(value, (list, tuple)):
        return type(value)(tree(v, change) for v in value)
    return change(value)


def meta(value: Any, alike: bool = False) -> Any:
    """An argument as an operation on the meta device takes it; with ``alike``, all numbers have one dtype."""
    if isinstance(value, Tensor):
        elem = value.elem if isinstance(value, Traced) else _empty_like(value)
        return elem.float() if alike and elem.is_floating_point() else elem
    if isinstance(value, (list, tuple)):
        return type(value)(meta(v, alike) for v in value)
    return torch.device("meta") if isinstance(value, torch.device) else value


def zeros(value: Any) -> Any:
    """An argument as a real tensor."""
    if isinstance(value, Traced):
        return torch.zeros(value.shape, dtype=value.dtype)
    return type(value)(zeros(v) for v in value) if isinstance(value, (list, tuple)) else value


def _empty_like(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def made_up_number(dtype: torch.dtype) -> Any:
    """A number that depends on weights."""
    return 1.0 if dtype.is_floating_point else complex(1.0) if dtype.is_complex else False if dtype == torch.bool else 1


def made_up(value: Tensor) -> Tensor:
    """A real tensor of integers or truth values in the place of one that depends on weights."""
    return torch.zeros(value.shape, dtype=value.dtype)
