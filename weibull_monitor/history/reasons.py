"""The reasons why a value of the scaling law does not exist, as the log, the history and the summary name them."""

from __future__ import annotations

from typing import Final, Literal

Reason = Literal[
    "no_optimizer",
    "unknown_optimizer",
    "own_learning_rate",
    "step_not_eta",
    "step_scaled_by_weight",
    "coupled_weight_decay",
    "unknown_past",
    "no_baseline",
    "shrunk",
    "zero_learning_rate",
    "no_weight_decay",
    "weight_decay_changed",
    "optimizer_reset",
    "kind_not_covered",
    "no_schedule",
    "off_schedule",
    "too_early",
]

EXPLANATION: Final[dict[Reason, str]] = {
    # The law does not apply: no ratio to it, and no forecast.
    "no_optimizer": "no optimizer has stepped it",
    "unknown_optimizer": "the optimizer is not known to take steps of the size η with decoupled weight decay",
    "own_learning_rate": "the optimizer chooses its learning rate by itself",
    "step_not_eta": "the steps of this optimizer are not of the size η",
    "step_scaled_by_weight": "the steps of this optimizer grow with the weights",
    "coupled_weight_decay": "weight decay is added to the gradient; the law is for decoupled decay, as in AdamW",
    # The past of the weights is not known: no budget ratio, and no forecast.
    "unknown_past": "part of the run was not followed",
    "no_baseline": "λ at step 0 is not known: there was no sample then, or the matrix had no fit, as where it begins at zero",
    "shrunk": "λ falls so fast that it would end below 0",
    "optimizer_reset": "the optimizer's state was reset in mid-run",
    # Extrapolation would leave the law's domain: no forecast.
    "zero_learning_rate": "the learning rate is 0",
    "no_weight_decay": "there is no weight decay, so nothing to balance the steps",
    "weight_decay_changed": "weight decay was changed in mid-run",
    "kind_not_covered": "the law is for attention and feed-forward matrices, and fails for others",
    "no_schedule": "the learning rates to come are not known; pass scheduler= and total_steps=",
    "off_schedule": "the learning rate is not the one that the scheduler had planned",
    "too_early": "less than a quarter of the run has passed",
}
"""The meaning of each reason, in words that can follow "because"."""

PASSING: Final[frozenset[Reason]] = frozenset(
    {"too_early", "zero_learning_rate", "no_optimizer", "shrunk", "kind_not_covered"}
)
"""Reasons that come and go in a healthy run, and are not logged."""
