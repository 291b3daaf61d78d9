"""`WeibullMonitor`: samples the weights during training and records the samples."""

from weibull_monitor.monitor.monitor import WeibullMonitor as WeibullMonitor
from weibull_monitor.monitor.options import MonitorOptions as MonitorOptions
from weibull_monitor.monitor.schedule import Schedule as Schedule
