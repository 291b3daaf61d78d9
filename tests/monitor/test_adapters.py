"""Low-rank adapters: ΔW = s·B·A against what PEFT itself adds, live and from disk, and what tables say of it."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from weibull_monitor import MemoryTracker, WeibullMonitor, fit_weibull, read_history
from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.cli.main import main
from weibull_monitor.history.record import History
from weibull_monitor.measure.product import queue_products
from weibull_monitor.model.adapters import adapters_of
from weibull_monitor.report.html.data import page_data
from weibull_monitor.report.text.checkpoint import render
from weibull_monitor.report.text.run import summarize
from weibull_monitor.report.text.table import plain

peft = pytest.importorskip("peft")
Q = "model.layers.{}.self_attn.q_proj.lora_A.{}.weight"


def adapted(**config: object) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
    chosen = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], **config}
    return peft.get_peft_model(model, peft.LoraConfig(**chosen))


def trained(model: nn.Module, folder: Path, steps: int = 2) -> tuple[History, MemoryTracker]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    tracker = MemoryTracker()
    with WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=folder, trackers=[tracker]) as monitor:
        for _ in range(steps):
            tokens = torch.randint(0, 64, (2, 16))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
    return read_history(folder), tracker


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"lora_alpha": 3, "r": 4}, {"use_dora": True}])
def test_delta_is_that_of_peft(tmp_path: Path, config: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = adapted(**config)
    history, tracker = trained(model, tmp_path)
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    added = layer.get_delta_weight("default").detach()
    expected, name = fit_weibull(added), Q.format(1, "default")
    last = history.snapshots[-1]
    assert last.values("delta_k")[name] == pytest.approx(expected.k, abs=2e-4)
    assert last.values("delta_lambda")[name] == pytest.approx(expected.lambda_, rel=2e-4)
    assert last.values("delta_rms")[name] == pytest.approx(float(added.square().mean().sqrt()), rel=1e-4)
    weight = layer.get_base_layer().weight.detach()
    ratio = float((added.square().mean() / weight.square().mean()).sqrt())
    assert last.values("delta_ratio")[name] == pytest.approx(ratio, rel=1e-4)
    assert tracker.records[-1][1]["weibull_adapter/ratio/attn_q"] == pytest.approx(ratio, rel=0.5)
    assert history.runs[-1].model["adapters"][name]["dora"] is bool(config.get("use_dora"))
    # From disk, without the model.
    model.save_pretrained(tmp_path / "adapter")
    found = scan_all(tmp_path / "adapter").checkpoints[0].adapters
    delta = found.deltas["model.layers.1.self_attn.q_proj.lora_A.weight"]
    assert (delta.k, delta.lambda_) == pytest.approx((last.values("delta_k")[name], last.values("delta_lambda")[name]))
    assert {one["dora"] for one in found.record.values()} == {bool(config.get("use_dora"))}
    assert {one["kind"] for one in found.record.values()} == {"attn_q", "ffn_down"}


def test_b_begins_at_zero(tmp_path: Path) -> None:
    history, tracker = trained(adapted(), tmp_path)
    first = tracker.records[0][1]
    assert "weibull_adapter/k/attn_q" not in first
    assert first["weibull_adapter/ratio/attn_q"] == 0.0
    assert set(history.snapshots[0].values("delta_rms").values()) == {0.0}
    verdicts = {kind.median.kind: kind.verdict for kind in diagnose(history).kinds}
    assert verdicts["adapter_b"] == "moved"
    assert {verdicts[kind] for kind in ("attn_q", "attn_k", "attn_o", "ffn_up")} == {"frozen"}
    assert "weibull_class/selection_drift_pct" not in tracker.records[-1][1]  # of what is trained; the base is not


def test_several_adapters_have_a_row_each(tmp_path: Path) -> None:
    model = adapted()
    model.add_adapter("second", peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"]))  # type: ignore[operator]
    history, tracker = trained(model, tmp_path)
    adapters = history.runs[-1].model["adapters"]
    assert {(one["adapter"], one["rank"], one["scaling"]) for one in adapters.values()} == {
        ("default", 8, 2.0),
        ("second", 4, 1.0),
    }
    assert tracker.records[-1][1]["weibull_adapter/ratio/attn_q"] > 0.01  # the other one is at rest
    text = summarize(history)
    assert "default" in text
    assert "second" in text


def test_tables_speak_of_the_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history, _ = trained(adapted(), tmp_path / "run")
    text = summarize(history)
    assert "frozen, as at the start: 16 matrices (embedding, attn_q" in text
    assert "\nattn_k " not in text
    assert "ΔW = s·B·A" in text
    assert main(["compare", str(tmp_path / "run")]) == 0
    assert "ΔW = s·B·A" in capsys.readouterr().out
    assert main(["watch", str(tmp_path / "run"), "--once"]) == 0
    watched = capsys.readouterr().out
    assert "adapter_a" in watched
    assert "attn_k" not in watched
    page = page_data([("run", history)])["runs"][0]
    assert [tile["label"] for tile in page["tiles"][:2]] == ["ΔW of attn_q", "ΔW of ffn_down"]
    assert "Only adapters are trained" in page["headline"]
    assert [kind["name"] for kind in page["kinds"][:2]] == ["adapter_a", "adapter_b"]
    assert all(one["adapters"] for one in page["classes"])


def test_tables_of_a_run_without_adapters_do_not(tmp_path: Path) -> None:
    model = nn.ModuleDict({"up_proj": nn.Linear(64, 64), "down_proj": nn.Linear(64, 64)})
    with WeibullMonitor(model, output_dir=tmp_path, trackers=[]):
        pass
    history = read_history(tmp_path)
    text = summarize(history) + json.dumps(page_data([("run", history)])["runs"][0])
    assert "ΔW" not in text
    assert "frozen, as" not in text
    assert "adapters" not in history.runs[-1].model
    assert not any(
        column.startswith("delta_")
        for column in json.loads((tmp_path / "weibull/history.jsonl").read_text().splitlines()[1])
    )


def test_scan_without_settings_says_that_s_is_missing(tmp_path: Path) -> None:
    model = adapted()
    trained(model, tmp_path / "run")
    model.save_pretrained(tmp_path / "adapter")
    assert not any("without the factor" in note for note in scan_all(tmp_path / "adapter").checkpoints[0].notes)
    found = scan_all(tmp_path / "adapter")
    assert "ΔW = s·B·A" in plain(render(found))
    assert "adapters alone" in plain(render(found))
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    one = scan_all(tmp_path / "adapter").checkpoints[0]
    assert any("without the factor s" in note for note in one.notes)
    assert {facts["scaling"] for facts in one.adapters.record.values()} == {1.0}
    assert main(["scan", str(tmp_path / "adapter"), "--csv", str(tmp_path / "x.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert sum(bool(row["delta_k"]) for row in rows) == 4


def test_a_large_product_is_sampled_and_its_rms_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(16, 3000, generator=generator), torch.randn(2000, 16, generator=generator)
    whole = fit_weibull(0.5 * (b @ a))
    ((fit, rms),) = queue_products([(a.bfloat16(), b.bfloat16(), 0.5)]).fits()
    assert fit.n <= 1 << 20
    assert rms == pytest.approx(whole.rms, rel=5e-3)
    assert fit.k == pytest.approx(whole.k, rel=0.02)
    wide = queue_products([(torch.ones(1, 1 << 22), torch.ones(3, 1), 1.0)]).fits()[0][0]
    assert 0 < wide.n <= 1 << 20


def test_adapters_of_embeddings_and_other_libraries() -> None:
    model = nn.Module()
    model.emb = nn.Embedding(32, 16)
    model.emb.lora_embedding_A = nn.ParameterDict({"x": nn.Parameter(torch.ones(4, 32))})
    model.emb.lora_embedding_B = nn.ParameterDict({"x": nn.Parameter(torch.ones(16, 4))})
    model.emb.scaling = {"x": 3.0}
    model.odd = nn.Linear(4, 4)
    model.odd.lora_A, model.odd.lora_B = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(4, 3))  # do not fit
    model.odd.scaling = 1.0
    assert [(one.name, one.rank, one.scaling) for one in adapters_of(model)] == [("emb.lora_embedding_A.x", 4, 3.0)]
