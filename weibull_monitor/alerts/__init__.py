"""Alerts: rules over the last samples, and the engine that tells what is new. Where they go is in `delivery`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weibull_monitor.alerts.engine import Engine as Engine
    from weibull_monitor.alerts.recorded import replay as replay
    from weibull_monitor.alerts.settings import AlertSettings as AlertSettings
    from weibull_monitor.history.alert import Alert as Alert
    from weibull_monitor.history.alert import Finding as Finding

_HOME = {
    "AlertSettings": "weibull_monitor.alerts.settings",
    "Engine": "weibull_monitor.alerts.engine",
    "replay": "weibull_monitor.alerts.recorded",
    "Alert": "weibull_monitor.history.alert",
    "Finding": "weibull_monitor.history.alert",
}
"""Loaded when first asked for, so that `import weibull_monitor` stays quick."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
