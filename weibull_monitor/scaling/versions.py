"""What was written to in place between two steps, by PyTorch's versions of tensors."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from weibull_monitor.measure.rows import Numbers

GONE: Final = -1
"""Version of a tensor that is no longer there."""


class VersionWatch:
    """Follows the versions of parameters, and of what optimizers keep of them.

    torch raises the version of a tensor at every operation in place, but not for those through ``tensor.data``.

    Args:
        parameters: The parameters, as the optimizers hold them.

    Attributes:
        raised: Before how many steps the version of each parameter was raised, and that of what its optimizer keeps of it; and
            the number of steps taken before that was last so, (3, parameters).
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self._versions: list[int] = []
        self._states: list[weakref.ref[Tensor]] = []  # not held: they may be moved elsewhere
        self._of: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)  # the parameter of each state, by its place
        self._state_versions: list[int] = []
        self.clear()
        self.note()

    def clear(self) -> None:
        """Begins to count anew."""
        self.raised: Numbers = np.zeros((3, len(self.parameters)))

    def find_states(self, optimizer: Any) -> None:
        """Follows the tensors that an optimizer keeps of the parameters, of as many elements as those have."""
        at = {id(p): place for place, p in enumerate(self.parameters)}
        found: list[tuple[int, Tensor]] = []
        state = getattr(optimizer, "state", None)
        for p, kept in state.items() if isinstance(state, Mapping) else ():
            place = at.get(id(p)) if isinstance(p, Tensor) else None
            if place is not None and isinstance(kept, Mapping):
                tensors = (t for t in kept.values() if isinstance(t, Tensor) and not t.is_inference())
                found += [(place, t) for t in tensors if t.numel() == p.numel() > 1]
        self._states = [weakref.ref(t) for _, t in found]
        self._of = np.array([place for place, _ in found], dtype=np.intp)
        self.note()

    def note(self) -> None:
        """Takes the versions as they are now, after a step."""
        self._versions = [p._version for p in self.parameters]
        self._state_versions = [GONE if (t := state()) is None else t._version for state in self._states]

    def compare(self, step: int) -> None:
        """Counts which versions were raised since the last call of this or of `note`, when so many steps had been taken."""
        versions, of_states = self._versions, self._state_versions
        self.note()
        if versions != self._versions:
            self._count(0, np.array(versions) != np.array(self._versions), step)
        if of_states != self._state_versions:
            now, before = np.array(self._state_versions), np.array(of_states)
            raised = np.zeros(len(self.parameters), dtype=bool)
            raised[self._of[(now != before) & (now != GONE)]] = True  # a state that was loaded is another tensor
            self._count(1, raised, step)

    def _count(self, row: int, raised: npt.NDArray[np.bool_], step: int) -> None:
        self.raised[row] += raised
        self.raised[2][raised] = step
