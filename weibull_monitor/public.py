"""The table of contents: the public names, all of which `import weibull_monitor` offers."""

from weibull_monitor.components import Component as Component
from weibull_monitor.components import discover_components as discover_components
from weibull_monitor.errors import ConfigurationError as ConfigurationError
from weibull_monitor.errors import MissingDependencyError as MissingDependencyError
from weibull_monitor.errors import UnsupportedTensorError as UnsupportedTensorError
from weibull_monitor.errors import WeibullMonitorError as WeibullMonitorError
from weibull_monitor.measure import WeibullFit as WeibullFit
from weibull_monitor.measure import fit_weibull as fit_weibull
from weibull_monitor.monitor import WeibullMonitor as WeibullMonitor
from weibull_monitor.schedule import Schedule as Schedule
from weibull_monitor.snapshot import Snapshot as Snapshot
from weibull_monitor.trackers import MemoryTracker as MemoryTracker
from weibull_monitor.trackers import Tracker as Tracker
from weibull_monitor.trackers import read_history as read_history
