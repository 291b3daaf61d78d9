"""Where the flat metrics go, beside the history: TensorBoard, W&B, MLflow, Trackio, memory, and what they draw."""

from weibull_monitor.trackers.base import MemoryTracker as MemoryTracker
from weibull_monitor.trackers.base import Tracker as Tracker
from weibull_monitor.trackers.base import as_trackers as as_trackers
from weibull_monitor.trackers.base import check_trackers as check_trackers
