"""What the callbacks for the Hugging Face Trainer and for Lightning take, alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from weibull_monitor.alerts import AlertSettings
from weibull_monitor.alerts.dispatch import GO_ON, AlertOptions
from weibull_monitor.alerts.stop import agreed
from weibull_monitor.errors import Guard
from weibull_monitor.history.alert import Alert
from weibull_monitor.history.snapshot import Detail
from weibull_monitor.model.components import Resolution
from weibull_monitor.monitor.monitor import WeibullMonitor
from weibull_monitor.monitor.options import check_options
from weibull_monitor.trackers import Tracker
from weibull_monitor.trackers.pictures import EVERY, check_every


class CallbackOptions:
    """The options of a callback, checked when it is made.

    Args:
        every_n_steps: Distance between samples in optimizer steps, beside a few early ones; or a function of the step.
        trackers: ``"auto"`` for the Trainer's own, or names and objects as `WeibullMonitor` takes them.
        pictures_every: Samples between two heatmaps and tables for trackers that show them, beside the last; 0 for none.
        output_dir: Where the history goes; by default, where the Trainer puts its things.
        detail: ``"kind"`` logs about 75 metrics whatever the model's depth, ``"component"`` three more a matrix.
        kinds: Regular expressions on parameter names, and the kinds of what they match; they override recognition.
        include: Regular expressions; only names that one of them matches are measured.
        exclude: Regular expressions; names that one of them matches are not.
        resolution: ``"auto"``, ``"parameter"``, ``"matrix"`` or ``"head"``, as `WeibullMonitor` takes it.
        forces: Whether to find what each sampled step of AdamW did to the squared norm of each matrix.
        alerts: Thresholds of the alerts: the defaults, the path of a TOML file, a dictionary or `AlertSettings`; False for none.
        on_alert: Called with each `Alert` of a warning or an error.
        webhook: A URL that each of them is posted to, as Slack's incoming webhooks take it; it is never logged.
        stop_on: Severity of an alert (``"error"``, ``"warning"``) at which the Trainer saves a checkpoint and ends training.

    Attributes:
        monitor: The `WeibullMonitor` at work, from the beginning of training; None before.

    Raises:
        ConfigurationError: For an argument out of range or an unknown name.
    """

    def __init__(
        self,
        every_n_steps: int | Callable[[int], bool] = 100,
        *,
        trackers: Literal["auto"] | Iterable[str | Tracker] = "auto",
        pictures_every: int = EVERY,
        output_dir: str | Path | None = None,
        detail: Detail = "kind",
        kinds: Mapping[str, str] | None = None,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        resolution: Resolution | Literal["auto"] = "auto",
        forces: bool = False,
        alerts: AlertSettings | Mapping[str, Any] | str | Path | bool = True,
        on_alert: Callable[[Alert], object] | None = None,
        webhook: str | None = None,
        stop_on: str | None = None,
    ) -> None:
        self._trackers = None if trackers == "auto" else [trackers] if isinstance(trackers, str) else list(trackers)
        self._due = check_options(every_n_steps, self._trackers or (), detail)
        self._stops = AlertOptions.of(alerts, on_alert, webhook, stop_on).stop_on is not None
        self._output_dir = output_dir
        self._options: dict[str, Any] = {"every_n_steps": every_n_steps, "detail": detail, "resolution": resolution}
        self._options |= {"kinds": kinds, "include": include, "exclude": exclude, "forces": forces}
        self._options |= {"alerts": alerts, "on_alert": on_alert, "webhook": webhook, "stop_on": stop_on}
        self._options |= {"pictures_every": check_every(pictures_every)}
        self._guard = Guard()
        self.monitor: WeibullMonitor | None = None

    def _stop_decision(self, step: int, world_size: int) -> int:
        """What alerts have decided (`weibull_monitor.alerts.dispatch`), the same on every process; to be asked on each of them.

        Args:
            step: Optimizer steps taken, as every process counts them; several processes agree at the sampled ones.
            world_size: Number of processes.
        """
        if not self._stops or (world_size > 1 and not self._guard("asking the schedule", lambda: self._due(step))):
            return GO_ON
        mine = self.monitor.stop_requested if self.monitor is not None else GO_ON
        return self._guard("agreeing whether to stop", lambda: agreed(mine)) or GO_ON
