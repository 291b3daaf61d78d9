"""What training does to the shape of matrices in a young run: no fault of their scale, and none of their shape."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.simulated import Columns, begun_in, healthy, index, scale_by, window_in
from weibull_monitor.alerts.rules.steps import began_at_nothing, from_nothing, one_way

AT = 15
V, UP = index(2, "attn_v"), index(1, "ffn_up")


def severities(columns: list[Columns], rule: str, step: int = 10 * AT) -> set[str]:
    return {a.finding.severity for a in begun_in(columns, rule) if a.step == step}


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0, -0.2])
def test_under_decay_in_the_gradient_a_fall_of_lambda_alone_is_one_of_shape(share: float, coupled: bool) -> None:
    """Decay takes what is not used, while a few values grow: the RMS stays, and k falls."""
    columns = healthy()
    for now in columns[AT:]:
        now["lambda"][UP] *= 0.8
        now["rms"][UP] *= 0.8**share
    found = begun_in(columns, "scale_shift", withheld={"coupled_weight_decay": 28} if coupled else None)
    assert bool(found) is (share > 0.2 or not coupled)


@pytest.mark.parametrize(("share", "severity"), [(0.0, "info"), (1.0, "warning")])
def test_a_young_matrix_may_change_its_shape(share: float, severity: str) -> None:
    columns = healthy()
    for now in columns[5:]:
        now["lambda"][UP] *= 0.93
        now["rms"][UP] *= 0.93**share
    assert severities(columns, "scale_shift", 50) == {severity}


@pytest.mark.parametrize(("k", "severity"), [(1.5, "info"), (1.2, "warning")])
def test_what_steps_of_one_size_have_made_they_may_undo(k: float, severity: str) -> None:
    columns = healthy(eta=3e-3)
    for n, now in enumerate(columns):
        now["k"][:] += k - 1.2054 - (0.13 if n >= AT and k > 1.3 else 0.0)
        if n >= AT:
            scale_by(now, 0.85, largest=False)
    assert severities(columns, "scale_shift") == {severity}


@pytest.mark.parametrize(("size", "explained"), [(1e-3, True), (0.02, False)])
def test_in_a_warm_up_the_steps_so_far_say_what_a_start_is(size: float, explained: bool) -> None:
    """The highest η is still to come. What was far larger at the start than these steps, and grew, was written."""
    columns = healthy(8)
    for n, now in enumerate(columns):
        now["eta"][:] = 2e-5 * n
        now["eta_sum"][:] = 2e-5 * 10 * n * (n + 1) / 2
        scale_by(now, size / now["rms"][V] * (0.1 if n < 5 else 1.0), V)
    window = window_in(columns)
    assert bool(began_at_nothing(window)[V]) is explained
    assert bool(from_nothing(window)[V]) is explained
    assert began_at_nothing(window).sum() <= 1


@pytest.mark.parametrize(("grown", "explained"), [(3.0, True), (1.2, False)])
def test_k_may_rise_as_far_as_all_growth_since_the_start_explains(grown: float, explained: bool) -> None:
    """Where the size of steps is not known, as of fp32 copies that an optimizer steps."""
    columns = healthy(8)
    for n, now in enumerate(columns):
        for name in ("eta", "eta_sum", "update_max", "element_max"):
            now[name][:] = np.nan
        scale_by(now, (1.0, 1.0, 1.0, 1.0, 1.0, grown ** (1 / 3), grown ** (2 / 3), grown * 1.05)[n] / 1.01**n, V)
    for now, k in zip(columns[5:], (1.22, 1.26, 1.9 if grown > 2 else 1.5), strict=True):
        now["k"][V] = k
    assert bool(one_way(window_in(columns))[V]) is explained
