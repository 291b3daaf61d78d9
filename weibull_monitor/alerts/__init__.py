"""Alerts: rules over the last samples, and the engine that raises and clears alerts. Where they go is in `delivery`."""

from weibull_monitor.alerts.engine import Engine as Engine
from weibull_monitor.alerts.engine import replay as replay
from weibull_monitor.alerts.settings import AlertSettings as AlertSettings
from weibull_monitor.history.alert import Alert as Alert
from weibull_monitor.history.alert import Finding as Finding
