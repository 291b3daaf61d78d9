"""One parameter, and which of its elements this rank holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from weibull_monitor.model.sharding.layout import Layout


@dataclass(frozen=True)
class LocalParameter:
    """One parameter, and what this rank holds of it.

    Two of them are equal if ranks that agreed on who counts what for one need not agree again for the other.

    Attributes:
        name: Its name in ``model.named_parameters()``; under FSDP1's flat parameters, the name it would have there.
        shape: Shape of the whole parameter.
        dtype: Dtype of the elements.
        requires_grad: Whether it is being trained.
        optimized: The tensor that an optimizer would hold for it.
        read: Gives the local tensor as it is now.
        layout: Which elements of the whole parameter the local tensor holds.
        like: Gives the local tensor of another that an optimizer keeps for it, of the same shape and placement as `optimized`.
        peers: Ranks that hold the same elements as this one, so that they may share the work; None for a whole tensor,
            which any rank may hold.
        copy: The lowest of the ranks over which this copy of the parameter is spread; None for a whole tensor.
        sources: For a weight that its layer makes of parameters: these. `read` then makes the weight anew, which takes
            memory for it; `optimized` is one of the sources, and `steps_alike` says whether that is stepped like the weight.
        signature: What tells whether the sources are still the same.
        steps_alike: Whether an optimizer steps the elements of the weight as those of `optimized`.
        places: For a parameter that FSDP1 has flattened: the modules that use it, and its name in each.
        problem: Why its elements cannot be found; empty if they can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    optimized: Tensor = field(compare=False)
    read: Callable[[], Tensor] = field(compare=False)
    layout: Layout
    like: Callable[[Tensor], Tensor] = field(default=torch.Tensor.detach, compare=False)
    peers: tuple[int, ...] | None = None
    copy: int | None = None
    sources: tuple[Tensor, ...] = field(default=(), compare=False)
    signature: object = field(default=None, compare=False)
    steps_alike: bool = True
    places: tuple[tuple[nn.Module, str], ...] = field(default=(), compare=False, repr=False)
    problem: str = ""

    @cached_property
    def standin(self) -> Tensor:
        """A tensor of the whole parameter's shape and dtype: the parameter itself, or without elements if it is sharded."""
        if self.copy is None and not self.sources:
            return self.optimized
        return torch.empty(self.shape, dtype=self.dtype, device="meta", requires_grad=self.requires_grad)

    @property
    def elements(self) -> int:
        """Number of elements of the parameter, or of all that the weight is made of."""
        return sum(source.numel() for source in self.sources) if self.sources else math.prod(self.shape)

    @property
    def stored(self) -> Tensor:
        """What holds the elements that are here: its type says whether they are plain numbers."""
        return self.optimized if self.copy is None else self.read()

    def describes(self, parameter: Tensor) -> bool:
        """Whether this was made from a parameter that has not changed since, which saves making it again."""
        return (
            self.optimized is parameter
            and not self.problem  # elements that were moved to disk, or gathered, may have come back
            and not self.sources
            and self.requires_grad == parameter.requires_grad
            and self.dtype == parameter.dtype
            and (self.copy is not None or self.shape == tuple(parameter.shape))
        )
