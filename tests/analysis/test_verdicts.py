"""Every verdict, with a model for which it is true and one for which it is not given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published_like import give_shapes, llama, neox, of_kind, small_models_are_compared  # noqa: F401
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from weibull_monitor import WeibullMonitor, fit_weibull, read_history
from weibull_monitor.analysis import Attention, published
from weibull_monitor.analysis.diagnosis import Diagnosis, diagnose
from weibull_monitor.analysis.mixtures import mixed_shape
from weibull_monitor.analysis.scope import outside_of_published
from weibull_monitor.checkpoint.scan import scan
from weibull_monitor.model.components import Component
from weibull_monitor.report.text.diagnosis import render_diagnosis

BERT = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 200,
}


def bert() -> nn.Module:
    return AutoModel.from_config(CONFIG_MAPPING["bert"](**BERT))


def verdicts(diagnosis: Diagnosis) -> dict[str, str]:
    return {kind.median.kind: kind.verdict for kind in (*diagnosis.kinds, *diagnosis.classes)}


def scaled(model: nn.Module, kind: str, factor: float) -> nn.Module:
    with torch.no_grad():
        for component in of_kind(model, kind):
            model.get_parameter(component.parameter).mul_(factor)
    return model


@pytest.mark.usefixtures("small_models_are_compared")
@pytest.mark.parametrize(
    ("facts", "attention", "reason"),
    [
        ({"class": "BertModel", "architecture": "encoder"}, Attention("MHA"), "BertModel is an encoder"),
        ({"class": "T5Model", "architecture": "encoder-decoder"}, Attention("MHA"), "an encoder and a decoder"),
        ({"class": "ViTModel", "architecture": "other"}, Attention("MHA"), "no language model with a decoder alone"),
        ({"class": "MambaForCausalLM", "architecture": "decoder"}, None, "no self-attention was found"),
        ({"class": "Mine"}, Attention("MHA"), "whether Mine is one is not known"),
        ({}, Attention("MHA"), "whether this model is one is not known"),
        ({"class": "Mine"}, Attention("MHA", causal=False), "the attention of Mine is not causal"),
        ({"class": "Mine"}, Attention("MHA", causal=True), ""),
        ({"class": "LlamaForCausalLM"}, Attention("GQA"), ""),  # recorded before the history had the architecture
        ({"class": "LlamaModel", "architecture": "decoder"}, Attention("GQA"), ""),
    ],
)
def test_only_decoders_with_causal_attention_are_compared(
    facts: dict[str, str], attention: Attention | None, reason: str
) -> None:
    found = outside_of_published(facts, (), attention)
    assert reason in found
    assert bool(found) is bool(reason)


def test_small_models_are_outside_of_what_is_published() -> None:
    facts = {"class": "LlamaForCausalLM", "architecture": "decoder", "parameters": 3_000_000}
    assert "has 3,000,000" in outside_of_published(facts, (), Attention("MHA"))
    assert not outside_of_published(facts | {"parameters": 70_000_000}, (), Attention("MHA"))


def component(kind: str, cross: bool = False) -> Component:
    return Component(kind, kind, 0, None, cross, (64, 64), torch.float32, True, kind)


def test_cross_attention_and_adapters_alone_are_outside() -> None:
    facts = {"class": "Mine", "parameters": 70_000_000}
    causal = Attention("MHA", causal=True)
    assert "Mine has cross-attention" in outside_of_published(facts, [component("attn_q", True)], causal)
    assert "adapters alone" in outside_of_published(facts, [component("adapter_a"), component("adapter_b")], causal)
    assert outside_of_published(facts, [component("attn_q"), component("adapter_a")], causal) == ""


def test_an_encoder_is_shown_beside_encoders(tmp_path: Path) -> None:
    """For information, and without a verdict; what is measured again stays within rounding of the table."""
    encoder = render_diagnosis(diagnose(bert()))
    assert "encoders (models)" in encoder
    assert "docs/real-models.md" in encoder
    decoder = AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt2"](n_embd=64, n_layer=1, n_head=2, vocab_size=99))
    assert "(models)" not in render_diagnosis(diagnose(decoder))


def test_drift_is_from_the_start_that_is_known(tmp_path: Path) -> None:
    model = bert()
    known = render_diagnosis(diagnose(scan([checkpoint(model, tmp_path / "known")])))
    known = " ".join(known.split())
    assert "the distributions that the code of the model draws its matrices from" in known
    assert "drift: of k from its initialisation" in known
    assert "the anchor of" not in known
    (tmp_path / "known" / "config.json").unlink()
    guessed = render_diagnosis(diagnose(scan([tmp_path / "known"])))
    assert "drift is against the anchor of normal initialisation" in " ".join(guessed.split())
    assert "the code of the model" not in guessed


def test_matrices_of_no_kind_have_no_drift_in_common(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(64, 64), "b.weight": torch.rand(64, 64) + 5.0}, tmp_path / "model.pt")
    text = render_diagnosis(diagnose(scan([tmp_path / "model.pt"])))
    (row,) = [line.split() for line in text.splitlines() if line.startswith("other ")]
    assert row[-1] == "–"


def test_no_word_of_the_published_models_is_said_of_an_encoder() -> None:
    model = bert()
    give_shapes(model, dict.fromkeys(("attn_q", "attn_k", "ffn_in", "ffn_out"), 1.05))
    text = render_diagnosis(found := diagnose(model))
    assert "BertModel is an encoder" in text
    for word in ("below", "above", "short of", "as published", "distance", "mild", "strong", "selection range"):
        assert word not in text, word
    assert found.nearest.neighbours == ()
    assert {v for k, v in verdicts(found).items() if k in ("attn_q", "ffn_in")} == {"moved"}
    assert verdicts(found)["attn_v"] == "k shows no training"


@pytest.mark.usefixtures("small_models_are_compared")
def test_the_same_shapes_of_a_decoder_are_compared() -> None:
    found = diagnose(give_shapes(llama(), published("mistral-7b").k))
    assert verdicts(found)["attn_q"] == "as published"
    assert found.nearest.neighbours[0].model.name == "mistral-7b"


def checkpoint(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_fresh_checkpoint_is_as_initialised_and_one_with_another_scale_is_not(kind: str, tmp_path: Path) -> None:
    """λ at the start is that of the model's own initialisation: GPT-2's output projections begin at σ/√(2·blocks)."""
    options = BERT if kind == "bert" else {"n_embd": 128, "n_layer": 3, "n_head": 4, "vocab_size": 200}
    auto = AutoModel if kind == "bert" else AutoModelForCausalLM
    model = auto.from_config(CONFIG_MAPPING[kind](**options))
    fresh = diagnose(scan([checkpoint(model, tmp_path / "fresh")]))
    assert set(verdicts(fresh).values()) == {"as initialised"}
    out = "ffn_out"
    scaled(model, out, 1.3)
    moved = diagnose(scan([checkpoint(model, tmp_path / "trained")]))
    assert verdicts(moved)[out] in ("moved", "as published")
    (kind_of_out,) = [one for one in moved.kinds if one.median.kind == out]
    assert kind_of_out.movement.moved == kind_of_out.movement.of == 3
    assert kind_of_out.movement.lambda_ratio == pytest.approx(1.3, rel=0.02)
    assert verdicts(moved)["attn_o"] == "as initialised"


def test_a_spread_between_blocks_does_not_hide_that_each_has_moved(tmp_path: Path) -> None:
    """k of 0.90, 1.08 and 1.15: their median has a large error, and none of them is as it began."""
    model = bert()
    for component, k in zip(of_kind(model, "attn_o"), (0.90, 1.08, 1.15), strict=True):
        parameter = model.get_parameter(component.parameter)
        with torch.no_grad():
            n = parameter.numel()
            quantiles = (-np.log1p(-(np.arange(n) + 0.5) / n)) ** (1 / k) * 0.02
            signs = np.random.default_rng(0).choice([-1.0, 1.0], n)
            parameter.copy_(
                torch.from_numpy(np.random.default_rng(1).permutation(quantiles) * signs).view_as(parameter)
            )
    (kind,) = [one for one in diagnose(model).kinds if one.median.kind == "attn_o"]
    assert kind.movement.moved == 3
    assert kind.verdict == "moved"


def test_since_a_trained_baseline_nothing_has_moved(tmp_path: Path) -> None:
    model = give_shapes(bert(), dict.fromkeys(("attn_q", "ffn_in"), 1.05))
    with WeibullMonitor(model, output_dir=tmp_path) as monitor:
        monitor.step()
        scaled(model, "ffn_in", 1.2)
        monitor.step(last=True)
    found = verdicts(diagnose(read_history(tmp_path)))
    assert found["attn_q"] == "unmoved"
    assert found["ffn_in"] == "moved"


def parts_of(model: nn.Module, scales: tuple[float, float, float], k: float = 1.2) -> nn.Module:
    """A GPT-NeoX whose W_q, W_k and W_v have one shape, and these scales: rows of each head are q, k and v."""
    rng = np.random.default_rng(0)
    for component in of_kind(model, "attn_qkv"):
        parameter = model.get_parameter(component.parameter)
        rows = parameter.detach().view(8, 3, 16, 128)
        for n, scale in enumerate(scales):
            values = scale * rng.weibull(k, rows[:, n].shape) * rng.choice([-1.0, 1.0], rows[:, n].shape)
            rows[:, n] = torch.from_numpy(values)
    return model


def test_a_fused_matrix_of_parts_with_different_scales_is_called_a_mixture() -> None:
    mixed = diagnose(parts_of(neox(), (0.06, 0.02, 0.02)))
    (found,) = mixed.mixtures
    assert found.kind == "attn_qkv"
    assert found.scales == pytest.approx(3.0, rel=0.05)
    assert len(found.names) == found.of == 3
    assert "a mixture of scales, not specialisation" in render_diagnosis(mixed)


def test_a_fused_matrix_of_low_parts_is_none() -> None:
    alike = diagnose(parts_of(neox(), (0.02, 0.02, 0.02), k=0.9))
    assert alike.mixtures == ()
    assert "mixture of scales" not in render_diagnosis(alike)


def test_the_shape_of_a_mixture_is_that_of_a_fit_to_it() -> None:
    rng = np.random.default_rng(0)
    shapes, scales, weights = np.array([1.2, 1.1, 0.9]), np.array([0.02, 0.05, 0.03]), np.array([0.5, 0.25, 0.25])
    parts = [s * rng.weibull(k, int(w * 4_000_000)) for k, s, w in zip(shapes, scales, weights, strict=True)]
    fit = fit_weibull(torch.from_numpy(np.concatenate(parts)))
    assert mixed_shape(shapes, scales, weights) == pytest.approx(fit.k, abs=5 * fit.k_se)
