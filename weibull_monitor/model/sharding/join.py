"""`torch.distributed.algorithms.Join`: training on while some ranks have run out of data."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any
from weakref import ref

from torch import nn

UNDER_JOIN = (
    "the model is trained under Join, where ranks that have run out of data cannot take part in measuring: weibull_monitor "
    "takes no more samples, and training continues. To measure, give all ranks the same amount of data and train without Join"
)


class JoinWatch:
    """Notices that a model is trained under ``Join``, also through ``DistributedDataParallel.join`` or Accelerate.

    A rank without data repeats the collectives of DDP, and of nothing else, so that no other collective may run there.

    Args:
        model: The model: what DDP wraps, the wrapper, or a module that contains it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = ref(model)
        self._wrappers: list[Callable[[], Any]] | None = None

    def active(self) -> bool:
        """Whether ``Join`` has taken over the model's wrapper, now or before: torch does not say when it is over."""
        ddp = sys.modules.get("torch.nn.parallel.distributed")
        model = self._model()
        if ddp is None or model is None:
            return False
        if self._wrappers is None:  # at the first step, as the wrapper may be made after the monitor
            self._wrappers = [ref(found) for found in _wrappers(model, ddp.DistributedDataParallel)]
        configs = (getattr(wrapper(), "_join_config", None) for wrapper in self._wrappers)
        return any(getattr(config, "enable", False) for config in configs)


def _wrappers(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    """The wrappers of this kind in a model; or else those around it, which only the garbage collector knows."""
    inside = [module for module in model.modules() if isinstance(module, kind)]
    if inside:
        return inside
    everywhere = [found for found in gc.get_objects() if issubclass(type(found), kind)]
    return [wrapper for wrapper in everywhere if any(module is model for module in wrapper.modules())]
