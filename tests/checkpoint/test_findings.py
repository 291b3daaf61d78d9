"""Every finding of a scan: a checkpoint that it is made of, and checkpoints that it is not made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from weibull_monitor.checkpoint.scan import scan_all

Weights = dict[str, Tensor]
Q, UP = "layers.{}.self_attn.q_proj.weight", "layers.{}.mlp.up_proj.weight"
EXPERT = "layers.0.mlp.experts.{}.up_proj.weight"


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (64, 64), generator=torch.Generator().manual_seed(seed)) * 0.02


def healthy() -> Weights:
    """Noise, with what is usual: padding rows of an embedding, a tied head, a tiny matrix."""
    weights = {name.format(n): noise(10 * n + i) for n in range(4) for i, name in enumerate((Q, UP))}
    embedding = noise(99, 128, 64)
    embedding[0] = 0.0
    return {
        "embed_tokens.weight": embedding,
        "lm_head.weight": embedding.clone(),
        **weights,
        "tiny.weight": noise(7, 4, 40),
    }


def with_experts() -> Weights:
    return {EXPERT.format(n): noise(n) for n in range(8)} | {"layers.0.mlp.gate.weight": noise(50, 8, 64)}


def changed(name: str, value: Callable[[Tensor], Tensor], of: Callable[[], Weights] = healthy) -> Callable[[], Weights]:
    def made() -> Weights:
        weights = of()
        return {**weights, name: value(weights[name])}

    return made


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    def made(w: Tensor) -> Tensor:
        w = w.clone()
        w[1, 2] = value
        return w

    return made


def larger_rows(w: Tensor) -> Tensor:
    w = w.clone()
    w[:24] *= 300.0
    return w


def found(weights: Weights, folder: Path) -> dict[str, str]:
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors")
    return {finding.rule: finding.text for finding in scan_all(folder / "model.safetensors").checkpoints[0].findings}


@pytest.mark.parametrize(
    ("rule", "made", "said"),
    [
        ("nonfinite", changed(Q.format(1), with_one(float("nan"))), "1 value is Inf or NaN"),
        ("nonfinite", changed(UP.format(0), with_one(float("inf"))), "outputs will be NaN"),
        ("zero", changed(Q.format(2), torch.zeros_like), "is all zero"),
        (
            "copied",
            changed(Q.format(3), lambda _: healthy()[Q.format(1)]),
            "blocks 1, 3 of layers have the same values in attn_q",
        ),
        ("no_single_shape", changed(Q.format(2), larger_rows), "not described by one shape"),
        ("faint_expert", changed(EXPERT.format(5), lambda w: w * 1e-4, with_experts), "below 1 % of the RMS"),
    ],
)
def test_finding(rule: str, made: Callable[[], Weights], said: str, tmp_path: Path) -> None:
    texts = found(made(), tmp_path)
    assert said in texts[rule]
    assert set(texts) == {rule}


@pytest.mark.parametrize("made", [healthy, with_experts])
def test_nothing_is_found_in_what_is_usual(made: Callable[[], Weights], tmp_path: Path) -> None:
    texts = found(made(), tmp_path)
    texts.pop("copied", None)  # a tied head that is stored twice is a copy, and called one
    assert texts == {}


def test_a_head_that_is_a_copy_of_the_embedding_is_of_another_kind(tmp_path: Path) -> None:
    assert "copied" not in found(healthy(), tmp_path)
