"""Whether the weights are still those of the last step: weight averaging replaces them when training ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.model.sharding import LocalParameter, Ranks

PASSED = (
    "the weights are no longer those after step {} (weight averaging such as SWA or EMA, or another change by hand), so the last "
    "step is not sampled; list the callback of weibull_monitor before the one that changes them, or call finish() before that"
)
VALUES = 16
"""How many values of one matrix are remembered."""


class LastStep:
    """Remembers a few weights after each step, and says later whether they are still the same.

    Args:
        reader: Reads the model.
        ranks: The processes that measure together; None for this one alone.
    """

    def __init__(self, reader: ModelReader, ranks: Ranks | None) -> None:
        self._reader, self._ranks = reader, ranks
        self._seen: Tensor | None = None
        self._name = ""
        # On the host: the parameter, its address, and a view of some of its values. On an accelerator, such a view would keep the
        # memory of weights that are moved to the host for a while.
        self._view: tuple[LocalParameter, int, Tensor] | None = None

    def remember(self) -> None:
        """Copies the values. It does not wait for the device."""
        held = self._reader.weights.held
        if self._view is not None and self._seen is not None:
            of, address, values = self._view
            if held.get(self._name) is of and of.optimized.data_ptr() == address:
                self._seen.copy_(values)
                return
        self._seen = self._view = None
        if self._name not in held:
            trained = [c for c in self._reader.discovery.components if c.trainable and c.parameter in held]
            # Rows of an embedding whose tokens do not occur are never trained.
            chosen = next((c for c in trained if c.component_class in ("selection", "transmission")), None)
            self._name = (chosen or trained[0]).parameter if trained else ""
        if self._name:
            values, local = self._values(), held[self._name]
            self._seen = values.clone()
            plain = type(local.optimized) is nn.Parameter and not local.sources and not local.problem
            if plain and values.device.type == "cpu":
                self._view = (local, local.optimized.data_ptr(), values)

    def passed(self) -> bool:
        """Whether the weights have changed since, on any rank. All ranks have to call this."""
        changed = False
        try:
            if self._seen is not None:
                changed = not torch.equal(self._seen.view(torch.uint8), self._values().clone().view(torch.uint8))
        except Exception:  # the other ranks wait at the sum; a matrix that cannot be read is named when it is measured
            changed = False
        return changed if self._ranks is None else self._ranks.any(changed)

    def _values(self) -> Tensor:
        """Up to `VALUES` elements along the diagonal of the matrix, or along a shard of it, as a view."""
        local = self._reader.weights.held[self._name].read().detach()
        while local.dim() > 2:
            local = local[len(local) // 2] if len(local) else local.flatten()
        if local.dim() == 2:
            local = local.diagonal()
        return local[:: max(1, len(local) // VALUES)]
