"""The report: one HTML page that needs no network, for one run, several runs side by side, or a scan of checkpoints."""

from weibull_monitor.report.html.page import render as render
from weibull_monitor.report.html.page import write as write
