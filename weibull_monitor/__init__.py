"""A thermometer for weight matrices: live Weibull shape k and scale λ of |w| while a transformer trains."""

from typing import TYPE_CHECKING, Any

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

_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("weibull-monitor")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})
