"""`WeibullMonitor`: when to sample, and the way of a sample from the weights to the record."""

from weibull_monitor.monitor.monitor import WeibullMonitor as WeibullMonitor
from weibull_monitor.monitor.schedule import Schedule as Schedule
