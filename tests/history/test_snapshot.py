from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from torch import nn

from weibull_monitor import fit_weibull
from weibull_monitor.history import HistoryWriter
from weibull_monitor.history.snapshot import Reference, References, Scaling, ScalingRows, Snapshot, reference_of
from weibull_monitor.measure import WeibullFit
from weibull_monitor.measure.fit import FIELDS
from weibull_monitor.measure.fit_rows import FitRows
from weibull_monitor.measure.plain.solve import RESULT_COLUMNS
from weibull_monitor.model.components import attention_pairs, attention_types, discover


@pytest.fixture
def snapshot(tiny_model: torch.nn.Module) -> Snapshot:
    components = discover(tiny_model).components
    parameters = dict(tiny_model.named_parameters())
    fits = {c.name: fit_weibull(parameters[c.parameter]) for c in components}
    return Snapshot(
        step=7,
        time=0.0,
        components=components,
        fits=fits,
        scaling={c.name: Scaling(1e-3, 0.1, 0.1, 0.05, 0.3, 0.2, 0.6) for c in components},
        baseline={c.name: Reference(1.2, 0.04) for c in components},
        unchanged=1,
        seconds=0.01,
    )


def test_metrics_are_medians_over_the_blocks_of_a_kind(snapshot: Snapshot) -> None:
    metrics = snapshot.metrics()
    k = [snapshot.fits[f"layers.{block}.self_attn.q_proj.weight"].k for block in (0, 1)]
    assert metrics["weibull_k/attn_q"] == pytest.approx(median(k))
    assert metrics["weibull_k_min/attn_q"] == min(k)
    selection = k + [snapshot.fits[f"layers.{block}.self_attn.k_proj.weight"].k for block in (0, 1)]
    assert metrics["weibull_class/selection_k"] == pytest.approx(median(selection))
    assert metrics["weibull_class/selection_drift_pct"] == pytest.approx(100 * median(x / 1.2 - 1 for x in selection))
    assert metrics["weibull_scaling/sqrt_eta_over_wd"] == 0.1
    assert metrics["weibull_scaling/budget_ratio/ffn_in"] == 0.6
    assert metrics["weibull_health/components"] == 10
    assert metrics["weibull_health/unchanged"] == 1


def test_detail_adds_three_keys_a_component(snapshot: Snapshot) -> None:
    kind, component = snapshot.metrics(), snapshot.metrics("component")
    extra = set(component) - set(kind)
    assert len(extra) == 3 * len(snapshot.components)
    name = "layers.1.mlp.fc2.weight"
    assert component[f"weibull_component/{name}/lambda"] == snapshot.fits[name].lambda_


def test_what_does_not_exist_is_absent_and_nothing_is_nan(snapshot: Snapshot) -> None:
    name = "layers.0.self_attn.q_proj.weight"
    bare = Snapshot(
        step=0,
        time=0.0,
        components=snapshot.components,
        fits={**snapshot.fits, name: fit_weibull(torch.full((300,), float("nan")))},
    )
    metrics = bare.metrics("component")
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert f"weibull_component/{name}/k" not in metrics
    assert not any(key.startswith("weibull_scaling/") or "drift" in key or "unchanged" in key for key in metrics)
    assert metrics["weibull_health/nonfinite"] == 300
    assert metrics["weibull_health/components"] == 9


def test_a_snapshot_of_nothing_has_no_medians() -> None:
    metrics = Snapshot(step=0, time=0.0, components=(), fits={}).metrics()
    assert set(metrics) == {"weibull_health/components", "weibull_health/nonfinite", "weibull_health/seconds"}


def test_a_default_run_of_a_llama_has_about_sixty_keys_whatever_its_depth() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    counts = []
    for depth in (2, 6):
        config = transformers.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=depth, num_attention_heads=2, vocab_size=64
        )
        model = transformers.LlamaForCausalLM(config)
        components = discover(model).components
        parameters = dict(model.named_parameters())
        full = Snapshot(
            step=1,
            time=0.0,
            components=components,
            fits={c.name: fit_weibull(parameters[c.parameter]) for c in components},
            scaling={c.name: Scaling(1e-3, 0.1, 0.1, 0.05, 0.3, 0.2, 0.6) for c in components},
            baseline={c.name: Reference(1.2, 0.04) for c in components},
            unchanged=0,
        )
        counts.append(len(full.metrics()))
    assert counts[0] == counts[1] <= 80 - 7  # the forecast adds one for each of seven kinds


def test_the_scale_of_attention_and_tails_that_have_moved_are_metrics() -> None:
    layer = nn.TransformerEncoderLayer(64, 4)
    components = discover(layer).components
    parameters = dict(layer.named_parameters())
    chance = torch.Generator().manual_seed(0)

    def fits() -> dict[str, WeibullFit]:
        chosen = {
            c.name: c.part.select(parameters[c.parameter]) if c.part else parameters[c.parameter] for c in components
        }
        return {name: fit_weibull(weight.detach()) for name, weight in chosen.items()}

    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(std=0.02, generator=chance)
    start = fits()
    pairs = attention_pairs(components, attention_types(layer, components))
    given = {"time": 0.0, "components": components, "pairs": pairs}
    given["baseline"] = {name: reference_of(fit) for name, fit in start.items()}
    metrics = Snapshot(step=1, fits=start, **given).metrics()  # type: ignore[arg-type]
    assert metrics["weibull_selection/attention_scale"] == pytest.approx(0.02**2 * 64, rel=0.1)
    assert metrics["weibull_selection/attention_scale_max"] == metrics["weibull_selection/attention_scale"]
    assert not any("weibull_tail" in key for key in metrics)
    with torch.no_grad():
        layer.linear1.weight[0, 0] = 0.3  # one value: nothing else moves
    metrics = Snapshot(step=2, fits=fits(), **given).metrics()  # type: ignore[arg-type]
    tails = {key: value for key, value in metrics.items() if "weibull_tail" in key}
    assert list(tails) == ["weibull_tail/max_over_rms/ffn_in"]
    assert tails["weibull_tail/max_over_rms/ffn_in"] == pytest.approx(0.3 / 0.02, rel=0.05)


def test_a_sample_of_columns_says_what_one_of_objects_says(snapshot: Snapshot, tmp_path: Path) -> None:
    names, rows = tuple(c.name for c in snapshot.components), len(snapshot.components)
    numbers = np.full((RESULT_COLUMNS, rows), np.nan)
    here = np.arange(rows) != 3  # one that could not be read
    for n, name in enumerate(names):
        fit = snapshot.fits[name]
        numbers[:, n] = [*(getattr(fit, field) for field in FIELDS), *fit.quantiles]
    numbers[:, 5] = [*np.full(6, np.nan), 0.0, 64.0, 0.0, *np.full(RESULT_COLUMNS - 9, np.nan)]  # one without a fit
    numbers[-3:, 5], numbers[17, 5] = np.nan, 7.0
    numbers[16, 5] = 0.0
    fits = FitRows(names, np.where(here, numbers, np.nan), here)
    some = np.where(here & (np.arange(rows) % 4 > 0), np.linspace(0.1, 0.9, rows), np.nan)
    columns = {"eta": np.where(here, 1e-3, np.nan), "effective": some, "lambda_ratio": some / 3, "eta_sum": some * 7}
    scaling = ScalingRows(names, here, columns, ["shrunk" if n % 4 else None for n in range(rows)])
    scaling.add(
        "forecast", np.arange(rows) % 4 == 0, tuple(np.array([1.5, 1.2, 1.8])[:, None] + np.zeros(len(some[::4])))
    )
    baseline = References.of_fits(snapshot.fits)
    assert dict(baseline) == {name: reference_of(fit) for name, fit in snapshot.fits.items()}
    assert dict(References.of(dict(baseline))) == dict(baseline)
    of_rows = replace(snapshot, fits=fits, scaling=scaling, baseline=baseline)
    of_objects = replace(snapshot, fits=dict(fits), scaling=dict(scaling), baseline=dict(baseline))
    assert len(fits) == len(dict(fits)) == rows - 1
    assert names[3] not in fits
    assert fits[names[5]].reason == "all 64 finite values are zero"
    for detail in ("kind", "component"):
        assert of_rows.metrics(detail) == of_objects.metrics(detail)  # type: ignore[arg-type]
    assert of_rows.withheld == of_objects.withheld
    lines = []
    for n, sample in enumerate((of_rows, of_objects)):
        writer = HistoryWriter(tmp_path / str(n))
        writer.write_snapshot(sample)
        writer.write_plot(sample)
        writer.close()
        lines.append(writer.path.read_bytes())
    assert lines[0] == lines[1]
    assert of_rows == of_objects
