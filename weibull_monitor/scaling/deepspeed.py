"""DeepSpeed's optimizers: which parameters of the model their groups step, and with which learning rates.

They replace the model's parameters in the optimizer that they wrap by flattened fp32 copies, and step it group by group. The
engine sets the next learning rate before it returns. DeepSpeed is not imported; its optimizers are found by their attributes.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

_GROUP_LISTS = ("bit16_groups", "bf16_groups", "fp16_groups")
"""Attributes with the model's parameters by group: of ZeRO-1 and 2, of bf16 without ZeRO, and of fp16 without ZeRO. Under ZeRO-3
``fp16_groups`` are sub-groups, and ``sub_group_to_group_id`` gives the group of each."""


class Rates(dict[int, dict[str, Any]]):
    """The entries of each parameter group at the step just taken, by the group's `id`.

    Attributes:
        hooked: Whether a hook notes them at each step.
    """

    __slots__ = ("__weakref__", "hooked")

    def __init__(self) -> None:
        super().__init__()
        self.hooked = False


def parameters_of(optimizer: Any, group: int) -> Sequence[Tensor]:
    """The parameters of the model that one of an optimizer's groups steps.

    Args:
        optimizer: An optimizer, or a wrapper of Accelerate, Lightning or DeepSpeed.
        group: Index of the group in ``optimizer.param_groups``.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> [p is weight for p in parameters_of(torch.optim.AdamW([weight]), 0)]
    [True]
    """
    engine = engine_of(optimizer)
    if engine is None:
        tensors: Sequence[Tensor] = optimizer.param_groups[group]["params"]
        return tensors
    lists = next(found for name in _GROUP_LISTS if (found := getattr(engine, name, None)))
    of_group = getattr(engine, "sub_group_to_group_id", None)
    if of_group is None:
        return lists[group] if group < len(lists) else ()
    return [parameter for sub, found in of_group.items() if found == group for parameter in lists[sub]]


def rates_of(optimizer: Any) -> Rates:
    """A mapping that notes what the groups of an optimizer are stepped with, at each step, for as long as it is referred to.

    Args:
        optimizer: An optimizer, or a wrapper.

    Returns:
        The mapping, to be cleared after it was read. It stays empty where DeepSpeed is not imported; there the groups still
        have the same entries after the step.
    """
    rates = Rates()
    *_, inner = wrappers(optimizer)
    if "deepspeed" in sys.modules and hasattr(inner, "register_step_pre_hook"):
        found = weakref.ref(rates)

        def note(stepping: Any, args: Any, kwargs: Any) -> None:
            if (here := found()) is not None:  # ZeRO-1 and 2 show one group at a time
                here.update((id(g), {k: v for k, v in g.items() if k != "params"}) for g in stepping.param_groups)

        weakref.finalize(rates, inner.register_step_pre_hook(note).remove)
        rates.hooked = True
    return rates


class Partition(NamedTuple):
    """What a rank's partition of DeepSpeed's flattened parameters holds of one parameter of the model.

    Attributes:
        flat: The flattened fp32 tensor that the wrapped optimizer steps, and keeps a state for.
        at: Where the elements begin in it.
        start: The first of them, among those of the parameter in row-major order.
        stop: The element after the last.
    """

    flat: Tensor
    at: int
    start: int
    stop: int


def partition_of(engine: Any, parameter: Any) -> Partition | str | None:
    """Where this rank has its share of an optimizer's state for a parameter, under ZeRO or for bf16.

    Args:
        engine: As `engine_of` gives it.
        parameter: A parameter of the model.

    Returns:
        The place; None if this rank holds nothing of it; or why it cannot be found.
    """
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3: the parameter's shard, in a sub-group's flat tensor
        sub_group, at, _ = engine.grad_position[engine.get_param_id(parameter)]
        size = int(parameter.ds_tensor.ds_numel)
        start = min(parameter.ds_numel, engine_rank(parameter) * size)
        return Partition(
            engine.fp32_partitioned_groups_flat[sub_group], at, start, min(start + size, parameter.ds_numel)
        )
    flats = getattr(engine, "single_partition_of_fp32_groups", None) or getattr(
        engine, "fp32_groups_flat_partition", None
    )
    if flats is None or not hasattr(parameter, "_hp_mapping"):
        return f"{type(engine).__name__} of DeepSpeed does not say where its state is"
    if (mapping := parameter._hp_mapping) is None:
        return None
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Partition(flats[mapping.param_group_index], there.start, here.start, here.start + here.numel)


def engine_rank(parameter: Any) -> int:
    """This rank's place among those that a parameter is partitioned over by ZeRO-3."""
    import torch.distributed as dist

    return dist.get_rank(parameter.ds_process_group)


def engine_of(optimizer: Any) -> Any | None:
    """DeepSpeed's optimizer among the wrappers of an optimizer, or None."""
    return next((o for o in wrappers(optimizer) if any(getattr(o, name, None) for name in _GROUP_LISTS)), None)


def wrappers(optimizer: Any) -> Iterator[Any]:
    """An optimizer, the one that it wraps, and so on; `ZeroRedundancyOptimizer` calls it ``optim``."""
    yield optimizer
    while hasattr(inner := getattr(optimizer, "optimizer", getattr(optimizer, "optim", None)), "param_groups"):
        optimizer = inner
        yield optimizer
