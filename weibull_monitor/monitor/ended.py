"""What is left of a monitor after training: results, and no model, optimizer, tracker or file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weibull_monitor.model.components import Discovery

if TYPE_CHECKING:
    from weibull_monitor.alerts.stop import StopRequest


@dataclass(frozen=True)
class Ended:
    """The results of a monitor that is closed, which can be pickled.

    Attributes:
        discovery: What was measured, and what was not.
        is_main: Whether its process had the samples.
        stop_requested: What alerts asked for.
        state: The last `WeibullMonitor.state_dict`.
    """

    discovery: Discovery
    is_main: bool
    stop_requested: StopRequest
    state: dict[str, Any] = field(default_factory=dict)
