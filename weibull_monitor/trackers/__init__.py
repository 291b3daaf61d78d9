"""Where samples go: the history on disk (always), and any number of trackers for the flat metrics."""

from weibull_monitor.trackers.base import MemoryTracker as MemoryTracker
from weibull_monitor.trackers.base import Tracker as Tracker
from weibull_monitor.trackers.base import as_trackers as as_trackers
from weibull_monitor.trackers.base import check_trackers as check_trackers
from weibull_monitor.trackers.history import History as History
from weibull_monitor.trackers.history import HistoryWriter as HistoryWriter
from weibull_monitor.trackers.history import RunRecord as RunRecord
from weibull_monitor.trackers.history import read_history as read_history
