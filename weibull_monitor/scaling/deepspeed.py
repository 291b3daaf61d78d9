"""DeepSpeed's optimizers: which of the model's parameters their groups step, and what each step was taken with.

They give the optimizer under them flattened fp32 copies in place of the model's parameters, step it group by group, and the
engine moves the learning rate on before it returns. DeepSpeed is not imported: its optimizers are known by their attributes.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

_LISTS = ("bit16_groups", "bf16_groups", "fp16_groups")
"""Where DeepSpeed's optimizers keep the model's parameters, by group: ZeRO-1 and 2; bf16 without ZeRO; fp16 without ZeRO.
Under ZeRO-3 ``fp16_groups`` are sub-groups, and ``sub_group_to_group_id`` says whose."""


class Rates(dict[int, dict[str, Any]]):
    """By the `id` of a parameter group, the entries that it had at the step just taken."""

    __slots__ = ("__weakref__",)


def parameters_of(optimizer: Any, group: int) -> Sequence[Tensor]:
    """The parameters of the model that one of an optimizer's groups steps.

    Args:
        optimizer: An optimizer, or a wrapper of Accelerate, Lightning or DeepSpeed.
        group: Place of the group in ``optimizer.param_groups``.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> [p is weight for p in parameters_of(torch.optim.AdamW([weight]), 0)]
    [True]
    """
    engine = engine_of(optimizer)
    if engine is None:
        tensors: Sequence[Tensor] = optimizer.param_groups[group]["params"]
        return tensors
    lists = next(found for name in _LISTS if (found := getattr(engine, name, None)))
    of_group = getattr(engine, "sub_group_to_group_id", None)
    if of_group is None:
        return lists[group] if group < len(lists) else ()
    return [parameter for sub, found in of_group.items() if found == group for parameter in lists[sub]]


def rates_of(optimizer: Any) -> Rates:
    """What the groups of an optimizer are stepped with, noted at each of its steps for as long as the result is referred to.

    Args:
        optimizer: An optimizer, or a wrapper.

    Returns:
        To be cleared when it was read. It stays empty where DeepSpeed is not imported: there the groups themselves still say
        it after the step.
    """
    rates = Rates()
    *_, inner = wrappers(optimizer)
    if "deepspeed" in sys.modules and hasattr(inner, "register_step_pre_hook"):
        found = weakref.ref(rates)

        def note(stepping: Any, args: Any, kwargs: Any) -> None:
            if (here := found()) is not None:  # ZeRO-1 and 2 show one group at a time
                here.update((id(g), {k: v for k, v in g.items() if k != "params"}) for g in stepping.param_groups)

        weakref.finalize(rates, inner.register_step_pre_hook(note).remove)
    return rates


def engine_of(optimizer: Any) -> Any | None:
    """The optimizer of DeepSpeed among the wrappers of an optimizer, if there is one."""
    return next((o for o in wrappers(optimizer) if any(getattr(o, name, None) for name in _LISTS)), None)


def wrappers(optimizer: Any) -> Iterator[Any]:
    """An optimizer, the one that it wraps, and so on."""
    yield optimizer
    while hasattr(inner := getattr(optimizer, "optimizer", None), "param_groups"):
        optimizer = inner
        yield optimizer
