"""Where metrics go beside the history: TensorBoard, W&B, MLflow, Trackio, memory, and the pictures that they show."""

from weibull_monitor.trackers.base import Tracker as Tracker
from weibull_monitor.trackers.memory import MemoryTracker as MemoryTracker
from weibull_monitor.trackers.registry import as_trackers as as_trackers
from weibull_monitor.trackers.registry import check_trackers as check_trackers
