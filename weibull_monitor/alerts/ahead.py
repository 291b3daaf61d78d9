"""Many samples of a recorded run looked at together: which of them a rule may find something in.

A replay asks twenty rules at each of perhaps 20,000 samples, and nearly always they find nothing. Rules are made of
operations on arrays whose last dimension is that of the components, so they can be asked about many samples at once: with one
more dimension before it. Only where a strength comes near 1, the rule is asked again about that sample alone, which decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from weibull_monitor.alerts.place import Place, Withheld
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.rules.screens import NEARLY, may_find
from weibull_monitor.alerts.settings import AlertSettings
from weibull_monitor.alerts.statistics import Floats
from weibull_monitor.alerts.window import SampleWindow

SINGLE: Final = frozenset(
    {"unchanged", "all_jumped", "misplaced", "outside_write", "initialised_anew", "update_growth", "update_excess"}
)
"""Rules that look at single samples only."""


class SamplesTogether(SampleWindow):
    """The windows of several samples in a row, as one window whose columns have the shape (samples of the run, components).

    Args:
        window: A window that has taken in these samples.
        places: Where it stood after each of them; all of its samples were there at the first one.
    """

    def __init__(self, window: SampleWindow, places: Sequence[Place]) -> None:
        self.components, self.pairs, self.initial = window.components, window.pairs, window.initial
        self.baseline, self.loaded, self.loaded_at = window.baseline, window.loaded, window.loaded_at
        self.kept, self.memo = window.kept, {}
        self._together = window.slices(places)  # each (samples, places, components)
        every = np.array([place.steps for place in places])[:, :, None]  # (places, samples, 1)
        self.steps = [*np.moveaxis(every, 1, 0)]  # of (places, 1)
        self.samples = places[0].samples
        self.reset = tuple(np.array([place.reset for place in places]).T[:, :, None])
        self.peak, self.settled, self.plateau = (np.stack([place[n] for place in places]) for n in (4, 5, 6))
        self.speed, self.fastest, self.moving_intervals = np.array([place[7:10] for place in places]).T[:, :, None]
        self.withheld = Withheld(*np.array([place.withheld for place in places]).T[:, :, None])  # each (places, 1)

    def __getitem__(self, column: str) -> Floats:
        """A column of the last samples at each place, shape (samples, places, components)."""
        return self._together[column]

    def now(self, column: str) -> Floats:
        """A column of the latest sample at each place, shape (places, components)."""
        latest: Floats = self._together[column][-1]
        return latest

    def before(self, column: str) -> Floats:
        """A column of the sample before the latest, shape (places, components)."""
        earlier: Floats = self._together[column][-2]
        return earlier


def may_find_at(window: SampleWindow, places: Sequence[Place], settings: AlertSettings) -> dict[str, list[bool]]:
    """For each enabled rule and each place whether it may find something there.

    Args:
        window: A window that has taken in some samples.
        places: Where it stood after each of them.
        settings: Thresholds.
    """
    together = SamplesTogether(window, places)
    found: dict[str, list[bool]] = {}
    for name, rule in RULES.items():
        of_rule = getattr(settings, name)
        if of_rule.enabled:
            near = may_find(name, together, of_rule)  # (places,) or ()
            if near.any() and name not in SINGLE:
                result = rule(together, of_rule)
                near = near & (False if result is None else (result.strength >= NEARLY).any(axis=-1))
            found[name] = np.broadcast_to(near, (len(places),)).tolist()
    return found
