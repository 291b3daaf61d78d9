"""The monitor's options: checked before there is a model, and turned into what it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from torch import nn

from weibull_monitor.components import Discovery, Resolution, discover, without_single_experts
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.schedule import Schedule
from weibull_monitor.trackers import Tracker, check_trackers

MAX_COMPONENTS = 2_000
"""More components than this are measured only when asked for: a sample of them is a line of 200 kB in the history."""


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


def finder(
    kinds: Mapping[str, str] | None,
    include: str | Iterable[str] | None,
    exclude: str | Iterable[str] | None,
    resolution: Resolution | Literal["auto"],
) -> Callable[[nn.Module], Discovery]:
    """Finds the components of a model, with the monitor's options."""

    def find(model: nn.Module) -> Discovery:
        if resolution != "auto":
            return discover(model, kinds, include, exclude, resolution)
        return without_single_experts(discover(model, kinds, include, exclude), MAX_COMPONENTS)

    return find
