"""Our numbers against those of the published library (npm-weibull-py 0.4.0) on common input, within its known errors.

docs/published-library.md maps each of its public names to ours; that page is checked here too.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from functools import partial
from pathlib import Path
from typing import Any

import npm_weibull
import numpy as np
import pytest
import torch
from monitor.test_parts import mixtral
from oracle import exact_fit, samples
from published_like import give_shapes, llama, neox, small_models_are_compared  # noqa: F401

from weibull_monitor import fit_weibull
from weibull_monitor.analysis import PUBLISHED, classify, drift_severity, published, regime, training_state
from weibull_monitor.analysis.diagnosis import diagnose
from weibull_monitor.analysis.sigma import attribute_sigma
from weibull_monitor.measure import bins_of, count_magnitudes, weibull
from weibull_monitor.model.components import attention_types, discover_components

PAGE = (Path(__file__).parents[1] / "docs/published-library.md").read_text()
BIN = 10 ** (14 / 1024)
"""Its bins: 1,024 over 14 decades, each 3.2 % wide."""


def public_names() -> set[str]:
    """Functions, classes and constants of every module of the installed library; type aliases are none."""
    found = set(npm_weibull.__all__)
    for info in pkgutil.walk_packages(npm_weibull.__path__, "npm_weibull."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__ and (
                inspect.isfunction(value) or inspect.isclass(value)
            )
            if not name.startswith("_") and (own or name.isupper()):
                found.add(name)
    return found


def rows() -> dict[str, str]:
    """Ours by theirs, from the table of the page."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, flags=re.MULTILINE))


def test_the_page_names_every_public_name_of_the_installed_library() -> None:
    assert npm_weibull.__version__ == "0.4.0"
    assert len(public_names()) == 19
    assert rows().keys() == public_names()


@pytest.mark.parametrize("theirs", sorted(public_names()))
def test_what_the_page_names_of_ours_exists(theirs: str) -> None:
    ours = re.findall(r"`(weibull_monitor[\w.]*)`", rows()[theirs])
    assert ours or rows()[theirs].startswith("–")
    for name in ours:
        path, found = name.split("."), None
        for depth in range(len(path), 0, -1):
            try:
                found = importlib.import_module(".".join(path[:depth]))
            except ModuleNotFoundError:
                continue
            for attribute in path[depth:]:
                fields = getattr(found, "__dataclass_fields__", {})
                found = fields[attribute] if attribute in fields else getattr(found, attribute)
            break
        assert found is not None, name


def histogram(values: torch.Tensor) -> dict[str, np.ndarray]:
    return npm_weibull.extract_to_histogram(values)


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "weibull 0.3", "student t 3", "laplace"])
def test_fits_agree_within_its_error(name: str) -> None:
    values = samples(name, 2**18).float() * (1e-3 if name == "weibull 0.3" else 1.0)  # else some are above 100
    ours, theirs = fit_weibull(values), npm_weibull.weibull_fit(histogram(values))
    assert theirs["k"] == pytest.approx(ours.k, abs=2e-3)
    assert theirs["lambda"] == pytest.approx(ours.lambda_, rel=1e-2 if name == "weibull 0.3" else 4e-3)
    assert theirs["R2"] == pytest.approx(ours.r2, abs=5e-4)
    assert theirs["KS"] == pytest.approx(ours.ks, abs=0.015)
    assert ours.k == pytest.approx(exact_fit(values)[0], abs=1e-4)


def test_large_values_fall_out_of_its_histogram_and_not_out_of_ours() -> None:
    values = samples("normal", 2**18) * (300 / 0.02)
    exact = exact_fit(values)[0]
    assert abs(npm_weibull.weibull_fit(histogram(values))["k"] - exact) > 0.1
    assert fit_weibull(values).k == pytest.approx(exact, abs=1e-4)


def test_counts_hold_every_element() -> None:
    values = torch.cat([samples("normal", 5000).float(), torch.zeros(300), torch.tensor([1e3, 1e-20])])
    counts = count_magnitudes([values], bins_of(torch.float32))
    assert int(counts.sum()) == values.numel()
    assert int(counts[0, 0]) == 300
    assert histogram(values)["hist"].sum() == 5000  # zeros, 1e3 and 1e-20 are in none of its bins


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "student t 3", "uniform"])
def test_heaviness_agrees_within_its_bins(name: str) -> None:
    values = samples(name, 2**18).float()
    fit, theirs = fit_weibull(values), npm_weibull.per_block_metrics(histogram(values))
    assert theirs["q90_q10"] == pytest.approx(fit.q90_q10, rel=BIN - 1)
    assert theirs["p999_p50"] == pytest.approx(fit.p999_p50, rel=BIN - 1)
    assert theirs["gini"] == pytest.approx(fit.gini, abs=1e-3)


@pytest.mark.parametrize("name", ["normal", "weibull 0.76", "laplace"])
def test_rankings_by_aic_agree(name: str) -> None:
    values = samples(name, 2**16).float()
    fit, theirs = fit_weibull(values), npm_weibull.compare_distributions(histogram(values))
    aic = {"weibull": fit.aic_weibull, "lognormal": fit.aic_lognormal, "gamma": fit.aic_gamma}
    assert sorted(aic, key=lambda one: aic[one]) == [one["name"] for one in theirs["aic_ranking"]]
    for its in theirs["aic_ranking"]:
        delta = aic[its["name"]] - min(aic.values())
        assert delta == pytest.approx(its["delta_aic"], abs=2e-3 * values.numel())


@pytest.mark.parametrize("k", [0.34, 0.76, 1.0, 1.2054, 2.0])
def test_closed_forms_are_the_same(k: float) -> None:
    theirs = npm_weibull.sigma_from_k_lambda(k, 0.019)
    assert theirs["sigma"] == pytest.approx(float(weibull.std(k, 0.019)), rel=1e-9)
    assert theirs["c_k"] == pytest.approx(float(weibull.std(k)), rel=1e-9)
    assert npm_weibull.weibull_quantile(k, 0.019, 0.9) == pytest.approx(
        float(weibull.quantile(0.9, k, 0.019)), rel=1e-12
    )


def test_regimes_agree_below_the_bands_upper_edge() -> None:
    for k in np.arange(0.30, 1.21, 0.005):
        theirs = npm_weibull.classify_k(float(k), R2=0.99)
        assert regime(float(k), 0.99) == theirs["class"].replace("_", " ")
        assert classify(float(k), "attn_q").drift * 100 == pytest.approx(theirs["deviation_pct"], abs=0.05)


@pytest.mark.parametrize(
    ("k", "r2", "theirs", "ours"),
    [
        (1.375, 0.983, "mild_selection", "above the band"),
        (1.5, None, "mild_selection", "above the band"),
        (1.19, 0.90, "mild_selection", "mixture"),
        (0.34, 0.90, "strong_selection", "mixture"),
    ],
)
def test_where_regimes_differ(k: float, r2: float | None, theirs: str, ours: str) -> None:
    assert npm_weibull.classify_k(k, R2=r2)["class"] == theirs
    assert regime(k, r2) == ours


def test_it_finds_every_published_model_with_shared_keys_out_of_range_and_we_do_not() -> None:
    models = [m for m in PUBLISHED if m.attention == "gqa" and m.eta_peak is not None]
    assert len(models) == 5
    for model in models:
        for kind in ("attn_q", "attn_k"):
            assert npm_weibull.classify_k(model.k[kind], arch_type="GQA")["in_expected_range"] is False
            assert classify(model.k[kind], kind, "gqa").position == "inside"


def test_severities_agree() -> None:
    names = {"invariant": "none", "mild": "mild", "strong": "strong"}
    for k in np.arange(0.5, 1.9, 0.0037):
        theirs = npm_weibull.k_drift_severity(1.2, float(k))
        assert drift_severity(k / 1.2 - 1) == names[theirs["severity"]]


def test_training_time_agrees_and_its_states_are_coarser_than_the_published_ones() -> None:
    models = [m for m in PUBLISHED if m.peak_time is not None]
    for model in models:
        theirs = npm_weibull.compute_T_tau(model.eta_peak, model.weight_decay, model.steps)
        assert model.peak_time == pytest.approx(theirs["T_tau"])
    state = {m.name: training_state(m.peak_time or 0.0) for m in models if m.family == "Pythia"}
    assert state == {  # the column Physical_State of DATABASE_v9_1
        "pythia-70m": "saturated",
        "pythia-160m": "near saturated",
        "pythia-410m": "approaching",
        "pythia-1b": "approaching",
        "pythia-6.9b": "transition",
    }
    assert npm_weibull.compute_T_tau(6e-4, 0.01, 143_000)["state"] == "approaching"


def test_sigma_growth_agrees_and_its_label_looks_at_k_alone() -> None:
    k, lambda_ = [1.2054, 1.19, 1.18], [0.0178, 0.03, 0.05]
    theirs = npm_weibull.sigma_decompose(k, lambda_)
    growth = attribute_sigma(k, lambda_)
    assert growth.total[-1] == pytest.approx(math.log(theirs["sigma_final"] / theirs["sigma_init"]))
    assert math.expm1(growth.from_lambda[-1]) * 100 == pytest.approx(theirs["lambda_growth_pct"])
    assert (theirs["sigma_attribution"], growth.dominated_by) == ("mixed", "lambda")
    still = npm_weibull.sigma_decompose([1.2054, 1.195], [0.01, 0.01])  # nothing but k moves, by 0.9 %
    assert still["sigma_attribution"] == "lambda_dominated"
    assert attribute_sigma([1.2054, 1.195], [0.01, 0.01]).dominated_by == "k"


@pytest.mark.parametrize(("heads", "shared"), [(8, 8), (8, 2), (8, 1)])
def test_attention_types_agree(heads: int, shared: int) -> None:
    model = llama(heads, shared, blocks=1)
    (ours,) = attention_types(model, discover_components(model))
    theirs = npm_weibull.classify_attention_arch(heads, shared)
    assert (ours.sharing, ours.query_heads, ours.key_value_heads) == (theirs["arch"], theirs["n_q"], theirs["n_kv"])


SHORT = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_o": "o",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}


def its_diagnosis(model: torch.nn.Module, directory: Path, heads: int, shared: int) -> dict[str, Any]:
    for number, (name, weight) in enumerate(model.named_parameters()):
        if weight.dim() == 2:
            np.savez(directory / f"{number}.npz", **histogram(weight.detach()) | {"param_name": name})
    arch = {"n_q": heads, "n_kv": shared}
    return npm_weibull.diagnose_model("a model", histograms_dir=directory, arch_config=arch)


@pytest.mark.usefixtures("small_models_are_compared")
def test_whole_model_diagnoses_agree_on_medians_and_differ_on_alarm(tmp_path: Path) -> None:
    model = give_shapes(llama(), published("mistral-7b").k)
    theirs, ours = its_diagnosis(model, tmp_path, 8, 2), {k.median.kind: k for k in diagnose(model).kinds}
    for kind, short in SHORT.items():
        assert theirs["per_component_summary"][short] == pytest.approx(ours[kind].median.k, abs=2.5e-3)
        assert theirs["k_drift"][short]["severity"].replace("invariant", "none") == ours[kind].result.severity
    assert len(theirs["alerts"]) == 2  # q and k of a model with the very shapes of Mistral
    assert ours["attn_q"].verdict == ours["attn_k"].verdict == "as published"


def test_it_takes_a_router_for_a_feed_forward_gate(tmp_path: Path) -> None:
    model = mixtral(4)
    (router,) = [c for c in discover_components(model) if c.kind == "router" and c.block == 0]
    weight = dict(model.named_parameters())[router.parameter]
    np.savez(tmp_path / "0.npz", **histogram(torch.randn(64, 64)) | {"param_name": router.parameter})
    theirs = npm_weibull.diagnose_model("a model", histograms_dir=tmp_path)
    assert weight.dim() == 2
    assert theirs["per_component_summary"].keys() == {"gate"}


@pytest.mark.usefixtures("small_models_are_compared")
def test_the_nearest_model_is_found_where_it_cannot_tell() -> None:
    """Each of its twelve models is asked for by its own published medians."""
    theirs, ours = [], []
    for model in [m for m in PUBLISHED if m.eta_peak is not None]:
        like = {
            "fused": neox,
            "mha": partial(llama, 8, 8),
            "mha_qk_norm": partial(llama, 8, 8, kind="olmo2"),
            "gqa": llama,
        }
        found = diagnose(give_shapes(like[model.attention](blocks=1), model.k)).nearest.neighbours[0]
        ours.append(found.model.name == model.name and found.distance < 0.1)
        short = {**SHORT, "attn_qkv": "qkv", "ffn_in": "up", "ffn_out": "down"}
        result = npm_weibull.compare_to_benchmark(
            {"per_component_summary": {short[kind]: k for kind, k in model.k.items()}}
        )
        name = ITS_NAMES.get(result["nearest_neighbor"], result["nearest_neighbor"].removesuffix("-step143000"))
        theirs.append(name == model.name)
    assert all(ours)
    assert sum(theirs) == 6


ITS_NAMES = {"olmo-7b-hf": "olmo-1-7b", "olmo2-7b-final": "olmo-2-7b", "qwen3-8b-base": "qwen3-8b"}
