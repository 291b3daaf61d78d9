from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from weibull_monitor.model.architecture import architecture_of, facts_of, innermost_model


def hollow(kind: str, causal: bool = False, **options: object) -> nn.Module:
    with torch.device("meta"):
        return (AutoModelForCausalLM if causal else AutoModel).from_config(CONFIG_MAPPING[kind](**options))


@pytest.mark.parametrize(
    ("kind", "causal", "options", "expected"),
    [
        ("llama", True, {}, "decoder"),
        ("llama", False, {}, "decoder"),
        ("gpt2", True, {}, "decoder"),
        ("gpt_neox", False, {}, "decoder"),
        ("bert", False, {}, "encoder"),
        ("bert", True, {"is_decoder": True}, "decoder"),
        ("roberta", False, {}, "encoder"),
        ("t5", False, {}, "encoder-decoder"),
        ("bart", False, {}, "encoder-decoder"),
        ("whisper", False, {}, "encoder-decoder"),
        ("vit", False, {}, "other"),
        ("clip", False, {}, "other"),
    ],
)
def test_the_class_says_what_it_is(kind: str, causal: bool, options: dict[str, object], expected: str) -> None:
    assert architecture_of(hollow(kind, causal, **options)) == expected


def test_wrappers_are_looked_through_and_home_made_models_say_nothing() -> None:
    model = hollow("gpt2", n_layer=1)
    assert architecture_of(nn.DataParallel(model)) == "decoder"
    assert innermost_model(torch.compile(model)) is model
    assert architecture_of(nn.Sequential(nn.Linear(2, 2))) is None


def test_peft_is_looked_through() -> None:
    peft = pytest.importorskip("peft", reason="LoRA needs peft, which the extra dev installs")
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt2"](n_layer=1, n_embd=16, n_head=2, vocab_size=20))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    assert architecture_of(wrapped) == "decoder"


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("llama", {"initializer_range": 0.015}, 0.015),
        ("opt", {"init_std": 0.01}, 0.01),
        ("bart", {"init_std": 0.03}, 0.03),
        ("whisper", {"init_std": 0.01}, 0.01),
        ("t5", {}, None),
    ],
)
def test_configurations_say_their_initialisation_under_several_names(
    kind: str, options: dict[str, object], expected: float | None
) -> None:
    assert facts_of(hollow(kind, **options))["initializer_range"] == expected


def test_parts_that_are_initialised_otherwise_say_nothing_together() -> None:
    text, vision = {"initializer_range": 0.02}, {"initializer_range": 0.05}
    model = hollow("clip", text_config=text, vision_config=vision)
    assert facts_of(model)["initializer_range"] is None
