from tiny_models import LLAMA_LIKE, base
from torch import nn

from weibull_monitor.model.components import (
    Component,
    attention_types,
    coverage,
    discover,
    discover_components,
    render,
    representatives,
    summarise_experts,
)
from weibull_monitor.model.components.storage import storage_problem


def test_the_table_adds_up() -> None:
    model = base("mixtral", **LLAMA_LIKE, num_local_experts=3, num_experts_per_tok=1, num_key_value_heads=2)
    found = discover(model)
    text = render(found)
    total = sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert found.elements == total
    assert found.vectors == total - matrices
    assert coverage(found) == matrices / total
    assert f"of the model's {total:,} elements" in text
    rows = {
        line.split()[0]: line.split()
        for line in text.splitlines()[1:]
        if line.startswith(("attn", "ffn", "router", "emb"))
    }
    assert rows["ffn_gate_up"][2:4] == ["1", "-"]
    assert rows["ffn_up"][2:4] == ["-", "3"]
    assert rows["ffn_down"][2:4] == ["1", "3"]
    counted_once = sum(c.numel for c in found.components if c.part is None)
    assert counted_once == matrices


def test_what_is_other_and_what_is_skipped_is_named_with_its_reason() -> None:
    class Int8Params(nn.Parameter):
        """Stands for the class of bitsandbytes, which needs its package."""

    class QuantLinear(nn.Module):
        """Holds its matrix as GPTQ does."""

        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = 8, 16
            self.register_buffer("qweight", nn.Linear(8, 2).weight.detach().int())

    QuantLinear.__module__ = "gptqmodel.nn_modules.qlinear"
    model = nn.ModuleDict({"pooler": nn.Linear(4, 4), "plain": nn.Linear(4, 4), "packed": QuantLinear()})
    model["plain"].weight.__class__ = Int8Params
    found = discover(model)
    text = render(found)
    assert "skipped: plain.weight (16 elements): its storage is quantised (bitsandbytes 8-bit, Int8Params)" in text
    assert "skipped: packed.qweight (128 elements): its storage is quantised (GPTQ, QuantLinear)" in text
    assert "other: pooler.weight (16 elements): outside of attention" in text
    assert storage_problem(model["pooler"].weight) is None


def test_a_model_with_nothing_to_measure_says_so() -> None:
    assert "No weight matrix was found" in render(discover(nn.LayerNorm(4)))


def test_experts_are_summarised_and_none_is_a_key() -> None:
    model = base("mixtral", **LLAMA_LIKE, num_local_experts=3, num_experts_per_tok=1)
    components = discover_components(model)
    values = {
        c.name: float(c.expert) + (10.0 if c.kind == "ffn_up" else 0.0) for c in components if c.expert is not None
    }
    summaries = {s.kind: s for s in summarise_experts(components, values)}
    assert set(summaries) == {"ffn_gate", "ffn_up", "ffn_down"}
    up = summaries["ffn_up"]
    assert (up.median, up.lowest, up.lowest_expert, up.highest, up.highest_expert, up.experts) == (
        11.0,
        10.0,
        0,
        12.0,
        2,
        3,
    )
    assert up.block == 0
    del values[next(c.name for c in components if c.kind == "ffn_up" and c.expert == 2)]
    without = {s.kind: s for s in summarise_experts(components, values)}["ffn_up"]
    assert (without.highest_expert, without.experts) == (1, 2)


def test_every_kind_is_represented_once() -> None:
    model = base("mixtral", **LLAMA_LIKE, num_local_experts=3, num_experts_per_tok=1)
    names = [c.name for c in representatives(discover_components(model, resolution="head")) if c.kind == "ffn_down"]
    assert [name.partition("[")[2] for name in names] == ["expert 0]", "expert 1]", "expert 2]"]
    kinds = [c.kind for c in representatives(discover_components(model, resolution="head"))]
    assert kinds.count("attn_q") == kinds.count("attn_o") == kinds.count("ffn_gate_up") == 1


def test_attention_types_come_from_shapes_and_modules() -> None:
    def of(kind: str, **arguments: object) -> list[str]:
        model = base(kind, **{**LLAMA_LIKE, **arguments})
        return [str(one) for one in attention_types(model, discover_components(model))]

    assert of("llama") == ["MHA 4/4 heads of 8 (1 blocks)"]
    assert of("llama", num_key_value_heads=2) == ["GQA 4/2 heads of 8 (1 blocks)"]
    assert of("llama", num_key_value_heads=1) == ["MQA 4/1 heads of 8 (1 blocks)"]
    assert of("qwen3", num_key_value_heads=2, head_dim=8) == ["GQA 4/2 heads of 8, qk-norm (1 blocks)"]
    assert of("gpt_neox", num_hidden_layers=2) == ["MHA 4/4 heads of 8, fused (2 blocks)"]
    assert of("falcon", multi_query=True, new_decoder_architecture=False, alibi=False) == [
        "MQA 4/1 heads of 8, fused (1 blocks)"
    ]
    assert of("deepseek_v3", q_lora_rank=8, kv_lora_rank=8, first_k_dense_replace=1)[0].startswith("MLA 4/4 heads")


def test_a_component_is_plain_data() -> None:
    component: Component = discover_components(nn.TransformerEncoderLayer(8, 2, 16))[1]
    assert component == discover_components(nn.TransformerEncoderLayer(8, 2, 16))[1]
    assert hash(component) == hash(discover_components(nn.TransformerEncoderLayer(8, 2, 16))[1])
