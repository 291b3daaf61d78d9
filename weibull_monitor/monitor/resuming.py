"""How the monitor resumes a run: from its saved state, and the history that it goes on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from weibull_monitor.errors import ConfigurationError, Guard
from weibull_monitor.history.snapshot import Reference, Snapshot
from weibull_monitor.model.sharding import Ranks
from weibull_monitor.monitor.adaptive import Adaptive
from weibull_monitor.monitor.ended import Ended
from weibull_monitor.monitor.options import step_of
from weibull_monitor.monitor.recorder import Recorder

if TYPE_CHECKING:
    from weibull_monitor.scaling.law import ScalingLaw
    from weibull_monitor.scaling.tracking import BudgetTracker


class Resuming:
    """The methods of `WeibullMonitor` about a run that goes on."""

    is_main: Any
    last: Snapshot | None
    _guard: Guard
    _ended: Ended | None
    _recorder: Recorder | None
    _ranks: Ranks | None
    _budgets: BudgetTracker
    _law: ScalingLaw
    _adaptive: Adaptive | None
    _baseline: Mapping[str, Reference]
    _resumed_from: int | None
    _step: int
    _sampled: int
    _sampled_first: bool
    _recalled: bool
    _take_baseline: Callable[[], None]
    _restore_expected: Callable[[Any], None]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict`, with the history, the baseline and the budgets. Call it before the first `step`.

        Args:
            state: The state. ``step`` is enough; without the rest, what the optimizers have spent is unknown, and so is
                everything that follows from it.

        Raises:
            ConfigurationError: If the monitor is closed, or the state has no step.
        """
        if self._ended is not None:
            raise ConfigurationError("the monitor is closed; make another one, with resume=")
        self._step = self._sampled = self._resumed_from = step_of(state)
        self._guard("restoring what is expected", self._restore_expected, state.get("expected"))
        self._guard("restoring the budgets", self._budgets.restore, state.get("budgets"), state.get("watched"))
        if self._adaptive is not None:
            self._adaptive.resume(state.get("adaptive"), self._step)
        self.last, self._baseline, self._sampled_first = None, {}, False
        if self._recorder is not None:
            self._guard("reading the history", self._recall_baseline, self._recorder, state.get("alerts"))

    def _recall_baseline(self, recorder: Recorder, alerts: Any) -> None:
        samples, self._baseline = recorder.recall(alerts, until=self._step)
        self._recalled = any(sample.step <= self._step for sample in samples)
        self._law.recall(samples, until=self._step)

    def _begin_with_what_was_loaded(self) -> None:
        new = self.is_main and not self._recalled  # it has no history of its own
        if new if self._ranks is None else self._ranks.any(new):
            self._take_baseline()
