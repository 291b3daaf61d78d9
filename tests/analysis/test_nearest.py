from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_like import fill, give_shapes, llama, neox, noise_of, of_kind, small_models_are_compared  # noqa: F401

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.analysis import (
    PUBLISHED,
    Attention,
    attention_of,
    compared_sample,
    nearest,
    published,
)
from weibull_monitor.analysis.expected import spread
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.model.components import attention_types, discover_components

pytestmark = pytest.mark.usefixtures("small_models_are_compared")


def sampled(model: torch.nn.Module, directory: Path) -> Snapshot:
    monitor = WeibullMonitor(model, output_dir=directory)
    snapshot = monitor.sample()
    monitor.close()
    return snapshot


@pytest.mark.parametrize("name", ["mistral-7b", "llama-3-8b", "qwen2.5-1.5b", "qwen2.5-3b"])
def test_a_model_with_the_shapes_of_a_published_one_is_nearest_to_it(name: str, tmp_path: Path) -> None:
    snapshot = sampled(give_shapes(llama(), published(name).k), tmp_path)
    result = nearest(snapshot)
    first, second = result.neighbours[:2]
    assert first.model.name == name
    assert first.distance < 0.1 < second.distance
    assert {n.model.attention for n in result.neighbours} == {"gqa"}
    assert len(result.neighbours) == 13


def test_fused_is_compared_with_fused_and_by_the_whole_matrix(tmp_path: Path) -> None:
    model = give_shapes(neox(), published("pythia-70m").k)
    result = nearest(sampled(model, tmp_path))
    assert result.attention == Attention("MHA", fused=True)
    assert [n.model.attention for n in result.neighbours] == ["fused"] * 5
    assert result.neighbours[0].model.name == "pythia-70m"
    assert {d.kind for d in result.neighbours[0].kinds} == {"attn_qkv", "attn_o", "ffn_in", "ffn_out"}


@pytest.mark.parametrize(("kind", "expected"), [("olmo2", "olmo-2-7b"), ("llama", "olmo-1-7b")])
def test_multi_head_attention_is_told_by_its_normalisation(kind: str, expected: str) -> None:
    model = give_shapes(llama(8, 8, kind=kind), published("olmo-1-7b").k)
    found = discover_components(model)
    known = attention_of(found, attention_types(model, found))
    assert known is not None
    assert known.qk_norm is (kind == "olmo2")
    from weibull_monitor.analysis.diagnosis import diagnose

    result = diagnose(model).nearest
    assert [n.model.name for n in result.neighbours] == [expected]
    assert any("how much such models differ is not known" in note for note in result.notes)


def test_without_a_record_both_kinds_of_multi_head_attention_are_compared(tmp_path: Path) -> None:
    model = give_shapes(llama(8, 8), published("olmo-1-7b").k)
    result = nearest(sampled(model, tmp_path))
    assert [n.model.name for n in result.neighbours] == ["olmo-1-7b", "olmo-2-7b"]
    assert any("whether queries and keys are normalised is not known" in note for note in result.notes)
    assert result.neighbours[1].kinds[0].kind in ("attn_k", "attn_v")


def test_the_kind_that_makes_the_difference_is_named_and_counted(tmp_path: Path) -> None:
    """W_o at 1.10 instead of Mistral's 1.1902. The error: three matrices of 128 × 128, and sd 0.0174 between models, twice."""
    model = give_shapes(llama(), {**published("mistral-7b").k, "attn_o": 1.10})
    result = nearest(sampled(model, tmp_path))
    mistral = next(n for n in result.neighbours if n.model.name == "mistral-7b")
    largest = mistral.kinds[0]
    assert largest.kind == "attn_o"
    median_of_three = 1.2533 * noise_of(1.10, 128 * 128) / math.sqrt(3)
    assert largest.z == pytest.approx(-0.0902 / math.hypot(median_of_three, math.sqrt(2) * 0.0174), rel=0.02)
    assert largest.share > 0.95
    assert sum(d.share for d in mistral.kinds) == pytest.approx(1)
    assert mistral.distance == pytest.approx(abs(largest.z) / math.sqrt(7), rel=0.03)


def test_distance_is_one_on_average_between_published_models_of_a_type() -> None:
    """What the unit means: the mean square of z over all pairs of one type is 1 for every kind that has its own spread."""
    for attention in ("gqa", "fused"):
        models = [m for m in PUBLISHED if m.attention == attention]
        for kind in models[0].k:
            scale = math.sqrt(2) * spread(kind, frozenset({attention}))  # type: ignore[arg-type]
            squares = [((a.k[kind] - b.k[kind]) / scale) ** 2 for a, b in itertools.combinations(models, 2)]
            assert sum(squares) / len(squares) == pytest.approx(1)


def test_blocks_that_differ_widen_the_error_of_their_median(tmp_path: Path) -> None:
    shapes = published("mistral-7b").k
    even = give_shapes(llama(blocks=5), shapes)
    uneven = give_shapes(llama(blocks=5), shapes)
    parameters = dict(uneven.named_parameters())
    for component, k in zip(of_kind(uneven, "ffn_up"), (1.10, 1.15, 1.1964, 1.24, 1.29), strict=True):
        fill(parameters[component.parameter], k, 0.02)
    errors = []
    for number, model in enumerate((even, uneven)):
        first = nearest(sampled(model, tmp_path / str(number))).neighbours[0]
        errors.append(next(d.error for d in first.kinds if d.kind == "ffn_up"))
    mad = 0.0464  # |1.15 − 1.1964|, the median of the five deviations
    widened = math.hypot(1.2533 * 1.4826 * mad / math.sqrt(5), math.sqrt(2) * spread("ffn_up", frozenset({"gqa"})))
    assert errors[0] < 0.011
    assert errors[1] == pytest.approx(widened, rel=0.02)


def test_live_recorded_and_history_agree(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=10, output_dir=tmp_path) as monitor:
        train(tiny_model, optimizer, 20, monitor.step)
    assert monitor.last is not None
    history = read_history(tmp_path)
    assert (
        nearest(monitor.last).neighbours == ()
    )  # whether the attention of this home-made model is causal is not known
    decoder = {"architecture": "decoder"}
    samples = map(compared_sample, (monitor.last, history.snapshots[-1], history))
    live, recorded, whole = (nearest(replace(sample, model=decoder)) for sample in samples)
    distances = {n.model.name: n.distance for n in live.neighbours}
    assert distances.keys() == {"olmo-1-7b", "olmo-2-7b"}  # of a sample alone it is not known whether there is QK-norm
    assert {n.model.name: n.distance for n in recorded.neighbours} == pytest.approx(distances, rel=1e-6)
    assert [(n.model.name, n.distance) for n in whole.neighbours] == [
        ("olmo-1-7b", pytest.approx(distances["olmo-1-7b"], rel=1e-6))
    ]
    ours, theirs = compared_sample(monitor.last), compared_sample(history)
    assert ours.baseline.keys() == theirs.baseline.keys()
    assert theirs.baseline == pytest.approx(dict(ours.baseline), rel=1e-8)
    assert theirs.t_over_tau == pytest.approx(20 * 1e-2 * 0.01)
    assert ours.t_over_tau == pytest.approx(20 * 1e-2 * 0.01)


def test_training_time_counts_the_peak_of_the_learning_rate(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    """As published: T·η_peak·λ_wd, while S = Σ η_t λ_wd of a linear decay to nothing is half of that."""
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 40)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=10, output_dir=tmp_path) as monitor:
        train(tiny_model, optimizer, 40, lambda: (monitor.step(), scheduler.step()))
    assert monitor.last is not None
    assert compared_sample(read_history(tmp_path)).peak_time == pytest.approx(40 * 1e-2 * 0.1)
    assert compared_sample(read_history(tmp_path)).t_over_tau == pytest.approx(20 * 1e-2 * 0.1, rel=0.03)
    assert compared_sample(monitor.last).t_over_tau == pytest.approx(20 * 1e-2 * 0.1, rel=0.03)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(0.2, "the weight decay changed on the way"), (0.0, "the weight decay changed on the way")],
)
def test_a_weight_decay_that_changes_gives_no_training_time_and_a_reason(
    change: float, reason: str, tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2, weight_decay=0.1)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=5, output_dir=tmp_path) as monitor:
        train(tiny_model, optimizer, 10, monitor.step)
        optimizer.param_groups[0]["weight_decay"] = change
        train(tiny_model, optimizer, 10, monitor.step)
    history = read_history(tmp_path)
    found = compared_sample(history)
    assert found.peak_time is None
    assert reason in found.clock
    assert compared_sample(history, step=10).peak_time == pytest.approx(10 * 1e-2 * 0.1)  # until then it had not


@pytest.mark.parametrize(("eta", "weight_decay"), [(1e-2, 0.0), (0.0, 0.1)])
def test_without_decay_or_without_steps_there_is_no_training_time(
    eta: float, weight_decay: float, tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=eta, weight_decay=weight_decay)
    with WeibullMonitor(tiny_model, optimizer, every_n_steps=5, output_dir=tmp_path) as monitor:
        train(tiny_model, optimizer, 10, monitor.step)
    found = compared_sample(read_history(tmp_path))
    assert found.peak_time is None
    assert "no step with η and weight decay above 0" in found.clock


def test_attention_that_no_published_model_has_leaves_the_feed_forward_matrices(tmp_path: Path) -> None:
    model = give_shapes(llama(), published("mistral-7b").k)
    snapshot = sampled(model, tmp_path)
    result = nearest(snapshot, Attention("MLA"))
    assert {d.kind for n in result.neighbours for d in n.kinds} <= {"ffn_gate", "ffn_up", "ffn_down"}
    assert len(result.neighbours) == 15
    assert "no model with MLA is published: only feed-forward matrices are compared" in result.notes


def test_experts_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    from monitor.test_parts import mixtral

    result = nearest(sampled(mixtral(4), tmp_path))
    assert not {d.kind for n in result.neighbours for d in n.kinds} & {"ffn_gate", "ffn_up", "ffn_down"}
    assert "no model with experts is published: they are left out" in result.notes


def test_of_two_towers_the_larger_one_is_compared(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"first": llama(blocks=1), "second": llama(blocks=3)})
    give_shapes(model["second"], published("mistral-7b").k)
    result = nearest(replace(compared_sample(sampled(model, tmp_path)), model={"architecture": "decoder"}))
    assert result.neighbours[0].model.name == "mistral-7b"
    assert result.neighbours[0].distance < 0.1
    assert "only second.model.layers is shown; left out: first.model.layers" in result.notes


def test_a_fresh_model_is_said_to_resemble_initialisations_only(tmp_path: Path) -> None:
    fresh = nearest(sampled(give_shapes(neox(), dict.fromkeys(published("pythia-1b").k, 1.2054)), tmp_path))
    assert any("the resemblance is that of initialisations" in note for note in fresh.notes)
    trained = nearest(sampled(give_shapes(neox(), published("pythia-70m").k), tmp_path / "b"))
    assert not any("the resemblance is that of initialisations" in note for note in trained.notes)


def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    with pytest.raises(ConfigurationError, match="a dict cannot be compared; pass a Snapshot"):
        nearest({})  # type: ignore[arg-type]
    monitor = WeibullMonitor(tiny_model, output_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="holds no samples yet"):
        nearest(read_history(tmp_path))
    monitor.close()


def test_there_is_no_training_time_for_an_optimizer_outside_of_the_law(
    tmp_path: Path, tiny_model: torch.nn.Module, train: Callable[..., list[float]]
) -> None:
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=1e-2, weight_decay=0.1)
    with WeibullMonitor(tiny_model, optimizer, output_dir=tmp_path, every_n_steps=5) as monitor:
        train(tiny_model, optimizer, 5, monitor.step)
    found = compared_sample(read_history(tmp_path))
    assert found.peak_time is None
    assert found.clock == "the steps of this optimizer are not of the size η"
