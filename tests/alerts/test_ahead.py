"""Many samples judged together: the same alerts as one by one, whatever happens in the run."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.simulated import ATTENTION, Columns, healthy, samples_of
from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.alerts.ahead import may_find
from weibull_monitor.alerts.engine import AHEAD
from weibull_monitor.alerts.rules import RULES
from weibull_monitor.alerts.window import CAPACITY, SampleWindow


def troubled(seed: int, samples: int = 160) -> list[Columns]:
    """A run in which something happens to single values, matrices or all of them, every now and then."""
    source, columns = np.random.default_rng(seed), healthy(samples=samples)
    names = ("k", "lambda", "r2", "rms", "zeros", "nonfinite", "eta", "weight_decay")
    for at in source.choice(np.arange(1, samples), 20, replace=False):
        name, until = str(source.choice(names)), int(at + source.choice([1, 3, samples]))
        size = len(columns[0][name])
        of = source.random(size) < source.choice([1.0 / size, 0.3, 1.0])
        factor, added = source.choice([0.0, 0.7, 0.98, 1.05, 2.0, np.nan]), float(name == "nonfinite")
        for now in columns[at:until]:
            now[name] = np.where(of, now[name] * factor + added, now[name])
    return columns


@pytest.mark.parametrize("seed", range(6))
def test_samples_together_give_the_alerts_that_they_give_one_by_one(seed: int) -> None:
    samples = samples_of(troubled(seed))
    alone, together = (Engine(AlertSettings(), [ATTENTION], recorded=recorded) for recorded in (False, True))
    one_by_one = [alert.to_json() for sample in samples for alert in alone.observe(sample)]
    assert len({alert["rule"] for alert in one_by_one}) > 3
    assert [alert.to_json() for alert in together.observe_all(samples)] == one_by_one
    assert together.state_dict() == alone.state_dict()


@pytest.mark.parametrize("seed", range(3))
def test_no_sample_is_passed_by_at_which_a_rule_finds_something(seed: int) -> None:
    samples = samples_of(troubled(seed))
    window, settings = SampleWindow([ATTENTION], ahead=AHEAD), AlertSettings()
    places = []
    for sample in samples:
        window.push(sample)
        places.append(window.place())
    places = places[CAPACITY:]
    may = may_find(window, places, settings)
    assert may.keys() == RULES.keys()
    found = dict.fromkeys(RULES, 0)
    for n, place in enumerate(places):
        window.go_to(place)
        with np.errstate(all="ignore"):
            for name, rule in RULES.items():
                result = rule(window, getattr(settings, name))
                finds = result is not None and bool((result.strength >= 1.0).any())
                found[name] += finds
                assert may[name][n] or not finds, (name, n)
    assert sum(count > 0 for count in found.values()) > 3
    assert all(passed < len(places) for name, passed in ((n, sum(may[n])) for n in ("nonfinite", "layer_outlier")))
