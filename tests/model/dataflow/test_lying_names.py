"""Models whose names lie: what a matrix is, the forward pass says. Names and orders come from a seed."""

from __future__ import annotations

import pytest
import torch
from lying.base import Names, faults
from lying.whole import builders

from weibull_monitor import discover_components

BUILDERS = builders()
CANNOT = {
    "feed-forward PackedWithBoth": "rows that weight a token and no feature have no kind of their own",
}
"""What cannot be known by use, and why."""
NOT_YET = {
    "attention Additive": "scores that are no product of a query and a key",
    "attention ChunkedKeys": "a softmax in pieces, with a running sum",
    "attention ByElements": "scores and outputs without a matrix product",
    "attention NormalisedWeights": "weights that are normalised and rounded in the forward pass",
    "attention MergedAdapters": "adapters that are added to the weight before it is used",
    "attention Parametrized": "weights that a layer makes of parameters",
    "attention StateSpace": "a selective scan written as a loop",
}
"""What could be known, and is not."""


def found_faults(name: str, seed: int) -> list[str]:
    torch.manual_seed(seed)
    model, inputs = BUILDERS[name](Names(1000 * seed + sum(map(ord, name))))
    return faults(model, discover_components(model, example_inputs=inputs))


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in {**CANNOT, **NOT_YET}])
def test_every_matrix_is_known_by_use(name: str) -> None:
    assert found_faults(name, 0) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.xfail(strict=True, reason=why)) for n, why in {**CANNOT, **NOT_YET}.items()],
)
def test_what_is_not_known(name: str) -> None:
    assert found_faults(name, 0) == []


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    for name in ("whole in_training_with_counters", "attention WrittenInPlace", "whole depends_on_values"):
        model, inputs = BUILDERS[name](Names(5))
        state = {key: value.clone() for key, value in model.state_dict().items()}
        random = torch.get_rng_state()
        discover_components(model, example_inputs=inputs)
        assert torch.equal(torch.get_rng_state(), random)
        after = model.state_dict()
        assert all(torch.equal(after[key], value) for key, value in state.items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
