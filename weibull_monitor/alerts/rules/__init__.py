"""The rules: pure functions from a window of samples and thresholds to a `RuleResult`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from weibull_monitor.alerts.rules.attention import attention_scale
from weibull_monitor.alerts.rules.broken import dead, no_gradient, nonfinite, optimizer_reset, unchanged
from weibull_monitor.alerts.rules.jump import scale_shift
from weibull_monitor.alerts.rules.layers import layer_outlier
from weibull_monitor.alerts.rules.loaded import initialised_anew
from weibull_monitor.alerts.rules.maximum import impossible_change
from weibull_monitor.alerts.rules.places import misplaced
from weibull_monitor.alerts.rules.result import RuleResult as RuleResult
from weibull_monitor.alerts.rules.result import finding_of as finding_of
from weibull_monitor.alerts.rules.runaway import scale_runaway
from weibull_monitor.alerts.rules.selection import selection_drift, selection_range, selection_shift
from weibull_monitor.alerts.rules.setting_jump import setting_jump
from weibull_monitor.alerts.rules.shape import body_break, transmission_exit
from weibull_monitor.alerts.rules.stall import scale_stall
from weibull_monitor.alerts.rules.update import update_excess, update_growth
from weibull_monitor.alerts.rules.whole import all_jumped
from weibull_monitor.alerts.rules.written import outside_write
from weibull_monitor.alerts.window import SampleWindow

Rule = Callable[[SampleWindow, Any], "RuleResult | None"]

RULES: Final[dict[str, Rule]] = {
    "nonfinite": nonfinite,
    "dead": dead,
    "impossible_change": impossible_change,
    "setting_jump": setting_jump,
    "misplaced": misplaced,
    "outside_write": outside_write,
    "scale_shift": scale_shift,
    "selection_shift": selection_shift,
    "all_jumped": all_jumped,
    "initialised_anew": initialised_anew,
    "attention_scale": attention_scale,
    "body_break": body_break,
    "unchanged": unchanged,
    "no_gradient": no_gradient,
    "optimizer_reset": optimizer_reset,
    "scale_stall": scale_stall,
    "scale_runaway": scale_runaway,
    "update_growth": update_growth,
    "update_excess": update_excess,
    "layer_outlier": layer_outlier,
    "selection_range": selection_range,
    "selection_drift": selection_drift,
    "transmission_exit": transmission_exit,
}
"""The rules by name, the most telling first. The settings of each are the attribute of that name of `AlertSettings`."""
