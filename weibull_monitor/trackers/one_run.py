"""What trackers have in common whose library has one object for a run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from weibull_monitor.trackers.base import Host, NamedTracker
from weibull_monitor.trackers.names import CleanKeys

PROJECT: Final = "weibull-monitor"
"""The project of runs that are started here."""
Found = TypeVar("Found", bound="OneRunTracker")


class OneRunTracker(NamedTracker):
    """Logs to the run of a library: one that is passed or active, which stays open, or one of its own.

    Args:
        run: The run to log to, which stays open; by default the active one. If there is none, a run is started, as the library's
            own environment variables say (online, offline, where), and ended by `close`.
        directory: The directory of the monitored run; its name becomes that of a run that is started.

    Raises:
        MissingDependencyError: If the library is not installed.
    """

    library: ClassVar[str]

    def __init__(self, run: Any = None, directory: str | Path | None = None) -> None:
        module = self._library(self.library)
        self._run = run if run is not None else self._active(module)
        self._owns = self._run is None
        if self._owns:
            self._run = self._start(module, Path(directory) if directory else Path("run"))
        self._keys = CleanKeys(self.name)

    @classmethod
    def of_active_run(cls: type[Found], host: Host) -> Found | None:
        """Logs to the active run, or to a run that a callback of the framework holds, if there is one."""
        active = cls._active(cls._library(cls.library))
        found = active if active is not None else next((run for run in host.held if cls._is_run(run)), None)
        return cls(found) if found is not None else None

    @classmethod
    def of_run(cls: type[Found], run: Any, host: Host) -> Found | None:
        """Logs to a run of this library."""
        return cls(run) if cls._is_run(run) else None

    def close(self) -> None:
        """Ends the run if it was started here."""
        if self._owns:
            self._owns = False
            self._end()

    @classmethod
    @abstractmethod
    def _is_run(cls, run: Any) -> bool:
        """Whether an object is a run of this library; without importing it."""

    @classmethod
    def _active(cls, library: Any) -> Any:
        """The library's active run in this process, or None."""
        return None

    @abstractmethod
    def _start(self, library: Any, directory: Path) -> Any:
        """Starts a run."""

    @abstractmethod
    def _end(self) -> None:
        """Ends the run that was started here."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs all metrics of an optimizer step."""


def is_of(run: Any, library: str, *methods: str) -> bool:
    """Whether an object is of a class of a library, or of one derived from it, and has some methods."""
    modules = {kind.__module__.partition(".")[0] for kind in type(run).__mro__}
    return library in modules and all(callable(getattr(type(run), method, None)) for method in methods)
