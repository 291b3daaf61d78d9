"""Models with adapters of PEFT: whatever the method, what it adds is an adapter, and the base keeps its kinds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("peft", reason="needs peft")

import peft
from tiny_models import llama

from weibull_monitor.model.components import discover
from weibull_monitor.model.tuners import is_tuner

TARGETS = ["q_proj", "v_proj", "down_proj"]
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("LoraConfig", {"use_dora": True}),
    ("AdaLoraConfig", {"total_step": 10}),
    ("IA3Config", {"feedforward_modules": ["down_proj"]}),
    ("LoHaConfig", {}),
    ("LoKrConfig", {}),
    ("OFTConfig", {"r": 0, "oft_block_size": 8}),
    ("HRAConfig", {}),
    ("FourierFTConfig", {"n_frequency": 16}),
    ("VeraConfig", {"target_modules": ["q_proj"]}),
    ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 1}),
]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[name for name, _ in METHODS])
def test_every_method_of_peft_adds_adapters_and_changes_no_other_kind(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = {c.name: c.kind for c in discover(llama()).components}
    targets = {} if method == "AdaptionPromptConfig" else {"target_modules": TARGETS}
    model = peft.get_peft_model(llama(), getattr(peft, method)(task_type="CAUSAL_LM", **targets | options))
    found = {c.name.removeprefix("base_model.model."): c for c in discover(model).components}
    base = {name.replace(".self_attn.model.", ".self_attn."): c.kind for name, c in found.items() if not c.trainable}
    assert {name: kind for name, kind in base.items() if name in plain} == plain
    added = Counter(c.kind for c in found.values() if c.trainable)
    assert set(added) <= {"adapter_a", "adapter_b", "adapter"}
    assert all(c.evidence == "use" for c in found.values() if c.kind.startswith(("attn_", "ffn_", "lm_head")))


def test_a_module_that_is_trained_as_a_whole_has_the_kind_of_that_module() -> None:
    torch.manual_seed(0)
    saved = ["lm_head", "embed_tokens", "up_proj"]
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
    model = peft.get_peft_model(llama(), config)
    for example_inputs in (None, False):  # by use where there is a pass, else by name
        kinds = {c.name: c.kind for c in discover(model, example_inputs=example_inputs).components}
        for copy in ("original_module", "modules_to_save.default"):
            assert kinds[f"lm_head.{copy}.weight"] == "lm_head"
            assert kinds[f"model.embed_tokens.{copy}.weight"] == "embedding"
            assert kinds[f"model.layers.0.mlp.up_proj.{copy}.weight"] == "ffn_up"
        assert kinds["model.layers.0.mlp.gate_proj.weight"] == "ffn_gate"
        assert kinds["model.layers.0.mlp.down_proj.weight"] == "ffn_down"


def test_a_layer_of_ones_own_with_the_same_attribute_is_no_layer_of_peft() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    assert not is_tuner(Around())
    model = nn.ModuleDict({"q": Around()})
    assert {c.kind for c in discover(model).components} == {"other"}
