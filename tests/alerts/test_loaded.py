"""`initialised_anew`: what sits at its initialisation in a run that goes on from trained weights is named at step 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alerts.simulated import ATTENTION, KINDS, Columns, component, components, index, samples_of
from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.alerts import replay
from weibull_monitor.history.alert import Alert
from weibull_monitor.measure.weibull import anchors
from weibull_monitor.model.components import Component

NORMAL, ERROR = 1.205434, 1.137 * 1.2054 / 256


def loaded(blocks: int = 6, seed: int = 0, trained: bool = True) -> list[Columns]:
    """One sample at step 0 and three that follow, of trained or of fresh matrices of 256 x 256."""
    chance, size = np.random.default_rng(seed), blocks * len(KINDS)
    k = NORMAL + ERROR * chance.standard_normal(size) - (0.05 if trained else 0.0)
    scale = 0.02 * 0.887487 * np.exp(0.863 / 256 * chance.standard_normal(size))
    if trained:
        scale = scale * 1.5 * np.exp(0.05 * chance.standard_normal(size))
    full = np.ones(size)
    one = dict.fromkeys(("eta", "weight_decay", "eta_sum", "update_max", "update_ratio", "element_max"), np.nan * full)
    one |= {"k": k, "lambda": scale, "r2": 0.9977 * full, "k_se": ERROR * full, "rms": scale / 0.887487}
    one |= {"zeros": 0.0 * full, "nonfinite": 0.0 * full, "largest": 5.0 * scale}
    return [{name: values.copy() for name, values in one.items()} for _ in range(4)]


def begin_anew(columns: list[Columns], *members: int, seed: int = 9) -> None:
    chance = np.random.default_rng(seed)
    for i in members:
        k, scale = NORMAL + ERROR * chance.normal(), 0.02 * 0.887487 * np.exp(0.863 / 256 * chance.normal())
        for now in columns:
            now["k"][i], now["lambda"][i], now["rms"][i] = k, scale, scale / 0.887487


def named(columns: list[Columns], of: Sequence[Component] | None = None, initial: float | None = None) -> list[Alert]:
    blocks = len(columns[0]["k"]) // len(KINDS)
    found = replay(samples_of(columns, of=of or components(blocks)), None, [ATTENTION], initial)
    return [a for a in found if a.finding.rule == "initialised_anew"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("initial", [None, 0.02])
def test_nothing_is_named_in_trained_and_in_fresh_models(seed: int, initial: float | None) -> None:
    for trained in (True, False):
        assert named(loaded(seed=seed, trained=trained), initial=initial) == []


@pytest.mark.parametrize("kind", ["attn_q", "ffn_down"])
@pytest.mark.parametrize("block", [0, 3, 5])
def test_a_matrix_is_named_at_step_0(block: int, kind: str) -> None:
    columns = loaded()
    begin_anew(columns, index(block, kind))
    (alert,) = named(columns, initial=None if block == 3 else 0.02)
    assert (alert.step, alert.finding.severity) == (0, "warning")
    assert alert.finding.components == (component(block, kind).name,)
    assert "looked freshly initialised, with a standard deviation of 0.02" in alert.text


@pytest.mark.parametrize(("shape", "named_so"), [((48, 6), False), ((64, 8), True)])
def test_the_k_of_few_values_is_that_of_any_initialisation(shape: tuple[int, int], named_so: bool) -> None:
    columns, i = loaded(), index(3, "attn_v")
    begin_anew(columns, i)
    of = [replace(c, shape=shape) if n == i else c for n, c in enumerate(components(6))]
    assert bool(named(columns, of, 0.02)) == named_so


@pytest.mark.parametrize("initial", [None, 0.02])
def test_the_first_block_may_differ_and_pass_the_k_of_an_initialisation(initial: float | None) -> None:
    """W_o of block 0 in a published 70 M Llama: λ 0.0131 beside 0.0187 and more, k 1.205."""
    columns, i = loaded(), index(0, "attn_o")
    for now in columns:
        now["k"][i], now["lambda"][i], now["rms"][i] = NORMAL, 0.021, 0.021 / 0.887487
    assert named(columns, initial=initial) == []


def test_a_whole_block_is_named_in_one_alert() -> None:
    columns = loaded()
    begin_anew(columns, *(index(3, kind) for kind in KINDS))
    (alert,) = named(columns)
    assert alert.finding.count == len(KINDS)
    assert f"as did {len(KINDS) - 1} more of block 3" in alert.text


def test_small_matrices_whose_k_tells_nothing_are_named_by_their_scale() -> None:
    columns = loaded()
    for now in columns:  # matrices of 64 x 64: k of trained ones is within its error of the anchor
        now["k"] = NORMAL + (now["k"] - NORMAL) * 0.2
        now["k_se"] *= 4.0
    begin_anew(columns, index(3, "ffn_up"), index(3, "ffn_down"), index(3, "attn_v"))
    assert [a.finding.count for a in named(columns)] == [3]


def test_the_configuration_tells_where_the_scale_of_the_others_is_near() -> None:
    columns = loaded()
    for now in columns:
        now["lambda"] /= 1.5  # as large as at the start, by chance
    begin_anew(columns, index(3, "ffn_up"), index(3, "ffn_down"))
    assert named(columns) == []
    assert [a.finding.count for a in named(columns, initial=0.02)] == [2]


@pytest.mark.parametrize("kind", ["lm_head", "other", "embedding", "adapter_a"])
def test_heads_embeddings_and_adapters_are_ordinary(kind: str) -> None:
    columns = loaded()
    begin_anew(columns, index(3, "ffn_up"))
    of = list(components(6))
    of[index(3, "ffn_up")] = replace(of[index(3, "ffn_up")], kind=kind)
    assert named(columns, of) == []


@pytest.mark.parametrize("initial", [None, 0.02])
def test_a_kind_that_is_new_in_every_block_is_named_as_a_kind(initial: float | None) -> None:
    columns = loaded()
    begin_anew(columns, *(index(block, "attn_o") for block in range(6)))
    (alert,) = named(columns, initial=initial)
    assert (alert.step, alert.finding.count) == (0, 6)
    assert all("attn_o" in name for name in alert.finding.components)
    assert (
        "the 6 matrices of the kind attn_o looked freshly initialised, with a standard deviation of 0.02" in alert.text
    )


def test_cross_attention_that_is_new_as_a_whole_is_ordinary() -> None:
    columns = loaded()
    begin_anew(columns, *(index(block, "attn_o") for block in range(6)))
    of = [replace(c, cross=True) if c.kind == "attn_o" else c for c in components(6)]
    assert named(columns, of, initial=0.02) == []


def test_a_fresh_model_whose_scale_depends_on_the_depth_is_not_taken_for_a_trained_one() -> None:
    for power in (0.5, 1.0):
        columns = loaded(trained=False)
        for now in columns:
            for block in range(6):
                for kind in KINDS:
                    now["lambda"][index(block, kind)] /= (block + 1) ** power
        assert named(columns, initial=0.02) == []


def with_heads(columns: list[Columns]) -> tuple[list[Columns], list[Component]]:
    """The same with the four heads of each W_q and W_k, whose fits have twice the error."""
    of, chance = list(components(6)), np.random.default_rng(3)
    picked = [i for i, c in enumerate(of) if c.kind in ("attn_q", "attn_k") for _ in range(4)]
    for n, i in enumerate(picked):
        of.append(replace(of[i], name=f"{of[i].name}[head {n % 4}]", shape=(64, 256)))
    noise = 0.863 / 128 * chance.standard_normal(len(picked))
    wider = []
    for now in columns:
        heads = {name: values[picked].copy() for name, values in now.items()}
        heads["lambda"] *= np.exp(noise)
        heads["k_se"] *= 2.0
        wider.append({name: np.concatenate([values, heads[name]]) for name, values in now.items()})
    return wider, of


def test_heads_do_not_dilute_what_tells_that_the_model_was_trained() -> None:
    """k of small matrices tells nothing; their λ differ by less than the fits of heads can tell."""
    columns = loaded()
    for now in columns:
        now["k"] = NORMAL + (now["k"] - NORMAL) * 0.2
        now["k_se"] *= 2.0
        now["lambda"] = 0.03 * (now["lambda"] / 0.0266) ** 0.6
    begin_anew(columns, index(3, "ffn_up"))
    wider, of = with_heads(columns)
    (alert,) = named(wider, of, initial=0.02)
    assert alert.finding.components == (component(3, "ffn_up").name,)


def test_the_usual_ways_to_initialise_are_known_without_a_configuration() -> None:
    """1/√fan_in as a bound, as in PyTorch's own layers: uniform, σ = 1/√(3·256)."""
    uniform = anchors()["uniform"]
    columns = loaded()
    for now in columns:  # k of trained ones tells nothing
        now["k"] = uniform.k + (now["k"] - now["k"].mean()) * 0.2
        now["k_se"] *= 4.0
        now["lambda"] *= 2.2
    i = index(3, "ffn_up")
    begin_anew(columns, i)
    for now in columns:
        now["k"][i], now["lambda"][i] = uniform.k, uniform.lambda_ / 16.0
    (alert,) = named(columns)
    assert alert.finding.components == (component(3, "ffn_up").name,)
    assert "a standard deviation of 0.0361" in alert.text


def test_a_model_of_two_blocks_is_judged_by_its_configuration() -> None:
    columns = loaded(blocks=2)
    for now in columns:
        now["k_se"] *= 0.25  # as of matrices of 1024 x 1024
        now["k"] = NORMAL + (now["k"] - NORMAL) * 0.25 - 0.03
    i = index(1, "ffn_up")
    begin_anew(columns, i)
    for now in columns:
        now["k"][i], now["lambda"][i] = NORMAL, 0.02 * 0.887487
    assert named(columns) == []
    (alert,) = named(columns, initial=0.02)
    assert alert.finding.components == (component(1, "ffn_up").name,)


def test_it_stands_until_the_matrix_has_come_half_of_the_way() -> None:
    columns = [*loaded(), *loaded()]
    i = index(3, "ffn_up")
    begin_anew(columns, i)
    for now in columns[4:]:
        now["lambda"][i] *= 1.4
    assert [(a.phase, a.step) for a in named(columns)] == [("begins", 0), ("ends", 60)]


class Blocks(nn.Module):
    """Five blocks with Llama's names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"mlp": nn.ModuleDict({n: nn.Linear(96, 96, bias=False) for n in ("up_proj", "down_proj")})})
            for _ in range(5)
        )


def fill(model: nn.Module, anew: Callable[[str], bool], chance: torch.Generator) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.02, generator=chance)
            if not anew(name):  # a trained matrix: heavier tails, another size each
                weight.mul_(1.0 + 0.4 * weight.abs() / 0.02)
                weight.mul_(1.4 + 0.1 * torch.rand(1, generator=chance).item())


def test_a_real_model_whose_block_was_loaded_anew(tmp_path: Path) -> None:
    chance, model = torch.Generator().manual_seed(0), Blocks()
    for place, anew, expected in (
        ("fresh", lambda name: True, 0),
        ("trained", lambda name: False, 0),
        ("block", lambda name: "layers.3." in name, 2),
    ):
        fill(model, anew, chance)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        with WeibullMonitor(model, optimizer, output_dir=tmp_path / place) as monitor:
            monitor.step()
        found = [a for a in read_history(tmp_path / place).alerts if a.finding.rule == "initialised_anew"]
        assert [(a.step, a.finding.count) for a in found] == ([(0, expected)] if expected else [])
        assert all("layers.3." in name for a in found for name in a.finding.components)


def test_a_run_that_resumes_without_its_history_is_judged_by_what_it_loaded(tmp_path: Path) -> None:
    """As with a checkpoint of the Trainer that was written without the callback: the step is known, and nothing else."""
    model = Blocks()
    fill(model, lambda name: "layers.3." in name, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with WeibullMonitor(model, optimizer, output_dir=tmp_path, every_n_steps=2, resume={"step": 501}) as monitor:
        for _ in range(3):
            monitor.step()
    history = read_history(tmp_path)
    assert [s.step for s in history.snapshots] == [501, 502, 504]
    assert history.baseline is None
    (alert,) = (a for a in history.alerts if a.finding.rule == "initialised_anew")
    assert (alert.step, alert.finding.count) == (501, 2)
    assert "At step 501 this matrix looked freshly initialised" in alert.text


def test_a_run_that_resumes_with_its_history_takes_no_sample_of_its_own(tmp_path: Path) -> None:
    model = Blocks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with WeibullMonitor(model, optimizer, output_dir=tmp_path, every_n_steps=2) as monitor:
        monitor.step()
        state = monitor.state_dict()
    with WeibullMonitor(model, optimizer, output_dir=tmp_path, every_n_steps=2, resume=state) as monitor:
        monitor.step()
    assert [s.step for s in read_history(tmp_path).snapshots] == [0, 1, 2]


def test_a_matrix_that_was_loaded_as_zeros_is_named() -> None:
    columns, i = loaded(), index(2, "attn_k")

    def zero(columns: list[Columns], *members: int) -> None:
        for now in columns:
            for j in members:
                now["zeros"][j] = components(6)[j].numel
                now["k"][j] = now["lambda"][j] = now["k_se"][j] = now["r2"][j] = np.nan
                now["rms"][j] = now["largest"][j] = 0.0

    zero(columns, i)
    (alert,) = named(columns)
    assert alert.finding.components == (component(2, "attn_k").name,)
    assert "all values of this matrix were zero" in alert.text
    fresh = loaded(trained=False)
    zero(fresh, *(index(block, "attn_o") for block in range(6)))  # as outputs of blocks are often initialised
    assert named(fresh) == []


def test_a_checkpoint_of_half_as_many_blocks() -> None:
    columns = loaded()
    begin_anew(columns, *(index(block, kind) for block in (3, 4, 5) for kind in KINDS))
    (alert,) = named(columns, initial=0.02)
    assert alert.finding.count == 3 * len(KINDS)
