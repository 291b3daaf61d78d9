"""What the monitor holds: the engine, and everybody who is told. Nothing that goes wrong here gets out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from weibull_monitor.alerts.delivery import Webhook, log
from weibull_monitor.alerts.delivery.webhook import check_url
from weibull_monitor.alerts.engine import Engine
from weibull_monitor.alerts.settings import AlertSettings
from weibull_monitor.alerts.window import Sample
from weibull_monitor.errors import ConfigurationError, Guard
from weibull_monitor.history.alert import SEVERITIES, Alert, Severity, rank

GO_ON, STOP, SAVE_AND_STOP = 0, 1, 2
ACTIVE: Final = "weibull_alerts/active"


@dataclass(frozen=True)
class AlertOptions:
    """What a user passes about alerts, checked.

    Attributes:
        settings: Thresholds; None if alerts are off.
        on_alert: Called with each `Alert`.
        webhook: Where each is posted; a secret, which the representation leaves out.
        stop_on: Severity from which training is asked to stop.
    """

    settings: AlertSettings | None
    on_alert: Callable[[Alert], object] | None = None
    webhook: str | None = None
    stop_on: Severity | None = None

    def __repr__(self) -> str:
        webhook = "None" if self.webhook is None else "…"
        return f"AlertOptions({self.settings}, on_alert={self.on_alert}, webhook={webhook}, stop_on={self.stop_on!r})"

    @staticmethod
    def of(
        alerts: AlertSettings | Mapping[str, Any] | str | Path | bool,
        on_alert: Callable[[Alert], object] | None = None,
        webhook: str | None = None,
        stop_on: str | None = None,
    ) -> AlertOptions:
        """Checks the options.

        Raises:
            ConfigurationError: For anything out of range; it names the key, and never repeats the webhook.
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
    """Where alerts are recorded: the history."""

    def write_alert(self, alert: Alert) -> None:
        """Writes one line."""


class Dispatcher:
    """Looks at every sample, and tells everybody what is new.

    Args:
        options: What the user passed.
        recorder: The history.
        trackers: Those with a method ``alert(alert)`` are told.
        run: What to call the run in messages.
        guard: Runs what may fail.

    Attributes:
        decision: Whether training is asked to stop: `GO_ON`, `STOP`, or `SAVE_AND_STOP`.
    """

    def __init__(
        self, options: AlertOptions, recorder: AlertRecorder, trackers: Iterable[Any], run: str, guard: Guard
    ) -> None:
        self._options, self._recorder, self._guard = options, recorder, guard
        self._trackers = [tracker for tracker in trackers if callable(getattr(tracker, "alert", None))]
        self._engine: Engine | None = None
        self._from = rank(options.settings.deliver_from) if options.settings else 0
        self._webhook = Webhook(options.webhook, run, guard.once) if options.webhook and options.settings else None
        self._state: dict[str, Any] | None = {}
        self.decision = GO_ON

    def begin(self, attention: Iterable[Mapping[str, Any]]) -> None:
        """Says what kinds of attention the model has; nothing is judged before."""
        if self._options.settings is not None and self._engine is None:
            self._engine = Engine(self._options.settings, attention)

    def observe(self, sample: Sample) -> list[Alert]:
        """Judges one more sample, and returns what is new."""
        self._state = None
        return self._guard("judging a sample", lambda: self._engine.observe(sample) if self._engine else []) or []

    def metrics(self) -> dict[str, float]:
        """The flat metric of alerts; none if they are off."""
        return {ACTIVE: float(self._engine.active)} if self._engine else {}

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Tells everybody, the history first; each failure is reported once, and keeps nobody else from being told."""
        for alert in alerts:
            self._guard("writing an alert to the history", lambda alert=alert: self._recorder.write_alert(alert))  # type: ignore[misc]
            log(alert)
            if rank(alert.finding.severity) < self._from:
                continue
            self._decide(alert)
            for tracker in self._trackers:
                self._guard(
                    f"telling {type(tracker).__name__} of an alert",
                    lambda alert=alert, tracker=tracker: tracker.alert(alert),  # type: ignore[misc]
                )
            if self._options.on_alert is not None:
                self._guard("calling on_alert", lambda alert=alert: self._options.on_alert(alert))  # type: ignore[misc]
            if self._webhook is not None:
                self._guard("queueing an alert for the webhook", lambda alert=alert: self._webhook.send(alert))  # type: ignore[misc]

    def close(self) -> None:
        """Gives the webhook a moment to send what waits."""
        if self._webhook is not None:
            self._guard("closing the webhook", self._webhook.close)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the history; empty while there is nothing to tell. Asked at every step: it is kept."""
        if self._state is None:
            self._state = self._engine.state_dict() if self._engine else {}
        return self._state

    def resume(self, state: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Goes on from `state_dict`, given the samples of the run so far."""
        self._state = None
        if self._engine is not None:
            self._engine.load_state_dict(state, samples)

    def _decide(self, alert: Alert) -> None:
        wanted = self._options.stop_on
        if wanted is None or alert.phase == "ends" or rank(alert.finding.severity) < rank(wanted):
            return
        # Weights that hold Inf or NaN are not worth a checkpoint, which might push out the last good one.
        self.decision = max(self.decision, STOP if alert.finding.rule == "nonfinite" else SAVE_AND_STOP)
