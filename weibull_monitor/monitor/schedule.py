"""When to sample: a function of the optimizer step alone, so that all ranks decide the same."""

from __future__ import annotations

from dataclasses import dataclass

from weibull_monitor.errors import ConfigurationError, as_integer


@dataclass(frozen=True)
class Schedule:
    """Samples every ``every`` optimizer steps, and at 1, 2, 4, … up to ``early``, where weights move fastest.

    The baseline (step 0) and the last step are always sampled.

    Args:
        every: Number of optimizer steps between samples; at least 1.
        early: Last of the early steps; 0 for none.

    Raises:
        ConfigurationError: If ``every`` is not an integer of at least 1, or ``early`` is negative.

    >>> schedule = Schedule(every=100)
    >>> [step for step in range(1, 301) if schedule(step)]
    [1, 2, 4, 8, 16, 32, 64, 100, 200, 300]
    """

    every: int = 100
    early: int = 64

    def __post_init__(self) -> None:
        every = as_integer(self.every)
        if every is None or every < 1:
            raise ConfigurationError(
                f"every_n_steps is {self.every!r}; it must be an integer of at least 1 (optimizer steps)"
            )
        object.__setattr__(self, "every", every)
        if self.early < 0:
            raise ConfigurationError(f"early is {self.early!r}; it must be 0 (no early samples) or more")

    def __call__(self, step: int) -> bool:
        """Returns whether an optimizer step (from 1) is sampled."""
        return step % self.every == 0 or (step & (step - 1) == 0 and 0 < step <= self.early)
