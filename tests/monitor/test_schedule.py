from __future__ import annotations

import pytest

from weibull_monitor import ConfigurationError, Schedule


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "100"])
def test_a_distance_that_is_no_positive_integer_is_refused(every: object) -> None:
    with pytest.raises(ConfigurationError, match=r"every_n_steps is .*at least 1"):
        Schedule(every)  # type: ignore[arg-type]


def test_early_steps_can_be_left_out() -> None:
    schedule = Schedule(every=50, early=0)
    assert [s for s in range(1, 201) if schedule(s)] == [50, 100, 150, 200]
    with pytest.raises(ConfigurationError, match="early"):
        Schedule(early=-1)


def test_early_steps_are_powers_of_two_up_to_64() -> None:
    schedule = Schedule(every=1000)
    assert [s for s in range(1, 1001) if schedule(s)] == [1, 2, 4, 8, 16, 32, 64, 1000]
