from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from monitor.test_parts import mixtral
from published_like import fill, give_shapes, llama, neox, of_kind, small_models_are_compared  # noqa: F401
from torch import nn

from weibull_monitor import WeibullMonitor, fit_weibull, read_history
from weibull_monitor.analysis import Attention, published
from weibull_monitor.analysis.diagnosis import Diagnosis, KindDiagnosis, diagnose
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.model.components import attention_types
from weibull_monitor.report.text.diagnosis import render_diagnosis

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.usefixtures("small_models_are_compared")


def kinds(diagnosis: Diagnosis) -> dict[str, KindDiagnosis]:
    return {kind.median.kind: kind for kind in (*diagnosis.kinds, *diagnosis.classes)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The small Llama of the examples after 60 steps on real text."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from small_llama import LibrarySources, small_llama
    finally:
        sys.path.remove(str(EXAMPLES))
    torch.manual_seed(0)
    model, text = small_llama(width=128, blocks=3), LibrarySources(64, 100_000)
    directory = tmp_path_factory.mktemp("run")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    with WeibullMonitor(model, optimizer, every_n_steps=20, output_dir=directory) as monitor:
        for step in range(60):
            batch = torch.stack([text[(8 * step + i) % len(text)]["input_ids"] for i in range(8)])
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step()
    return model, directory


def test_a_trained_model_is_diagnosed_from_its_history(run: tuple[nn.Module, Path]) -> None:
    model, directory = run
    history = read_history(directory)
    result = diagnose(history)
    found = kinds(result)
    assert found.keys() >= {"attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down", "selection"}
    assert result.sample.attention == Attention("MHA", fused=False, qk_norm=False, causal=True)
    assert result.sample.t_over_tau == result.sample.peak_time == pytest.approx(60 * 2e-3 * 0.1)
    assert result.training == "transition"
    first, last = history.snapshots[0], history.snapshots[-1]
    for kind in ("attn_q", "ffn_up"):
        names = [c.name for c in of_kind(model, kind)]
        ks = sorted(fit_weibull(model.get_parameter(name)).k for name in names)
        assert found[kind].median.k == pytest.approx(ks[1], abs=1e-6)
        drifts = sorted(last.values("k")[n] / first.values("k")[n] - 1 for n in names)
        assert found[kind].result.drift == pytest.approx(drifts[1])
        assert found[kind].result.against == "baseline"
        growth = found[kind].growth
        assert growth is not None
        assert growth.dominated_by in ("lambda", "both")
        measured = [last.values("rms")[n] / first.values("rms")[n] for n in names]
        assert growth.total[-1] == pytest.approx(torch.tensor(measured).log().mean().item(), abs=0.06)
        assert found[kind].result.severity == ("none" if abs(drifts[1]) < 0.01 else "mild")
    assert any("T·η_peak·λ_wd is below 0.25" in note for note in result.notes)
    assert any("elements; those of the smallest published model have 18.9 million" in note for note in result.notes)
    assert not any("no baseline" in note for note in result.notes)


def test_the_model_itself_gives_the_same_shapes_without_a_baseline(run: tuple[nn.Module, Path]) -> None:
    model, directory = run
    live, recorded = diagnose(model), diagnose(read_history(directory))
    for ours, theirs in zip(live.kinds, recorded.kinds, strict=True):
        assert ours.median.k == pytest.approx(theirs.median.k, abs=1e-6)
        assert ours.result.against == "normal"
        assert ours.growth is None
    assert live.sample.attention == recorded.sample.attention
    assert any("there is no baseline" in note for note in live.notes)


def test_the_baseline_of_a_run_is_as_initialised(run: tuple[nn.Module, Path]) -> None:
    result = diagnose(read_history(run[1]), step=0)
    assert {kind.verdict for kind in result.kinds} == {"k shows no training"}
    assert not any("T/τ" in note for note in result.notes)


def test_every_part_of_the_report_is_there(run: tuple[nn.Module, Path]) -> None:
    text = render_diagnosis(diagnose(read_history(run[1])))
    assert "step 60: multi-head attention (MHA), q, k and v stored apart, no QK-norm" in text
    assert "training time: S = Σ ηλ_wd = 0.012; T·η_peak·λ_wd = 0.012: transition" in text
    assert text.count("0.760–0.990 ( 2)") == 3  # W_q, W_k, and both of the class
    assert "olmo-1-7b" in text
    assert "nearest published" in text
    assert max(map(len, text.splitlines())) <= 125


def test_a_published_shape_is_as_published_and_its_severity_is_named() -> None:
    found = kinds(diagnose(give_shapes(llama(), published("llama-3-8b").k)))
    for kind in ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down", "selection", "feed-forward"):
        assert found[kind].verdict == "as published", kind
    assert found["attn_q"].result.severity == "mild"
    assert found["ffn_up"].result.severity == "none"


def test_a_run_on_its_way_from_its_start_is_short_of_what_is_published(tmp_path: Path) -> None:
    model = give_shapes(llama(), dict.fromkeys(published("mistral-7b").k, 1.2054))
    with WeibullMonitor(model, output_dir=tmp_path) as monitor:
        give_shapes(model, {"attn_q": 1.18, "attn_k": 1.12, "attn_o": 1.30, "ffn_up": 1.10})
        monitor.step()
    found = kinds(diagnose(read_history(tmp_path)))
    verdicts = {kind: found[kind].verdict for kind in ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_up", "ffn_down")}
    assert verdicts == {
        "attn_q": "short of published",
        "attn_k": "as published",
        "attn_v": "as initialised",
        "attn_o": "not as published",  # above where it started
        "ffn_up": "not as published",
        "ffn_down": "as initialised",
    }


def test_one_kind_that_is_not_as_published_is_told() -> None:
    """k = 1.12: of W_q in a model with shared keys as published, of a feed-forward matrix not."""
    shapes = {**published("llama-3-8b").k, "attn_q": 1.12, "ffn_up": 1.12}
    found = kinds(diagnose(give_shapes(llama(), shapes)))
    assert found["attn_q"].verdict == "as published"
    assert found["ffn_up"].verdict == "not as published"
    assert found["ffn_up"].result.position == "below"


def test_heads_and_experts_are_classified_without_an_expectation(tmp_path: Path) -> None:
    model = give_shapes(llama(8, 8, blocks=1), published("olmo-1-7b").k)
    monitor = WeibullMonitor(model, output_dir=tmp_path, resolution="head")
    heads = {n: r for n, r in diagnose(monitor.sample()).matrices.items() if "head " in n}
    monitor.close()
    assert len(heads) == 8 * 4
    assert {result.expected for result in heads.values()} == {None}
    experts = {n: r for n, r in diagnose(mixtral(4)).matrices.items() if "expert " in n}
    assert experts
    assert {result.expected for result in experts.values()} == {None}


def test_a_live_sample_knows_its_baseline_and_growth(tmp_path: Path) -> None:
    model = give_shapes(llama(), published("mistral-7b").k, scale=0.02)
    with WeibullMonitor(model, output_dir=tmp_path) as monitor:
        give_shapes(model, published("mistral-7b").k, scale=0.03)
        monitor.step(last=True)
        assert monitor.last is not None
        live, recorded = kinds(diagnose(monitor.last)), kinds(diagnose(read_history(tmp_path)))
    for found in (live, recorded):
        growth = found["attn_q"].growth
        assert growth is not None
        assert growth.total[-1] == pytest.approx(math.log(1.5), abs=1e-4)
        assert growth.dominated_by == "lambda"


def test_strong_selection_of_multi_head_attention() -> None:
    found = kinds(diagnose(give_shapes(llama(8, 8), published("olmo-1-7b").k)))
    assert found["attn_q"].result.severity == found["attn_k"].result.severity == "strong"
    assert found["attn_q"].result.regime == "strong selection"
    assert found["selection"].verdict == "as published"


def test_parts_of_a_fused_matrix_have_nothing_published_and_the_whole_has() -> None:
    found = kinds(diagnose(give_shapes(neox(), published("pythia-70m").k)))
    assert found["attn_qkv"].verdict == "as published"
    assert found["attn_q"].verdict == "moved"


def test_a_shallow_feed_forward_anomaly_is_listed_with_what_is_known() -> None:
    """Blocks of two populations, as published Qwen models of 3 B and above have among the first six."""
    model = give_shapes(llama(blocks=4), published("qwen2.5-7b").k)
    component = of_kind(model, "ffn_gate")[1]
    weight = dict(model.named_parameters())[component.parameter]
    with torch.no_grad():
        narrow, wide = weight.view(-1)[: weight.numel() // 2], weight.view(-1)[weight.numel() // 2 :]
        fill(narrow, 1.2, 0.002)
        fill(wide, 1.2, 0.05)
    result = diagnose(model)
    (odd,) = result.odd
    assert odd.name == component.name
    assert "not one population" in odd.why
    assert "Qwen models of 3 B and above" in odd.why
    assert result.matrices[odd.name].regime == "mixture"
    assert odd.fit is not None
    text = render_diagnosis(result)
    assert f"{odd.name}: k {odd.k:.3f}" in text
    assert f"Gini {odd.fit.gini:.2f}" in text


def test_a_run_that_goes_on_from_a_trained_model_says_what_its_drift_is_since(tmp_path: Path) -> None:
    model = give_shapes(llama(8, 8), published("olmo-1-7b").k)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)
    with WeibullMonitor(model, optimizer, output_dir=tmp_path) as monitor:
        tokens = torch.randint(0, 64, (2, 8))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        monitor.step()
    result = diagnose(read_history(tmp_path))
    assert kinds(result)["attn_q"].verdict == "as published"  # and not "k shows no training", though it has not moved
    assert kinds(result)["attn_q"].result.severity == "none"
    kinds_of = "attn_q, attn_k, attn_v, attn_o"
    said = (
        f"at the baseline k of {kinds_of} was not that of an initialisation: drift and training time count from there"
    )
    assert said in result.notes
    assert result.training == "transition"  # of this run, which says nothing of the model
    assert not any("still changing" in note for note in result.notes)


def test_pytorchs_own_initialisation_is_no_selection() -> None:
    """Uniform: k = 1.3751, which the published library calls mild selection."""
    result = diagnose(nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 512, batch_first=True), 2))
    found = kinds(result)
    assert found["ffn_in"].result.against == "uniform"
    assert found["ffn_in"].result.regime == "above the band"
    assert {kind.verdict for kind in result.kinds} == {"k shows no training"}


def test_a_model_without_attention_has_a_diagnosis(tiny_model: nn.Module) -> None:
    result = diagnose(nn.ModuleDict({"mlp": nn.ModuleDict({"fc1": nn.Linear(64, 64), "fc2": nn.Linear(64, 64)})}))
    assert result.sample.attention is None
    assert "no self-attention" in render_diagnosis(result)
    assert attention_types(tiny_model, ()) == ()


def test_what_there_is_nothing_to_diagnose_in() -> None:
    with pytest.raises(ConfigurationError, match="no matrix has a fit"):
        diagnose(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ConfigurationError, match="a step can be chosen of a history only"):
        diagnose(nn.Sequential(nn.Linear(64, 64)), step=3)
