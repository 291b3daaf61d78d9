"""What a model's code draws its matrices from, read on the meta device, against the values that it really draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from weibull_monitor import fit_weibull
from weibull_monitor.analysis.start import reference_of
from weibull_monitor.model.initialisation import InitialScale, initial_scales

SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 300,
}
TYPES = {
    "bert": SMALL,
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 64},
    "t5": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "vocab_size": 300},
    "llama": SMALL | {"pad_token_id": 0},
    "vit": SMALL | {"image_size": 32, "patch_size": 8},  # truncated at 2 in all, 100 σ
    "convnextv2": {"hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]},
    "clip_text_model": SMALL | {"projection_dim": 64, "eos_token_id": 2},
}


@pytest.mark.parametrize("kind", TYPES)
def test_the_scales_are_those_of_the_values_drawn(kind: str) -> None:
    config = CONFIG_MAPPING[kind](**TYPES[kind])
    classes = MODEL_MAPPING[type(config)]
    model_class = classes[0] if isinstance(classes, tuple) else classes
    with torch.device("meta"):
        hollow = model_class._from_config(config)
    found = initial_scales(hollow)
    real = dict(model_class._from_config(config).named_parameters())
    large = [name for name, parameter in real.items() if parameter.dim() == 2 and parameter.numel() >= 16_384]
    assert len(large) >= 6
    assert len(found.keys() & set(large)) > 0.8 * len(large)
    for name in found.keys() & set(large):
        fit, expected = fit_weibull(real[name].detach()), reference_of(found[name])
        assert abs(fit.k - expected.k) < 5 * fit.k_se, name
        assert abs(math.log(fit.lambda_ / expected.lambda_)) < 5 * fit.k_se / fit.k, name


class Own(nn.Module):
    """A model that initialises itself in every way that is followed, and in some that are not."""

    def __init__(self) -> None:
        super().__init__()
        names = ("normal", "truncated", "uniform", "scaled", "halved", "orthogonal", "shifted", "constant", "data")
        self.layers = nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in names})

    def _init_weights(self, module: nn.Module) -> None:
        if module is not self:
            return
        w = {name: layer.weight for name, layer in self.layers.items()}
        nn.init.normal_(w["normal"], std=0.3)
        nn.init.trunc_normal_(w["truncated"], std=0.1, a=-0.2, b=0.2)
        nn.init.uniform_(w["uniform"], -0.05, 0.05)
        with torch.no_grad():
            w["scaled"].normal_(std=2.0).mul_(0.1)
            w["halved"].normal_(std=2.0)
            w["halved"] /= 4
            w["shifted"].normal_(std=1.0).add_(1.0)
        nn.init.orthogonal_(w["orthogonal"])
        nn.init.constant_(w["constant"], 1.0)
        w["data"].data.normal_(mean=0.0, std=0.7)


def test_draws_are_followed_and_what_is_set_otherwise_is_left_out() -> None:
    with torch.device("meta"):
        model = Own()
    before = torch.random.get_rng_state()
    found = {name.split(".")[1]: scale for name, scale in initial_scales(model).items()}
    assert torch.equal(before, torch.random.get_rng_state())
    assert found["normal"] == InitialScale("normal", 0.3)
    assert found["truncated"] == InitialScale("truncated", pytest.approx(0.1), pytest.approx(2.0))
    assert found["uniform"] == InitialScale("uniform", 0.05)
    assert found["scaled"] == InitialScale("normal", pytest.approx(0.2))
    assert found["halved"] == InitialScale("normal", pytest.approx(0.5))
    assert found["data"] == InitialScale("normal", 0.7)
    assert not found.keys() & {"orthogonal", "shifted", "constant"}


def test_a_model_with_weights_or_without_an_initialisation_has_none() -> None:
    assert initial_scales(Own()) == {}
    assert initial_scales(nn.Linear(2, 2, device="meta")) == {}


@pytest.mark.parametrize(
    "drawn", [InitialScale("normal", 0.02), InitialScale("uniform", 0.1), InitialScale("truncated", 0.05, 2.0)]
)
def test_references_are_k_and_lambda_of_such_matrices(drawn: InitialScale) -> None:
    values = torch.empty(1_000_000)
    if drawn.kind == "normal":
        values.normal_(std=drawn.scale)
    elif drawn.kind == "uniform":
        values.uniform_(-drawn.scale, drawn.scale)
    else:
        nn.init.trunc_normal_(values, std=drawn.scale, a=-drawn.cut * drawn.scale, b=drawn.cut * drawn.scale)
    fit, reference = fit_weibull(values), reference_of(drawn)
    assert fit.k == pytest.approx(reference.k, abs=4 * fit.k_se)
    assert fit.lambda_ == pytest.approx(reference.lambda_, rel=0.005)
