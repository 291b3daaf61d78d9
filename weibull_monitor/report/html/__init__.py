"""The report: one HTML page that needs no network, of a run, of several side by side, or of a scan of checkpoints."""

from weibull_monitor.report.html.page import render as render
from weibull_monitor.report.html.page import write as write
