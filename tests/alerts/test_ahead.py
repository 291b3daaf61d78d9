"""Many samples judged together: the same alerts as one by one, whatever happens in the run."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.simulated import ATTENTION, SIDE, Columns, components, healthy, index, samples_of, scale_by
from weibull_monitor.alerts import AlertSettings, Engine
from weibull_monitor.alerts.ahead import may_find_at
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


def test_samples_together_show_a_block_that_jumps_and_one_value_that_goes_alone() -> None:
    columns = healthy(samples=120, eta=6e-3)
    block, one = [index(2, kind) for kind in ("attn_v", "attn_o", "ffn_up", "ffn_down")], index(1, "attn_v")
    for n, now in enumerate(columns):
        now["update_max"][one] = now["element_max"][one] = np.nan
        scale_by(now, np.exp(0.14 * (n >= 60)), block)
        if n >= 80:
            now["largest"][one] = 64.0 * now["rms"][one]
            now["rms"][one] *= np.sqrt(1.0 + 64.0**2 / SIDE**2)
    samples = samples_of(columns)
    alone, together = (Engine(AlertSettings(), [ATTENTION], recorded=recorded) for recorded in (False, True))
    one_by_one = [alert.to_json() for sample in samples for alert in alone.observe(sample)]
    assert [alert.to_json() for alert in together.observe_all(samples)] == one_by_one
    found = [(a["step"], a["rule"], a["component"]) for a in one_by_one if a["severity"] == "warning"]
    assert (800, "impossible_change", components()[one].name) in found
    assert any(step == 610 and rule == "scale_shift" and ".2." in name for step, rule, name in found)


@pytest.mark.parametrize("seed", range(3))
def test_no_sample_is_passed_by_at_which_a_rule_finds_something(seed: int) -> None:
    samples = samples_of(troubled(seed))
    window, settings = SampleWindow([ATTENTION], ahead=AHEAD), AlertSettings()
    places = []
    for sample in samples:
        window.push(sample)
        places.append(window.place())
    places = places[CAPACITY:]
    may = may_find_at(window, places, settings)
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
