"""A model that is back where it was: an earlier checkpoint was loaded, or masters of an earlier step."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.simulated import Columns, begun_in, components, healthy, index, scale_by

STATE = ("k", "lambda", "r2", "k_se", "rms", "largest")
"""The columns that follow from the weights; the others go on with the steps."""


def rewound(by: int, at: int = 16, samples: int = 24, of: slice = slice(None), to: int | None = None) -> list[Columns]:
    """A run whose weights are replaced by those of some samples before, or of one of them, and which goes on from there."""
    columns = healthy(samples)
    out = []
    for n, now in enumerate(columns):
        then = columns[n if n < at else n - by if to is None else n - at + to]
        out.append(
            {
                c: np.where(np.isin(np.arange(len(v)), np.arange(len(v))[of]), then[c], v) if c in STATE else v
                for c, v in now.items()
            }
        )
    return out


@pytest.mark.parametrize("by", [4, 5, 8])
def test_a_state_of_some_samples_before_is_told_with_its_step(by: int) -> None:
    (alert,) = [a for a in begun_in(rewound(by)) if a.finding.rule == "misplaced"]
    assert (alert.step, alert.finding.severity) == (160, "warning")
    assert alert.finding.count > 0.9 * len(components())
    assert f"at about step {160 - 10 * by}" in alert.finding.meaning


def test_what_is_beyond_the_optimizer_has_the_same_cause() -> None:
    columns = rewound(8)
    for now in columns:
        now["update_max"][:] = now["element_max"][:] = 0.05
    told = [a.finding for a in begun_in(columns) if a.finding.rule == "impossible_change" and a.step == 160]
    assert told
    assert "at about step 80" in told[0].meaning
    assert "multiplied" not in told[0].meaning


def test_it_is_found_where_no_learning_rate_is_known() -> None:
    """As under optimizers that step copies of the weights in fp32, which are masters of an earlier step then."""
    columns = rewound(5)
    for now in columns:
        for name in ("eta", "eta_sum", "weight_decay", "update_max", "element_max"):
            now[name] = np.full_like(now[name], np.nan)
    assert [(a.finding.rule, a.step) for a in begun_in(columns) if a.finding.severity != "info"] == [("misplaced", 160)]


def test_weights_that_are_initialised_anew_are_back_at_step_0() -> None:
    told = [a.finding.meaning for a in begun_in(rewound(0, to=0)) if a.finding.rule == "misplaced"]
    assert len(told) == 1
    assert "at step 0: the model was initialised anew" in told[0]


def test_training_that_leads_on_shrinks_or_stands_still_is_not_back() -> None:
    still = healthy(24)
    for n, now in enumerate(still[16:], 16):
        for c in STATE:
            now[c][:] = still[15][c] + (1e-4 * (n - 15) if c in ("lambda", "rms") else 0.0) * still[15][c]
    smaller = healthy(24)
    for now in smaller[16:]:
        scale_by(now, 0.97)
    one = rewound(5, of=slice(index(1, "attn_v"), index(1, "attn_v") + 1))
    for columns in (healthy(24), rewound(1), still, smaller, one):
        assert "misplaced" not in {a.finding.rule for a in begun_in(columns)}
