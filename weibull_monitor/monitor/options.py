"""The monitor's options: checked before there is a model, and turned into what it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.monitor.schedule import Schedule
from weibull_monitor.trackers import Tracker, check_trackers


def check_options(
    every_n_steps: int | Callable[[int], bool], trackers: Iterable[str | Tracker], detail: str
) -> Callable[[int], bool]:
    """Checks what can be checked before there is a model, and returns the schedule.

    Raises:
        ConfigurationError: For an argument out of range or an unknown name.
    """
    if detail not in ("kind", "component"):
        raise ConfigurationError(f'detail is {detail!r}; it must be "kind" or "component"')
    check_trackers(trackers)
    return every_n_steps if callable(every_n_steps) else Schedule(every_n_steps)
