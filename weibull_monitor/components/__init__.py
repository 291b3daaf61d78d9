"""Which matrices a model has, and what each is."""

from weibull_monitor.components.component import CLASS_OF_KIND as CLASS_OF_KIND
from weibull_monitor.components.component import Component as Component
from weibull_monitor.components.component import Discovery as Discovery
from weibull_monitor.components.component import Skipped as Skipped
from weibull_monitor.components.discover import discover as discover
from weibull_monitor.components.discover import discover_components as discover_components
