"""Which matrices a model has, and what each is."""

from weibull_monitor.components.attention import AttentionType as AttentionType
from weibull_monitor.components.attention import attention_types as attention_types
from weibull_monitor.components.component import CLASS_OF_KIND as CLASS_OF_KIND
from weibull_monitor.components.component import Component as Component
from weibull_monitor.components.component import Discovery as Discovery
from weibull_monitor.components.component import Skipped as Skipped
from weibull_monitor.components.discover import Resolution as Resolution
from weibull_monitor.components.discover import discover as discover
from weibull_monitor.components.discover import discover_components as discover_components
from weibull_monitor.components.experts import ExpertSummary as ExpertSummary
from weibull_monitor.components.experts import distinct as distinct
from weibull_monitor.components.experts import representatives as representatives
from weibull_monitor.components.experts import summarise_experts as summarise_experts
from weibull_monitor.components.experts import without_single_experts as without_single_experts
from weibull_monitor.components.messages import by_reason as by_reason
from weibull_monitor.components.messages import differs as differs
from weibull_monitor.components.messages import nothing_to_measure as nothing_to_measure
from weibull_monitor.components.part import Part as Part
from weibull_monitor.components.table import coverage as coverage
from weibull_monitor.components.table import render as render
