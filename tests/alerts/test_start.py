"""Matrices that come back to where they began, in one interval."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.simulated import KINDS, SCALES, Columns, alerts_in, healthy, index
from weibull_monitor.alerts import AlertSettings
from weibull_monitor.history.alert import Alert

AT, SAMPLES, ETA = 25, 29, 6e-3
BLOCKS = 4
ALL = range(BLOCKS * len(KINDS))
LATER = range(len(KINDS), BLOCKS * len(KINDS))
"""The matrices of all blocks but the first."""
ONLY = AlertSettings.of({"misplaced": False})
"""Without the rule that finds a model as a whole back where it was."""


def to_start(columns: list[Columns], of: range | list[int], left: float = 0.0, k_left: float = 0.0) -> None:
    """Brings matrices back to their start but for a share of what had moved; they grow on from there as before."""
    start, before = columns[0], {name: columns[AT - 1][name].copy() for name in columns[0]}
    at = list(of)
    for name in SCALES:
        to = start[name][at] * (before[name][at] / start[name][at]) ** left
        factor = to / columns[AT][name][at]
        for now in columns[AT:]:
            now[name][at] *= factor
    by_k = (start["k"] + k_left * (before["k"] - start["k"]) - columns[AT]["k"])[at]
    for now in columns[AT:]:
        now["k"][at] += by_k


def found_in(
    left: float, of: range | list[int] = LATER, k_by: float = 0.0, k_left: float = 0.0, **more: object
) -> list[Alert]:
    columns = healthy(SAMPLES, BLOCKS, eta=ETA)
    for n, now in enumerate(columns[:AT]):
        now["k"] = now["k"] + k_by * n / AT  # training changes the shape
    for now in columns[AT:]:
        now["k"] = now["k"] + k_by
    to_start(columns, of, left, k_left)
    return [a for a in alerts_in(columns, "scale_shift", ONLY, blocks=BLOCKS, **more) if warned(a)]


def warned(alert: Alert) -> bool:
    return alert.phase == "begins" and alert.finding.severity != "info"


@pytest.mark.parametrize("of", [ALL, LATER, range(index(2, "attn_q"), index(2, "attn_q") + len(KINDS))])
def test_matrices_that_are_as_at_the_start_are_found_however_many_they_are(of: range) -> None:
    """k of most matrices moves with them, as where training takes back what it had added; but nothing is left of it."""
    (alert,) = found_in(0.0, of, k_by=-0.05)
    assert alert.finding.count == len(of)
    assert alert.step == 10 * AT
    assert "at step 0 it was 0.0" in alert.text
    assert "the weights of the start. Check" in alert.text


def test_a_model_that_is_back_is_named_once() -> None:
    columns = healthy(SAMPLES, BLOCKS, eta=ETA)
    to_start(columns, ALL)
    (alert,) = [a for a in alerts_in(columns, blocks=BLOCKS) if warned(a)]
    assert (alert.finding.rule, alert.step) == ("misplaced", 10 * AT)
    assert "where they began at step 0" in alert.text


@pytest.mark.parametrize(("left", "found"), [(0.0, True), (0.07, False)])
def test_weight_decay_in_the_gradient_comes_nearer_to_the_start(left: float, found: bool) -> None:
    """It takes back as much at once as it likes, and a matrix may just end where it began."""
    alerts = found_in(left, [index(2, "attn_v")], withheld={"coupled_weight_decay": len(ALL)})
    assert any("at step 0 it was 0.0" in a.text for a in alerts) == found


def test_training_that_takes_most_of_it_back_is_not_found() -> None:
    assert found_in(0.2, ALL, k_by=-0.05) == []


def test_a_shape_that_is_not_that_of_the_start_is_no_start() -> None:
    """A matrix that comes to the size that it began with has not the weights from then."""
    said = [a.text for a in found_in(0.0, [index(2, "ffn_up")], k_by=-0.1, k_left=1.0)]
    assert not any("the weights of the start" in text for text in said)


def test_what_has_hardly_moved_is_always_near_its_start() -> None:
    columns = healthy(SAMPLES, BLOCKS, eta=ETA)
    for now in columns:
        for name in SCALES:
            now[name] = columns[0][name] * (now[name] / columns[0][name]) ** 0.5  # by 12 %, and all back
    to_start(columns, ALL)
    assert not any("the weights of the start" in a.text for a in alerts_in(columns, blocks=BLOCKS))
    assert np.log(columns[AT - 1]["rms"] / columns[0]["rms"]).max() < 0.2
