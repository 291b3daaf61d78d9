"""The effective error of k against fits of blocks of rows and columns, and what a verdict makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from weibull_monitor import fit_weibull
from weibull_monitor.analysis.sample import compared_sample
from weibull_monitor.checkpoint.scan import scan_all

GENERATOR = torch.Generator().manual_seed(0)


def correlated(spread: float, size: int = 512) -> Tensor:
    """Normal values whose rows have scales of their own."""
    scale = (spread * torch.randn(size, 1, generator=GENERATOR)).exp()
    return torch.randn(size, size, generator=GENERATOR) * scale


def by_blocks(w: Tensor, blocks: int = 32) -> float:
    """The standard error of k from fits of blocks of rows."""
    k = torch.tensor([fit.k for fit in fit_weibull([block.contiguous() for block in w.chunk(blocks)])])
    return float(k.std()) / math.sqrt(blocks)


@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_effective_error_is_that_of_blocks(tmp_path: Path, spread: float) -> None:
    w = correlated(spread)
    save_file({"layers.0.self_attn.q_proj.weight": w}, tmp_path / "model.safetensors")
    found = scan_all(tmp_path / "model.safetensors")
    (name,) = found.checkpoints[0].fits
    stated = found.checkpoints[0].fits[name].k_se
    sample = compared_sample(found.history)
    blocks = by_blocks(w)
    assert blocks > 1.5 * stated
    assert blocks / 2 < sample.k_error[name] < blocks * 2
    assert sample.k_se[name] == pytest.approx(stated)
    assert sample.medians()[0].se == pytest.approx(sample.k_error[name])


def test_independent_values_keep_their_error(tmp_path: Path) -> None:
    save_file(
        {"layers.0.self_attn.q_proj.weight": torch.randn(512, 512, generator=GENERATOR)}, tmp_path / "a.safetensors"
    )
    sample = compared_sample(scan_all(tmp_path / "a.safetensors").history)
    (name,) = sample.k
    assert sample.k_se[name] <= sample.k_error[name] < 1.6 * sample.k_se[name]
