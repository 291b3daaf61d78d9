"""The record of a run: samples and alerts as values, and the file that keeps them: written, read and followed."""

from weibull_monitor.history.alert import Alert as Alert
from weibull_monitor.history.alert import Finding as Finding
from weibull_monitor.history.reader import read_history as read_history
from weibull_monitor.history.record import History as History
from weibull_monitor.history.record import RecordedPlot as RecordedPlot
from weibull_monitor.history.record import RecordedSnapshot as RecordedSnapshot
from weibull_monitor.history.record import RunRecord as RunRecord
from weibull_monitor.history.snapshot import Snapshot as Snapshot
from weibull_monitor.history.writer import HistoryWriter as HistoryWriter
