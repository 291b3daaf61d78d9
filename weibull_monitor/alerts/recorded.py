"""The rules over a recorded history: what they would have told, with other thresholds if wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weibull_monitor.alerts.engine import Engine
from weibull_monitor.alerts.settings import AlertSettings
from weibull_monitor.alerts.window import Sample
from weibull_monitor.history.alert import Alert


def replay(
    samples: Iterable[Sample], settings: AlertSettings | None = None, attention: Iterable[Mapping[str, Any]] = ()
) -> list[Alert]:
    """The alerts of a recorded run, in order: those that were told while it ran, if the settings are the same.

    Args:
        samples: Its samples, by rising step: ``read_history(path).snapshots``.
        settings: Thresholds; the defaults if not given.
        attention: ``read_history(path).runs[-1].attention``; without it, expectations that depend on it are wide.
    """
    engine = Engine(settings or AlertSettings(), attention)
    return [alert for sample in samples for alert in engine.observe(sample)]
