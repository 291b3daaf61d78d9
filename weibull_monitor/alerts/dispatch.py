"""Judges each sample of a live run and delivers new alerts. Failures are reported and never reach training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from weibull_monitor.alerts.delivery import Webhook, log
from weibull_monitor.alerts.delivery.webhook import check_url
from weibull_monitor.alerts.engine import Engine
from weibull_monitor.alerts.samples import Sample
from weibull_monitor.alerts.settings import AlertSettings
from weibull_monitor.alerts.stop import StopRequest
from weibull_monitor.errors import ConfigurationError, Guard
from weibull_monitor.history.alert import SEVERITIES, Alert, Severity, rank

ACTIVE: Final = "weibull_alerts/active"


@dataclass(frozen=True)
class AlertOptions:
    """The options about alerts, checked.

    Attributes:
        settings: Thresholds; None if alerts are off.
        on_alert: Called with each `Alert`.
        webhook: URL that each alert is posted to. It is a secret and is left out of `repr`.
        stop_on: Lowest severity at which training is asked to stop.
    """

    settings: AlertSettings | None
    on_alert: Callable[[Alert], object] | None = None
    webhook: str | None = field(default=None, repr=False)
    stop_on: Severity | None = None

    @staticmethod
    def of(
        alerts: AlertSettings | Mapping[str, Any] | str | Path | bool,
        on_alert: Callable[[Alert], object] | None = None,
        webhook: str | None = None,
        stop_on: str | None = None,
    ) -> AlertOptions:
        """Checks the options.

        Raises:
            ConfigurationError: If an option is invalid. The message names the option and never repeats the webhook.
        """
        if on_alert is not None and not callable(on_alert):
            raise ConfigurationError(f"on_alert is {on_alert!r}; pass a function that takes an Alert")
        if webhook is not None:
            check_url(webhook)
        severity = next((s for s in SEVERITIES if s == stop_on), None)
        if stop_on is not None and severity is None:
            raise ConfigurationError(f"stop_on is {stop_on!r}; it must be one of {', '.join(SEVERITIES)}, or None")
        return AlertOptions(None if alerts is False else AlertSettings.of(alerts), on_alert, webhook, severity)


class AlertRecorder(Protocol):
    """Records alerts; the history does."""

    def write_alert(self, alert: Alert) -> None:
        """Writes one line."""


class Dispatcher:
    """Judges every sample and delivers new alerts.

    Args:
        options: The options about alerts.
        recorder: The history.
        trackers: All trackers; those with a method ``alert(alert)`` receive alerts.
        run: Name of the run in messages.
        guard: Runs what may fail.

    Attributes:
        stop_request: Whether an alert has asked for training to stop.
    """

    def __init__(
        self, options: AlertOptions, recorder: AlertRecorder, trackers: Iterable[Any], run: str, guard: Guard
    ) -> None:
        self._options, self._recorder, self._guard = options, recorder, guard
        self._trackers = [tracker for tracker in trackers if callable(getattr(tracker, "alert", None))]
        self._engine: Engine | None = None
        self._deliver_from = rank(options.settings.deliver_from) if options.settings else 0
        self._webhook = Webhook(options.webhook, run, guard.once) if options.webhook and options.settings else None
        self._state: dict[str, Any] | None = {}
        self.stop_request = StopRequest.CONTINUE

    def begin(self, attention: Iterable[Mapping[str, Any]], initial: float | None = None) -> None:
        """Starts the rules, which depend on the model's kinds of attention and initialisation. No sample is judged before."""
        if self._options.settings is not None and self._engine is None:
            self._engine = Engine(self._options.settings, attention, initial)

    def observe(self, sample: Sample) -> list[Alert]:
        """Judges one more sample and returns the new alerts."""
        self._state = None
        return (self._engine and self._guard("judging a sample", self._engine.observe, sample)) or []

    def metrics(self) -> dict[str, float]:
        """The number of active alerts as a metric; empty if alerts are off."""
        return {ACTIVE: float(self._engine.active)} if self._engine else {}

    def deliver(self, alerts: Sequence[Alert]) -> None:
        """Delivers alerts to every receiver, first to the history. A receiver that fails does not affect the others."""
        for alert in alerts:
            self._guard("writing an alert to the history", self._recorder.write_alert, alert)
            log(alert)
            if rank(alert.finding.severity) < self._deliver_from:
                continue
            self._update_stop_request(alert)
            for tracker in self._trackers:
                self._guard(f"sending an alert to {type(tracker).__name__}", tracker.alert, alert)
            if self._options.on_alert is not None:
                self._guard("calling on_alert", self._options.on_alert, alert)
            if self._webhook is not None:
                self._guard("queueing an alert for the webhook", self._webhook.send, alert)

    def close(self) -> None:
        """Gives the webhook a moment to send the alerts in its queue."""
        if self._webhook is not None:
            self._guard("closing the webhook", self._webhook.close)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the history; empty without alerts. Asked for at every step, so it is cached."""
        if self._state is None:
            self._state = self._engine.state_dict() if self._engine else {}
        return self._state

    def resume(self, state: object, samples: Sequence[Sample]) -> None:
        """Continues from `state_dict`, given the samples of the run so far."""
        self._state = None
        if self._engine is not None:
            self._engine.load_state_dict(state, samples)

    def _update_stop_request(self, alert: Alert) -> None:
        wanted = self._options.stop_on
        if wanted is None or alert.phase == "ends" or rank(alert.finding.severity) < rank(wanted):
            return
        # Weights that hold Inf or NaN are not worth a checkpoint, which might push out the last good one.
        request = StopRequest.STOP if alert.finding.rule == "nonfinite" else StopRequest.SAVE_AND_STOP
        self.stop_request = max(self.stop_request, request)
