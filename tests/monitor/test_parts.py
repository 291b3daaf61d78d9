"""Fused storage, experts and heads, from a model through the monitor to the metrics and back out of the history."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from weibull_monitor import MemoryTracker, WeibullMonitor, fit_weibull, read_history
from weibull_monitor.model.components import Part
from weibull_monitor.model.components.finder import MAX_COMPONENTS

transformers = pytest.importorskip("transformers", reason="needs the transformers extra")


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_positions=32)
    )


def mixtral(experts: int) -> nn.Module:
    config = transformers.MixtralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=experts,
        vocab_size=64,
    )
    return transformers.MixtralForCausalLM(config)


def test_parts_and_the_whole_are_both_measured(tmp_path: Path) -> None:
    model, tracker = gpt2(), MemoryTracker()
    stored = "transformer.h.1.attn.c_attn.weight"
    with torch.no_grad():
        model.get_parameter(stored)[:, :64] *= 4.0  # GPT-2 stores q, k and v side by side in the columns
    monitor = WeibullMonitor(model, output_dir=tmp_path, trackers=[tracker], detail="component")
    monitor.close()
    assert monitor.last is not None
    fits, weight = monitor.last.fits, model.get_parameter(stored)
    for part, columns in (("q", slice(0, 64)), ("k", slice(64, 128)), ("v", slice(128, 192))):
        alone = fit_weibull(weight[:, columns])
        assert fits[f"{stored}[{part}]"].checksum == alone.checksum
        assert fits[f"{stored}[{part}]"].k == pytest.approx(alone.k, rel=1e-12)
    assert fits[stored].checksum == fit_weibull(weight).checksum
    assert fits[f"{stored}[q]"].lambda_ == pytest.approx(4 * fits[f"{stored}[k]"].lambda_, rel=0.05)
    (_, metrics) = tracker.records[0]
    assert {"weibull_k/attn_qkv", "weibull_k/attn_q", "weibull_k/attn_k", "weibull_k/attn_v"} <= set(metrics)
    assert f"weibull_component/{stored}[q]/k" in metrics
    history = read_history(tmp_path)
    assert history.components == monitor.discovery.components  # parts come back as they were
    q = next(c for c in history.components if c.name == f"{stored}[q]")
    assert isinstance(q.part, Part)
    assert history.runs[0].attention[0]["sharing"] == "MHA"
    assert history.runs[0].attention[0]["fused"] is True


def test_class_medians_count_each_element_once(tmp_path: Path) -> None:
    """A gate and up fused in one matrix do not weigh double because the fused matrix is reported too."""
    config = transformers.Phi3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=64,
        pad_token_id=0,
    )  # fmt: skip
    model = transformers.Phi3ForCausalLM(config)
    monitor = WeibullMonitor(model, output_dir=tmp_path)
    monitor.close()
    assert monitor.last is not None
    layer = "model.layers.0."
    names = [
        "self_attn.o_proj.weight",
        "mlp.gate_up_proj.weight[gate]",
        "mlp.gate_up_proj.weight[up]",
        "mlp.down_proj.weight",
    ]
    k = sorted(monitor.last.fits[layer + name].k for name in names)
    metrics = monitor.last.metrics()
    assert metrics["weibull_class/transmission_k"] == pytest.approx((k[1] + k[2]) / 2)
    assert metrics["weibull_k/ffn_gate_up"] == monitor.last.fits[layer + "mlp.gate_up_proj.weight"].k


def test_heads_are_measured_when_asked_for(tmp_path: Path) -> None:
    model = gpt2()
    monitor = WeibullMonitor(model, output_dir=tmp_path, resolution="head")
    with torch.no_grad():
        model.get_parameter("transformer.h.0.attn.c_attn.weight")[:, 16:32] = 0.0  # head 1 of q
    fits = monitor.sample().fits
    broken = [name for name, fit in fits.items() if not fit.available]
    assert broken == ["transformer.h.0.attn.c_attn.weight[q, head 1]"]
    keys = monitor.sample().metrics()
    assert not any("head" in key and "lm_head" not in key for key in keys)
    monitor.close()


def test_experts_are_measured_one_by_one_while_they_are_few(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    monitor = WeibullMonitor(mixtral(4), output_dir=tmp_path, trackers=[tracker], detail="component")
    monitor.close()
    experts = {c.expert for c in monitor.discovery.components if c.expert is not None}
    assert experts == {0, 1, 2, 3}
    assert not any("expert 1" in key for key in tracker.records[0][1])  # never a key each
    assert {"weibull_k/ffn_gate", "weibull_k/ffn_down", "weibull_k/router"} <= set(tracker.records[0][1])


def test_many_experts_are_measured_as_they_are_stored_unless_asked_for(tmp_path: Path) -> None:
    model = mixtral(400)
    few = WeibullMonitor(model, output_dir=tmp_path / "few")
    assert len(few.discovery.components) < 40
    assert "model.layers.0.mlp.experts.down_proj" in {c.name for c in few.discovery.components}
    all_of_them = WeibullMonitor(model, output_dir=tmp_path / "all", resolution="matrix")
    assert len(all_of_them.discovery.components) > MAX_COMPONENTS
    few.close()
    all_of_them.close()


def test_a_model_in_a_module_is_known_at_once_and_what_is_around_it_at_the_first_batch(tmp_path: Path) -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = gpt2()
            self.query, self.key = nn.Linear(128, 90), nn.Linear(90, 128)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.body(tokens).logits
            return x + self.key(nn.functional.gelu(self.query(x)))

    model = Task()
    monitor = WeibullMonitor(model, output_dir=tmp_path, trackers=[])

    def known() -> dict[str, tuple[str, str]]:
        return {c.name.removesuffix(".weight"): (c.kind, c.evidence) for c in monitor.discovery.components}

    first = known()
    assert first["body.transformer.h.0.attn.c_attn"] == ("attn_qkv", "use")
    assert first["query"][1] == "name"
    model(torch.zeros(1, 5, dtype=torch.long))
    then = known()
    assert (then["query"], then["key"]) == (("ffn_in", "use"), ("ffn_out", "use"))
    body = {name: kind for name, kind in first.items() if name.startswith("body")}
    assert body.items() <= then.items()
    assert not any(m._forward_pre_hooks for m in model.modules())
    monitor.close()
