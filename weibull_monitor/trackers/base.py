"""What a tracker is, and what the registry has to know about each of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from weibull_monitor.errors import MissingDependencyError
from weibull_monitor.history.snapshot import prefix_of


@runtime_checkable
class Tracker(Protocol):
    """Where flat metrics go. Any object with these two methods is a tracker.

    Three more methods are optional, and are called if they exist: ``begin(record)`` with the `RunRecord`, before the first sample
    of a run or of its resumption; ``picture(snapshot)`` with the `Snapshot`, now and then and at the end, after the `log` of the
    same sample; ``alert(alert)`` with each `Alert`.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes the metrics of one optimizer step."""

    def close(self) -> None:
        """Writes what is still buffered. Called once, when training ends."""


@dataclass(frozen=True)
class Host:
    """How a training framework uses its own runs. A tracker needs this to write into them without disturbing the framework.

    Attributes:
        step_metric: The metric in which the framework counts optimizer steps; None if it passes ``step=`` with each row.
        writer: Its open TensorBoard ``SummaryWriter``, if it has one.
        log_dir: Where TensorBoard event files go if there is no such writer.
        held: What its own callbacks hold: the runs of libraries that do not say which of theirs is active.
    """

    step_metric: str | None = None
    writer: Any = None
    log_dir: str | Path = "."
    held: Sequence[Any] = ()


def prefixed(values: Mapping[str, float], name: str | None) -> dict[str, float]:
    """The same values under keys that begin with the name of a model.

    >>> prefixed({"weibull_k/attn_q": 1.2}, "student")
    {'student/weibull_k/attn_q': 1.2}
    """
    return {prefix_of(name) + key: value for key, value in values.items()}


class NamedTracker(ABC):
    """A tracker that can be chosen by name. `weibull_monitor.trackers.registry` lists all of them.

    To add one, write its file, add it to the tuple in the registry, and add its extra to ``pyproject.toml``.

    Attributes:
        name: The name in ``trackers=[...]``, in the Trainer's ``report_to`` and in Accelerate's ``log_with``.
        extra: The extra of this package that installs its library; None if it needs none.
        library: The module of that library.
    """

    name: ClassVar[str]
    extra: ClassVar[str | None] = None
    library: ClassVar[str | None] = None

    @abstractmethod
    def __init__(self, *, directory: str | Path | None = None) -> None:
        """Uses the active run of the library, or starts one for the directory of a monitored run."""

    @classmethod
    def in_directory(cls, directory: Path) -> Tracker:
        """The tracker that a user asks for by name, for a run in this directory.

        Raises:
            MissingDependencyError: If its library is not installed.
        """
        return cls(directory=directory)

    @classmethod
    def of_active_run(cls, host: Host) -> Tracker | None:
        """A tracker that writes into the run that a framework has opened in this process; None if there is no such run.

        Args:
            host: The framework.

        Raises:
            MissingDependencyError: If its library is not installed.
        """
        return None

    @classmethod
    def of_run(cls, run: Any, host: Host) -> Tracker | None:
        """A tracker that writes into a run that a framework's logger holds; None if the run is of another library.

        Args:
            run: ``logger.experiment`` of one of Lightning's loggers, or ``tracker.tracker`` of one of Accelerate's trackers.
            host: The framework.
        """
        return None

    def extra_values(self, step: int) -> Mapping[str, float]:
        """What this tracker shows beside the metrics of an optimizer step, under keys of its own."""
        return {}

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes the metrics of one optimizer step."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is still buffered, and ends the run if this tracker began it."""

    @classmethod
    def check(cls) -> None:
        """Raises `MissingDependencyError` if its library is not installed; imports nothing."""
        if cls.library and find_spec(cls.library) is None:
            raise MissingDependencyError(cls.name, cls.extra or cls.name)

    @classmethod
    def _library(cls, module: str) -> Any:
        """Imports the tracker's library when it is first needed."""
        try:
            return import_module(module)
        except ImportError as error:
            raise MissingDependencyError(cls.name, cls.extra or cls.name) from error
