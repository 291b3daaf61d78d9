"""A tensor without values that knows where each of its elements came from."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from weibull_monitor.model.dataflow.graph import UNTRACKED


class Traced(torch.Tensor):
    """Stands for a tensor of the model. It says that it is on the CPU, as everything in a followed pass does.

    Attributes:
        elem: A tensor of the same shape, strides and dtype on the meta device.
        codes: The code of every element (see `graph`), or None if no element is tracked. A weight has codes if it was made
            with the products of others: for where it is used as a tensor of its own.
        weight: Whether it is a parameter of the model, or a view, a copy or an elementwise function of one.
        shared: Whether its codes are a view of those of a real tensor that was written into.
        factors: The two weights that it is the product of, if it is one; its codes say what it is if it is not a weight itself.
        follow: The mode that follows the pass in progress; None outside of passes.
    """

    elem: Tensor
    codes: Tensor | None
    weight: bool
    shared: bool
    factors: tuple[Traced, Traced] | None
    follow: ClassVar[Any] = None
    _is_param: bool

    @staticmethod
    def __new__(cls, elem: Tensor, codes: Tensor | None = None, weight: bool = False) -> Traced:
        """A tensor in the place of another, of which only ``elem`` is known."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=torch.device("cpu"),
            requires_grad=False,
        )
        made.elem, made.codes, made.weight, made.shared, made.factors = elem, codes, weight, False, None
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Traced({tuple(self.shape)}, {self.dtype})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if Traced.follow is None:
            raise RuntimeError("a tensor of a followed forward pass was used after the pass")
        return Traced.follow.__torch_dispatch__(func, types, args, kwargs)


def spread(codes: Tensor | None, shape: tuple[int, ...] | torch.Size) -> Tensor | None:
    """Codes broadcast to a shape, without taking memory for it; None if they cannot be."""
    if codes is None or codes.shape == torch.Size(shape):
        return codes
    try:
        return codes.expand(shape)
    except RuntimeError:
        return None


def untracked(shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Codes of elements that are not tracked, in one element of memory."""
    return torch.full((1,) * max(len(shape), 1), UNTRACKED).reshape((1,) * len(shape)).expand(shape)
