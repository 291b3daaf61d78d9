"""What a matrix is must not depend on how it is spelled where there is better evidence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import LLAMA_LIKE, base, causal
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.model.components import CLASS_OF_KIND, Component, discover, discover_components, tree
from weibull_monitor.model.components.names import kind_by_name


def linear(out: int = 8, width: int = 8) -> nn.Linear:
    return nn.Linear(width, out, bias=False)


def stored(model: nn.Module) -> dict[str, Component]:
    return {c.name: c for c in discover_components(model, resolution="parameter")}


def kinds(model: nn.Module) -> dict[str, str]:
    return {name.removesuffix(".weight"): c.label for name, c in stored(model).items()}


def blocks(**children: nn.Module) -> nn.Module:
    return nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict(children)])})


def ends(model: nn.Module) -> dict[str, str]:
    return {name.removeprefix("layers.0."): kind for name, kind in kinds(model).items()}


def test_the_same_word_means_what_stands_around_it() -> None:
    model = blocks(
        self_attn=nn.ModuleDict({n: linear() for n in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj")}),
        mlp=nn.ModuleDict(
            {
                "gate": linear(4),
                "experts": nn.ModuleList(
                    [nn.ModuleDict({"gate_proj": linear(16), "up_proj": linear(16), "down_proj": linear(8, 16)})]
                ),
            }
        ),
    )
    found = ends(model)
    assert found["self_attn.gate_proj"] == "attn_gate"
    assert found["mlp.gate"] == "router"
    assert found["mlp.experts.0.gate_proj"] == "ffn_gate"
    assert stored(model)["layers.0.mlp.experts.0.gate_proj.weight"].expert == 0


def test_outputs_of_attention_and_of_feed_forward_in_bert() -> None:
    found = kinds(base("bert", **LLAMA_LIKE))
    assert found["encoder.layer.0.attention.output.dense"] == "attn_o"
    assert found["encoder.layer.0.output.dense"] == "ffn_out"
    assert found["encoder.layer.0.intermediate.dense"] == "ffn_in"
    assert found["pooler.dense"] == "other"  # the model returns its activation, but no logits


def test_a_gate_that_gates_nothing_is_an_input_projection() -> None:
    plain = blocks(
        self_attn=nn.MultiheadAttention(8, 2), mlp=nn.ModuleDict({"gate_proj": linear(16), "down_proj": linear(8, 16)})
    )
    assert ends(plain)["mlp.gate_proj"] == "ffn_in"
    assert ends(plain)["mlp.down_proj"] == "ffn_out"


@pytest.mark.parametrize(
    ("feed_forward", "expected"),
    [
        (nn.Sequential(linear(32), nn.GELU(), linear(8, 32)), ["ffn_in", "ffn_out"]),
        (nn.ModuleDict({"Wi": linear(64), "Wo": linear(8, 32)}), ["ffn_gate_up", "ffn_down"]),
        (nn.ModuleDict({"w1": linear(32), "w2": linear(8, 32), "w3": linear(32)}), ["ffn_gate", "ffn_down", "ffn_up"]),
        (nn.ModuleDict({"w1": linear(32), "w2": linear(8, 32)}), ["ffn_in", "ffn_out"]),
        (
            nn.ModuleDict({"fc1_g": linear(32), "fc1_x": linear(32), "fc2": linear(8, 32)}),
            ["ffn_gate", "ffn_up", "ffn_down"],
        ),
    ],
)
def test_feed_forward_blocks_by_their_shapes(feed_forward: nn.Module, expected: list[str]) -> None:
    model = blocks(attn=nn.MultiheadAttention(8, 2), mlp=feed_forward)
    assert [kind for name, kind in kinds(model).items() if ".mlp." in name] == expected


class NanoGPT(nn.Module):
    """Home-made: blocks in a ModuleDict, a fused c_attn in a Linear, heads only in an attribute."""

    def __init__(self) -> None:
        super().__init__()

        class CausalSelfAttention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.c_attn, self.c_proj, self.n_head = linear(24), linear(), 2

        block = nn.ModuleDict(
            {"attn": CausalSelfAttention(), "mlp": nn.ModuleDict({"c_fc": linear(32), "c_proj": linear(8, 32)})}
        )
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(10, 8), "h": nn.ModuleList([block])})
        self.lm_head = linear(10)
        self.lm_head.weight = self.transformer["wte"].weight


def test_a_home_made_gpt_with_tied_weights() -> None:
    found = discover_components(NanoGPT())
    assert [(c.name, c.kind) for c in found if c.part is None] == [
        ("transformer.wte.weight", "embedding"),
        ("transformer.h.0.attn.c_attn.weight", "attn_qkv"),
        ("transformer.h.0.attn.c_proj.weight", "attn_o"),
        ("transformer.h.0.mlp.c_fc.weight", "ffn_in"),
        ("transformer.h.0.mlp.c_proj.weight", "ffn_out"),
    ]
    assert [c.name.partition("weight")[2] for c in found if c.part is not None] == ["[q]", "[k]", "[v]"]


def test_a_vision_transformer_in_the_style_of_timm() -> None:
    class Attention(nn.Module):
        num_heads = 2

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = linear(24), linear()

    block = nn.ModuleDict({"attn": Attention(), "mlp": nn.ModuleDict({"fc1": linear(32), "fc2": linear(8, 32)})})
    patch = nn.ModuleDict({"proj": nn.Conv2d(3, 8, 4, 4)})
    model = nn.ModuleDict({"patch_embed": patch, "blocks": nn.Sequential(block), "head": linear(10)})
    assert list(kinds(model).values()) == ["embedding", "attn_qkv", "attn_o", "ffn_in", "ffn_out", "other"]


def test_torch_layers_have_both_attentions_told_apart() -> None:
    found = kinds(nn.TransformerDecoderLayer(8, 2, 16))
    assert found == {
        "self_attn.in_proj_weight": "attn_qkv",
        "self_attn.out_proj": "attn_o",
        "multihead_attn.in_proj_weight": "cross_attn_qkv",
        "multihead_attn.out_proj": "cross_attn_o",
        "linear1": "ffn_in",
        "linear2": "ffn_out",
    }


def test_gpt2_cross_attention_has_its_keys_and_values_fused() -> None:
    config = CONFIG_MAPPING["gpt2"](n_embd=32, n_layer=1, n_head=4, vocab_size=50, add_cross_attention=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = {c.name.removeprefix("transformer.h.0."): c for c in discover_components(model)}
    assert found["crossattention.c_attn.weight"].label == "cross_attn_kv"
    assert found["crossattention.q_attn.weight"].label == "cross_attn_q"
    assert found["crossattention.c_attn.weight[v]"].label == "cross_attn_v"
    assert found["attn.c_attn.weight"].label == "attn_qkv"


def test_an_encoder_decoder_has_its_attentions_apart() -> None:
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING["t5"](num_layers=2, d_model=32, d_kv=8, num_heads=4))
    found = discover_components(model)
    crossing = [c for c in found if c.cross]
    assert {c.kind for c in crossing} == {"attn_q", "attn_k", "attn_v", "attn_o"}
    assert {c.tower for c in crossing} == {"decoder.block"}
    assert [c.block for c in crossing] == [0] * 4 + [1] * 4


def test_cross_attention_by_widths_alone() -> None:
    """Keys that read another width than queries come from another sequence, whatever the module is called."""
    attention = nn.ModuleDict({"to_q": linear(8, 8), "to_k": linear(8, 12), "to_v": linear(8, 12), "to_out": linear()})
    assert set(kinds(blocks(attn2=attention)).values()) == {
        "cross_attn_q",
        "cross_attn_k",
        "cross_attn_v",
        "cross_attn_o",
    }


def test_blocks_of_stages_are_numbered_through() -> None:
    config = CONFIG_MAPPING["swin"](embed_dim=16, depths=[2, 3], num_heads=[2, 2], image_size=32)
    from transformers import SwinModel

    with torch.device("meta"):
        model = SwinModel(config)
    assert [c.block for c in discover_components(model) if c.kind == "attn_q"] == [0, 1, 2, 3, 4]


def test_latent_attention_router_and_shared_expert() -> None:
    with torch.device("meta"):
        config = CONFIG_MAPPING["deepseek_v3"](num_hidden_layers=2, first_k_dense_replace=1)
        model = AutoModelForCausalLM.from_config(config)
    found = {name.removeprefix("model.layers.1."): kind for name, kind in kinds(model).items() if ".layers.1." in name}
    assert found == {
        "self_attn.q_a_proj": "attn_q_a",
        "self_attn.q_b_proj": "attn_q_b",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a",
        "self_attn.kv_b_proj": "attn_kv_b",
        "self_attn.o_proj": "attn_o",
        "mlp.gate": "router",
        "mlp.experts.gate_up_proj": "ffn_gate_up",
        "mlp.experts.down_proj": "ffn_down",
        "mlp.shared_experts.gate_proj": "ffn_gate",
        "mlp.shared_experts.up_proj": "ffn_up",
        "mlp.shared_experts.down_proj": "ffn_down",
    }


def test_linear_attention_is_a_mixer_and_its_neighbour_is_not() -> None:
    config = CONFIG_MAPPING["qwen3_next"](num_hidden_layers=4)
    with torch.device("meta"):
        found = stored(AutoModelForCausalLM.from_config(config))
    assert {c.kind for n, c in found.items() if ".linear_attn." in n} == {"mixer"}
    assert {c.kind for n, c in found.items() if ".self_attn." in n} == {"attn_q", "attn_k", "attn_v", "attn_o"}


def test_users_patterns_come_first_and_decide_how_to_split() -> None:
    model = blocks(strange=nn.ModuleDict({"abc": linear(24), "w": linear()}))
    assert set(ends(model).values()) == {"other"}
    found = discover_components(model, kinds={r"strange\.w\b": "mixer", r"strange\.abc": "attn_qkv"})
    assert [(c.name.removeprefix("layers.0.strange."), c.kind) for c in found] == [
        ("abc.weight", "attn_qkv"),
        ("abc.weight[q]", "attn_q"),
        ("abc.weight[k]", "attn_k"),
        ("abc.weight[v]", "attn_v"),
        ("w.weight", "mixer"),
    ]
    with pytest.raises(ConfigurationError, match="'gate' is not a kind"):
        discover(model, kinds={"a": "gate"})
    with pytest.raises(ConfigurationError, match="not a regular expression"):
        discover(model, kinds={"(": "mixer"})
    with pytest.raises(ConfigurationError, match="resolution is 'row'"):
        discover(model, resolution="row")  # type: ignore[arg-type]


def test_include_and_exclude_see_the_names_of_parts() -> None:
    model = causal("gpt_neox")
    names = [c.name for c in discover_components(model, include="query_key_value", exclude=[r"\[v\]"])]
    assert [name.rpartition("weight")[2] for name in names] == ["", "[q]", "[k]"]


def test_lora_adapters_are_adapters_and_what_they_adapt_keeps_its_kind() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(causal("gpt2"), peft.LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True))
    found = discover_components(model)
    assert {c.name.removeprefix("transformer.h.0.attn."): c.kind for c in found if "adapter" in c.kind} == {
        "c_attn.lora_A.default.weight": "adapter_a",
        "c_attn.lora_B.default.weight": "adapter_b",
    }
    whole = next(c for c in found if c.kind == "attn_qkv")
    assert (whole.name, whole.trainable) == ("transformer.h.0.attn.c_attn.weight", False)
    assert [c.part.label for c in found if c.part is not None] == ["q", "k", "v"]


@pytest.mark.parametrize("name", ["linear", "dense", "proj", "layer", "fc", "inner"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_telling_name_wins_over_a_general_one_nearer_the_matrix(name: str, beside: bool) -> None:
    class AttentionLinear(nn.Module):
        def __init__(self, rows: int, columns: int) -> None:
            super().__init__()
            setattr(self, name, nn.Linear(rows, columns, bias=False))
            if beside:
                self.smooth = nn.Linear(rows, rows)

    attention = {f"{k}_proj": AttentionLinear(64, 64) for k in "qkvo"}
    mlp = {
        "gate_proj": AttentionLinear(64, 128),
        "up_proj": AttentionLinear(64, 128),
        "down_proj": AttentionLinear(128, 64),
    }
    block = nn.ModuleDict({"self_attn": nn.ModuleDict(attention), "mlp": nn.ModuleDict(mlp)})
    found = discover_components(nn.ModuleDict({"layers": nn.ModuleList([block])}))
    assert {c.name.split(".")[3]: c.kind for c in found if f".{name}." in c.name} == {
        **{f"{k}_proj": f"attn_{k}" for k in "qkvo"},
        **{f"{k}_proj": f"ffn_{k}" for k in ("gate", "up", "down")},
    }


def test_wrappers_change_no_name_and_no_kind() -> None:
    plain = causal("phi3 unequal")
    expected = [(c.name, c.kind, c.block) for c in discover_components(plain)]

    class DistributedDataParallel(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    wrapped = DistributedDataParallel(torch.compile(plain))  # type: ignore[arg-type]
    assert [(c.name, c.kind, c.block) for c in discover_components(wrapped)] == expected


def test_a_thirty_billion_parameter_model_is_discovered_without_its_weights() -> None:
    config = CONFIG_MAPPING["qwen3_moe"](
        hidden_size=2048,
        num_hidden_layers=48,
        num_experts=128,
        moe_intermediate_size=768,
        num_attention_heads=32,
        head_dim=128,
    )
    with torch.device("meta"):  # no weight can be read
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) > 29e9
    found = discover(model)
    assert sum(c.kind == "ffn_up" for c in found.components) == 48 * 128


def test_a_model_without_matrices_and_one_that_is_shared() -> None:
    assert discover(nn.LayerNorm(4)).components == ()
    shared = linear()
    model = nn.ModuleDict({"a": shared, "b": shared, "c": linear()})
    model["c"].weight = shared.weight
    assert [c.name for c in discover_components(model)] == ["a.weight"]


def test_lazy_modules_names_in_any_script_and_empty_parameters() -> None:
    odd = nn.ModuleDict({"注意": nn.ModuleDict({"запрос": linear(), "ключ🔑": linear()}), "lazy": nn.LazyLinear(4)})
    odd.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    found = discover(odd)
    assert [c.name for c in found.components] == ["注意.запрос.weight", "注意.ключ🔑.weight"]
    assert all(c.kind == "other" and c.why for c in found.components)
    assert [(s.name, "no shape" in s.reason) for s in found.skipped] == [("lazy.weight", True), ("lazy.bias", True)]


def test_every_kind_has_a_class_and_every_other_a_reason() -> None:
    for component in discover_components(base("vit", **{k: v for k, v in LLAMA_LIKE.items() if "token" not in k})):
        assert component.kind in CLASS_OF_KIND
        assert bool(component.why) == (component.kind == "other")


def test_a_model_may_be_a_single_matrix() -> None:
    assert [(c.name, c.kind) for c in discover_components(nn.Linear(8, 8))] == [("weight", "other")]
    assert [(c.name, c.kind) for c in discover_components(nn.Embedding(8, 8))] == [("weight", "embedding")]


def test_the_work_grows_with_the_number_of_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def counted(path: str, place: Any) -> str | None:
        nonlocal asked
        asked += 1
        return kind_by_name(path, place)

    monkeypatch.setattr(tree, "kind_by_name", counted)
    work = []
    for count in (1000, 3000):
        model, asked = nn.Module(), 0
        for i in range(count):
            model.add_module(f"m{i}", nn.Linear(4, 4, bias=False, device="meta"))
        assert len(discover_components(model)) == count
        work.append(asked)
    assert work[1] < 3.5 * work[0]
