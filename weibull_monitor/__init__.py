"""A thermometer for weight matrices: live Weibull shape k and scale λ of |w| while a transformer trains."""

from typing import TYPE_CHECKING, Any

from weibull_monitor.model.lazy import on_first_use

if TYPE_CHECKING:
    from weibull_monitor.errors import ConfigurationError as ConfigurationError
    from weibull_monitor.errors import MissingDependencyError as MissingDependencyError
    from weibull_monitor.errors import UnsupportedTensorError as UnsupportedTensorError
    from weibull_monitor.errors import WeibullMonitorError as WeibullMonitorError
    from weibull_monitor.history import Snapshot as Snapshot
    from weibull_monitor.history import read_history as read_history
    from weibull_monitor.integrations.autolog import autolog as autolog
    from weibull_monitor.measure import WeibullFit as WeibullFit
    from weibull_monitor.measure import fit_weibull as fit_weibull
    from weibull_monitor.model.components import Component as Component
    from weibull_monitor.model.components import discover_components as discover_components
    from weibull_monitor.monitor import Schedule as Schedule
    from weibull_monitor.monitor import WeibullMonitor as WeibullMonitor
    from weibull_monitor.trackers import MemoryTracker as MemoryTracker
    from weibull_monitor.trackers import Tracker as Tracker

_PUBLIC = {
    "errors": ("ConfigurationError", "MissingDependencyError", "UnsupportedTensorError", "WeibullMonitorError"),
    "history": ("Snapshot", "read_history"),
    "integrations.autolog": ("autolog",),
    "measure": ("WeibullFit", "fit_weibull"),
    "model.components": ("Component", "discover_components"),
    "monitor": ("Schedule", "WeibullMonitor"),
    "trackers": ("MemoryTracker", "Tracker"),
}
"""Where each public name is defined. It is imported when it is first used: `weibull-monitor --help` does not wait for torch."""

__all__ = [name for names in _PUBLIC.values() for name in names]
_public = on_first_use(__name__, _PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from weibull_monitor.version import installed_version

        return installed_version()
    return _public(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
