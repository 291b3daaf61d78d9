"""What the callbacks for the Hugging Face Trainer and for Lightning take, alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from weibull_monitor.components import Resolution
from weibull_monitor.guard import Guard
from weibull_monitor.monitor import WeibullMonitor, check_options
from weibull_monitor.snapshot import Detail
from weibull_monitor.trackers import Tracker


class CallbackOptions:
    """The options of a callback, checked when it is made.

    Args:
        every_n_steps: Distance between samples in optimizer steps, beside a few early ones; or a function of the step.
        trackers: ``"auto"`` for the Trainer's own, or names and objects as `WeibullMonitor` takes them.
        output_dir: Where the history goes; by default, where the Trainer puts its things.
        detail: ``"kind"`` logs about 60 metrics whatever the model's depth, ``"component"`` three more a matrix.
        kinds: Regular expressions on parameter names, and the kinds of what they match; they override recognition.
        include: Regular expressions; only names that one of them matches are measured.
        exclude: Regular expressions; names that one of them matches are not.
        resolution: ``"auto"``, ``"parameter"``, ``"matrix"`` or ``"head"``, as `WeibullMonitor` takes it.
        forces: Whether to find what each sampled step of AdamW did to the squared norm of each matrix.

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
        output_dir: str | Path | None = None,
        detail: Detail = "kind",
        kinds: Mapping[str, str] | None = None,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        resolution: Resolution | Literal["auto"] = "auto",
        forces: bool = False,
    ) -> None:
        self._trackers = None if trackers == "auto" else [trackers] if isinstance(trackers, str) else list(trackers)
        check_options(every_n_steps, self._trackers or (), detail)
        self._output_dir = output_dir
        self._options: dict[str, Any] = {"every_n_steps": every_n_steps, "detail": detail, "resolution": resolution}
        self._options |= {"kinds": kinds, "include": include, "exclude": exclude, "forces": forces}
        self._guard = Guard()
        self.monitor: WeibullMonitor | None = None
