"""Which matrices a model has, and what each is.

In the order of the data: `tree` finds the place of every parameter, `identify` (with `feed_forward` and `names`) its kind,
`blocks` its block, `heads` and `split` the parts of fused storage, and `discovery` makes a `component` of each. `storage` says
which parameters cannot be measured. `experts`, `attention`, `grid`, `table` and `wording` summarise what was found.
"""

from typing import TYPE_CHECKING

from weibull_monitor.model.components.attention import AttentionType as AttentionType
from weibull_monitor.model.components.attention import attention_types as attention_types
from weibull_monitor.model.components.attention_pairs import AttentionPair as AttentionPair
from weibull_monitor.model.components.attention_pairs import attention_pairs as attention_pairs
from weibull_monitor.model.components.component import CLASS_OF_KIND as CLASS_OF_KIND
from weibull_monitor.model.components.component import Component as Component
from weibull_monitor.model.components.component import Discovery as Discovery
from weibull_monitor.model.components.component import Skipped as Skipped
from weibull_monitor.model.components.experts import ExpertSummary as ExpertSummary
from weibull_monitor.model.components.experts import distinct as distinct
from weibull_monitor.model.components.experts import representatives as representatives
from weibull_monitor.model.components.experts import summarise_experts as summarise_experts
from weibull_monitor.model.components.experts import without_single_experts as without_single_experts
from weibull_monitor.model.components.part import Part as Part
from weibull_monitor.model.components.wording import by_reason as by_reason
from weibull_monitor.model.components.wording import differs as differs
from weibull_monitor.model.components.wording import moved as moved
from weibull_monitor.model.components.wording import nothing_to_measure as nothing_to_measure
from weibull_monitor.model.lazy import on_first_use

if TYPE_CHECKING:
    from weibull_monitor.model.components.by_use import ExampleInputs as ExampleInputs
    from weibull_monitor.model.components.discovery import Resolution as Resolution
    from weibull_monitor.model.components.discovery import discover as discover
    from weibull_monitor.model.components.discovery import discover_components as discover_components
    from weibull_monitor.model.components.table import coverage as coverage
    from weibull_monitor.model.components.table import render as render

# What needs torch is imported when it is first used: who reads a history does not wait for torch.
__getattr__ = on_first_use(
    __name__,
    {
        "by_use": ("ExampleInputs",),
        "discovery": ("Resolution", "discover", "discover_components"),
        "table": ("coverage", "render"),
    },
)
