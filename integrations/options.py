"""The options that the callbacks for the Hugging Face Trainer and for Lightning share."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weibull_monitor.alerts.stop import StopRequest, agreed
from weibull_monitor.errors import Guard, say
from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.monitor.options import MonitorOptions, option_fields, refuse_unknown, takes_options
from weibull_monitor.trackers import Tracker


@dataclass(frozen=True, kw_only=True)
class _Arguments(MonitorOptions):
    """The options as callbacks take them: ``every_n_steps`` may be positional, and the trackers are those of the Trainer."""

    every_n_steps: int | Callable[[int], bool] = field(default=MonitorOptions.every_n_steps, kw_only=False)
    trackers: Iterable[str | Tracker] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.trackers, str):
            object.__setattr__(self, "trackers", () if self.trackers == "auto" else [self.trackers])
        super().__post_init__()


def checked(caller: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, checked as a callback checks them, for several callbacks.

    Raises:
        ConfigurationError: If an option is out of range.
        TypeError: If an option does not exist; the message names the caller.
    """
    refuse_unknown(caller, options, option_fields(host=False))
    given = _Arguments(**options)
    given.check()
    automatic = {"trackers"} if options.get("trackers", "auto") == "auto" else set()
    return {name: getattr(given, name) for name in options if name not in automatic}


class CallbackOptions:
    """The options of a callback, checked when it is made.

    Args:
        every_n_steps: See `MonitorOptions`, as for all other options. In a callback, ``trackers`` is ``"auto"`` by default, and
            ``scheduler``, ``total_steps``, ``resume``, ``process_group``, ``trial`` and ``join_timeout`` are not taken.
        options: The other options, by keyword.

    A callback can be pickled and copied, if its options can. After training it keeps results only, and not the model.

    Attributes:
        monitor: The `WeibullMonitor`, from the beginning of training; None before.

    Raises:
        ConfigurationError: If an argument is out of range or a name is unknown.
        TypeError: If an option does not exist.
    """

    @takes_options(_Arguments, host=False)
    def __init__(self, every_n_steps: Any = MonitorOptions.every_n_steps, **options: Any) -> None:
        given = _Arguments(every_n_steps, **options)
        given.check()
        self._options = {name: getattr(given, name) for name in option_fields(host=False)}
        where = self._options.pop("output_dir")
        self._output_dir = Path(where).absolute() if where else None  # the script may change its directory later
        trackers = self._options.pop("trackers")
        self._trackers: list[str | Tracker] | None = None if options.get("trackers", "auto") == "auto" else trackers
        self._due, self._stops = given.schedule, given.alert_options.stop_on is not None
        self._guard = Guard()
        self.monitor: WeibullMonitor | None = None

    def __repr__(self) -> str:
        if self.monitor is not None:
            return f"WeibullCallback({self.monitor!r})"
        return f"WeibullCallback(every_n_steps={self._options['every_n_steps']!r})"

    def _repr_html_(self) -> str | None:
        return self.monitor._repr_html_() if self.monitor is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or a pickled callback, has the options and no monitor: training goes on with the original."""
        return self.__dict__ | {"monitor": None}

    def _say_where(self, host: str, place: str | Path) -> None:
        """Logs, on the main process, where the values of a run without trackers are. The directory is that of the run."""
        say(
            logging.WARNING,
            f"{host}: k and λ are in {Path(place) / 'weibull'} only; "
            f"to look at them: weibull-monitor watch {shlex.quote(str(place))}",
        )

    def _stop_request(self, step: int, world_size: int) -> StopRequest:
        """What alerts ask for, the same on every process. Every process has to call this.

        Args:
            step: Number of optimizer steps, as every process counts them; several processes agree at the sampled steps.
            world_size: Number of processes.
        """
        sampled = self.monitor is not None and self.monitor.sampled_step == step
        if not self._stops or (
            world_size > 1 and not sampled and not self._guard("asking the schedule", self._due, step)
        ):
            return StopRequest.CONTINUE
        mine = self.monitor.stop_requested if self.monitor is not None else StopRequest.CONTINUE
        return self._guard("agreeing whether to stop", agreed, mine) or StopRequest.CONTINUE
