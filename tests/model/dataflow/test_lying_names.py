"""Models whose names lie: what a matrix is, the forward pass says. Names and orders come from a seed."""

from __future__ import annotations

import pytest
import torch
from lying.base import Names, faults
from lying.whole import builders

from weibull_monitor import discover_components

BUILDERS = builders()


def found_faults(name: str, seed: int) -> list[str]:
    torch.manual_seed(seed)
    model, inputs = BUILDERS[name](Names(1000 * seed + sum(map(ord, name))))
    return faults(model, discover_components(model, example_inputs=inputs))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_matrix_is_known_by_use(name: str) -> None:
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
