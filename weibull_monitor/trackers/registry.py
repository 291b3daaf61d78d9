"""The trackers that can be chosen by name, in one tuple, and how names, runs and loggers become trackers."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.trackers.aim import AimTracker
from weibull_monitor.trackers.base import Host, NamedTracker, Tracker
from weibull_monitor.trackers.clearml import ClearMLTracker
from weibull_monitor.trackers.comet import CometTracker
from weibull_monitor.trackers.dvclive import DVCLiveTracker
from weibull_monitor.trackers.memory import MemoryTracker
from weibull_monitor.trackers.mlflow import MlflowTracker
from weibull_monitor.trackers.neptune import NeptuneTracker
from weibull_monitor.trackers.swanlab import SwanLabTracker
from weibull_monitor.trackers.tensorboard import TensorBoardTracker
from weibull_monitor.trackers.trackio import TrackioTracker
from weibull_monitor.trackers.wandb import WandbTracker

TRACKERS: Final[tuple[type[NamedTracker], ...]] = (
    TensorBoardTracker,
    WandbTracker,
    MlflowTracker,
    TrackioTracker,
    CometTracker,
    ClearMLTracker,
    NeptuneTracker,
    SwanLabTracker,
    AimTracker,
    DVCLiveTracker,
    MemoryTracker,
)


def named(name: object) -> type[NamedTracker] | None:
    """The tracker of this name; None if there is none."""
    return next((tracker for tracker in TRACKERS if tracker.name == name), None)


def choices() -> str:
    """What can be passed as a tracker, for messages.

    >>> choices().partition(", wandb")[0], choices().rpartition(" memory, ")[2]
    ('tensorboard', 'or an object with log(metrics, step) and close()')
    """
    return f"{', '.join(tracker.name for tracker in TRACKERS)}, or an object with log(metrics, step) and close()"


def as_trackers(trackers: Iterable[str | Tracker], output_dir: Path) -> list[Tracker]:
    """Turns names into trackers, and returns trackers as they are.

    Args:
        trackers: Names of `TRACKERS`, or objects with ``log(metrics, step)`` and ``close()``.
        output_dir: The run's directory, for trackers that write files.

    Raises:
        ConfigurationError: For anything else.
        MissingDependencyError: If the library of a named tracker is not installed.
    """
    if isinstance(trackers, str):
        raise ConfigurationError(f"trackers is the string {trackers!r}; pass a list: trackers=[{trackers!r}]")
    found: list[Tracker] = []
    opened: list[Tracker] = []
    try:
        for tracker in trackers:
            if not isinstance(tracker, Tracker):
                tracker = _checked(tracker).in_directory(output_dir)
                opened.append(tracker)
            found.append(tracker)
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return found


def check_trackers(trackers: Iterable[str | Tracker]) -> None:
    """Raises what `as_trackers` would raise, for unknown names and missing libraries too; imports and opens nothing."""
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if not isinstance(tracker, Tracker):
            _checked(tracker).check()


def tracker_of_run(run: Any, host: Host) -> Tracker | None:
    """The tracker that recognises the run of a framework's logger; None if none does.

    Args:
        run: The run, as `NamedTracker.of_run` takes it.
        host: The framework.
    """
    return next((found for tracker in TRACKERS if (found := tracker.of_run(run, host)) is not None), None)


def _checked(name: object) -> type[NamedTracker]:
    if (tracker := named(name)) is None:
        near = get_close_matches(str(name), [tracker.name for tracker in TRACKERS], 1)
        hint = f"did you mean {near[0]!r}? Pass one of" if near else "pass one of"
        raise ConfigurationError(f"{name!r} is not a tracker; {hint} {choices()}")
    return tracker
