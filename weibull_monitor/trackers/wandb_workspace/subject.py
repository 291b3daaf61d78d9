"""The run or the kinds that a view is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import History
from weibull_monitor.model.components import CLASS_OF_KIND
from weibull_monitor.trackers.bands import CLASSES, PREFIX, bands_of


@dataclass(frozen=True)
class Subject:
    """The run or the runs that the view is for.

    Attributes:
        kinds: The kinds, as in keys; empty to show all kinds that are logged, by patterns.
        bands: The classes with a published band.
        classes: The classes that the model has.
        forces: Whether forces are measured.
        updates: Whether updates are read.
        law: Whether there are values of the scaling law.
    """

    kinds: tuple[str, ...] = ()
    bands: tuple[str, ...] = CLASSES
    classes: tuple[str, ...] = CLASSES
    forces: bool = False
    updates: bool = False
    law: bool = True


def subject_of(history: History) -> Subject:
    """The subject of a view for one recorded run.

    Raises:
        ConfigurationError: If it holds no run.
    """
    if not history.runs:
        raise ConfigurationError(f"{history.path} holds no run")
    components, edges = history.components, bands_of(history.components, history.runs[-1].attention)
    last = history.snapshots[-1] if history.snapshots else None
    return Subject(
        kinds=tuple(dict.fromkeys(c.label for c in components)),
        bands=tuple(name for name in CLASSES if f"{PREFIX}/{name}_low" in edges),
        classes=tuple(name for name in CLASSES if any(c.component_class == name for c in components)),
        forces=last is not None and bool(last.values("force_net")),
        updates=last is not None and bool(last.values("update_ratio")),
        law=last is None or bool(last.values("effective")),
    )


def subject_of_kinds(kinds: Sequence[str], forces: bool) -> Subject:
    """The subject of a view for the kinds that a user names.

    Raises:
        ConfigurationError: For a name that is not a kind.
    """
    unknown = [kind for kind in kinds if kind.removeprefix("cross_") not in CLASS_OF_KIND]
    if unknown:
        raise ConfigurationError(f"{', '.join(unknown)} is not a kind; the kinds are {', '.join(CLASS_OF_KIND)}")
    found = {CLASS_OF_KIND[kind.removeprefix("cross_")] for kind in kinds}
    classes = tuple(name for name in CLASSES if name in found) if kinds else CLASSES
    return Subject(kinds=tuple(dict.fromkeys(kinds)), bands=classes, classes=classes, forces=forces)
