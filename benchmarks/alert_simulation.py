"""Simulated histories of healthy runs of large models, which no test machine can train: for the false alarms of the rules.

λ follows the scaling law, λ² = λ₀²·exp(-2S) + c²I, with a c of its own for every matrix that wanders slowly. k of W_q and W_k
falls to where trained models have it, when and by as much as each block does; other matrices stay near the anchor. On both lies
the sampling noise of the fit; of its value the share (u·Σ η/RMS)² is drawn anew from sample to sample, as the weights are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from weibull_monitor.alerts.samples import READ
from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.model.components import Component

KINDS = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")
FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Simulated:
    """A run.

    Attributes:
        name: What is special about it.
        blocks: Number of blocks, of seven matrices each.
        width: Width of the model; W_q has width² values.
        eta: Peak η.
        weight_decay: λ_wd.
        steps: Optimizer steps.
        every: Steps between samples, beside those at 1, 2, 4, … 64.
        schedule: ``cosine``, ``constant`` or ``restarts``, after a linear warm-up of 2 % of the steps.
        final_k: Where the median k of W_q and W_k ends.
        sharing: Kind of attention.
        start: Distribution at the start: ``normal`` or ``uniform``.
    """

    name: str
    blocks: int = 24
    width: int = 1024
    eta: float = 3e-4
    weight_decay: float = 0.1
    steps: int = 10_000
    every: int = 100
    schedule: str = "cosine"
    final_k: float = 1.13
    sharing: str = "GQA"
    start: str = "normal"

    @property
    def attention(self) -> dict[str, object]:
        """As a history's ``run`` line has it."""
        return {"tower": "layers", "sharing": self.sharing, "qk_norm": False, "fused": False, "cross": False}


RUNS = (
    Simulated("cosine, grouped"),
    Simulated("constant, separate, deep selection", schedule="constant", final_k=0.80, sharing="MHA"),
    Simulated("restarts", schedule="restarts"),
    Simulated("no decay", weight_decay=0.0),
    Simulated("wide", width=4096, eta=1.5e-4, blocks=32),
    Simulated("narrow, high rate", width=256, eta=2e-3),
    Simulated("uniform start", start="uniform", blocks=16),
    Simulated("sparse samples", every=1000, steps=100_000),
    Simulated("dense samples", every=10, steps=1_500),
    Simulated("strong decay", weight_decay=1.0, schedule="constant"),
)


def components(run: Simulated) -> tuple[Component, ...]:
    """The run's matrices."""
    made = []
    for block in range(run.blocks):
        for kind in KINDS:
            shape = (run.width, run.width * (4 if kind in FORWARD else 1))
            name = f"layers.{block}.{kind}.weight"
            made.append(Component(name, kind, block, None, False, shape, torch.bfloat16, True, name, tower="layers"))
    return tuple(made)


def rate(run: Simulated, step: np.ndarray) -> np.ndarray:
    """η of steps (from 1)."""
    warm = 0.02 * run.steps
    phase = np.clip((step - warm) / (run.steps - warm), 0.0, 1.0)
    if run.schedule == "restarts":
        after = 0.1 + 0.9 * 0.5 * (1 + np.cos(math.pi * (4 * phase % 1.0)))
    elif run.schedule == "constant":
        after = np.ones_like(phase)
    else:
        after = 0.1 + 0.9 * 0.5 * (1 + np.cos(math.pi * phase))
    return run.eta * np.where(step <= warm, step / warm, after)


def simulate(run: Simulated, seed: int) -> Iterator[RecordedSnapshot]:
    """The samples of a run, one after another."""
    chance, of = np.random.default_rng(seed), components(run)
    numel = np.array([c.numel for c in of], dtype=float)
    selects = np.array([c.component_class == "selection" for c in of])
    k_error = 1.137 * 1.2054 / np.sqrt(numel)
    sigma = 0.02 * np.where([c.kind in ("attn_o", "ffn_down") for c in of], 1 / math.sqrt(2 * run.blocks), 1.0)
    start_k, start_scale = (1.3751, 0.6074 * math.sqrt(3)) if run.start == "uniform" else (1.2054, 0.8875)
    # What each matrix will come to, how fast and when.
    target = np.where(
        selects, run.final_k + 0.05 * chance.standard_normal(len(of)), 1.195 + 0.004 * chance.standard_normal(len(of))
    )
    when, width = chance.uniform(0.02, 0.3, len(of)), chance.uniform(0.05, 0.4, len(of))
    c = chance.uniform(0.5, 0.9, len(of)) * 0.8875
    noise_k, noise_scale = chance.standard_normal(len(of)), chance.standard_normal(len(of))
    early = {2**n for n in range(7)}
    eta = rate(run, np.arange(1, run.steps + 1, dtype=float))
    integral = decay = path = 0.0
    before = 0
    scale_0 = start_scale * sigma
    scale = scale_0
    for step in sorted({0, *early, *range(run.every, run.steps + 1, run.every)}):
        for taken in eta[before:step]:
            spent = taken * run.weight_decay
            integral, decay, path = integral * math.exp(-2 * spent) + 2 * taken**2, decay + spent, path + taken
        if step:
            c = c * np.exp(0.003 * chance.standard_normal(len(of)))
            renewed = np.minimum(1.0, (0.3 * eta[before:step].sum() / (scale / 0.8875)) ** 2)
            fresh = chance.standard_normal((2, len(of)))
            noise_k = np.sqrt(1 - renewed) * noise_k + np.sqrt(renewed) * fresh[0]
            noise_scale = np.sqrt(1 - renewed) * noise_scale + np.sqrt(renewed) * fresh[1]
        before = step
        moved = 1 / (1 + np.exp(-(step / run.steps - when) / (0.2 * width)))
        begun = 1 / (1 + np.exp(when / (0.2 * width)))
        share = (moved - begun) / (1 - begun)
        scale = np.sqrt(scale_0**2 * math.exp(-2 * decay) + c**2 * integral)
        k = start_k + (target - start_k) * share + k_error * noise_k
        shown = scale * (1 + 0.863 / np.sqrt(numel) * noise_scale)
        given = {
            "k": k,
            "lambda": shown,
            "r2": 0.9977
            + 0.02 * (1.2054 - np.minimum(k, 1.2054)) * 0.1
            - 0.014 * (run.start == "uniform") * (1 - share),
            "k_se": k_error,
            "rms": shown / 0.8875,
            "zeros": np.zeros(len(of)),
            "nonfinite": np.zeros(len(of)),
            "eta": np.full(len(of), eta[step - 1] if step else np.nan),
            "weight_decay": np.full(len(of), run.weight_decay if step else np.nan),
            "eta_sum": np.full(len(of), path if step else np.nan),
            "update_max": np.full(len(of), 7.27),
            "update_ratio": np.full(len(of), np.nan),
        }
        unknown = np.full(len(of), math.nan)
        columns = {
            name: tuple(v if math.isfinite(v) else None for v in given.get(name, unknown).tolist()) for name in READ
        }
        yield RecordedSnapshot(step, 0.0, of, columns)
