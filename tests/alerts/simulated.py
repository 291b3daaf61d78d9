"""Recorded samples of runs that never were: columns that move as healthy ones do, for a test to break."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from weibull_monitor.alerts import AlertSettings, replay
from weibull_monitor.alerts.samples import READ
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.history.alert import Alert
from weibull_monitor.model.components import Component

KINDS = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")
SIDE = 256
SCALES = ("lambda", "rms", "largest")
"""The columns that a factor multiplies."""
Columns = dict[str, np.ndarray]
ATTENTION = {"tower": "model.layers", "sharing": "GQA", "qk_norm": False, "fused": False, "cross": False}


@dataclass(frozen=True)
class Sample:
    """What a history holds of one sample."""

    step: int
    components: tuple[Component, ...]
    columns: Mapping[str, tuple[float | None, ...]]
    withheld: Mapping[str, int] = field(default_factory=dict)


def component(block: int, kind: str, **different: Any) -> Component:
    name = f"model.layers.{block}.{kind}.weight"
    given: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "block": block,
        "expert": None,
        "cross": False,
        "shape": (SIDE, SIDE),
        "dtype": torch.float32,
        "trainable": True,
        "parameter": name,
        "tower": "model.layers",
    }
    return Component(**given | different)


def components(blocks: int = 4) -> tuple[Component, ...]:
    return tuple(component(block, kind) for block in range(blocks) for kind in KINDS)


def healthy(samples: int = 24, blocks: int = 4, every: int = 10, seed: int = 0, eta: float = 1e-3) -> list[Columns]:
    """Columns of each sample: k falls slowly from the anchor, λ grows by a per cent or so a sample."""
    chance, size = np.random.default_rng(seed), blocks * len(KINDS)
    error = 1.137 * 1.2054 / SIDE
    k = 1.2054 + error * chance.standard_normal(size)
    log_scale = np.log(0.018) + 0.003 * chance.standard_normal(size)
    out = []
    for n in range(samples):
        if n:
            k = k - 5e-4 + 0.1 * error * chance.standard_normal(size)
            log_scale = log_scale + 0.01 + 1e-3 * chance.standard_normal(size)
        scale, full = np.exp(log_scale), np.ones(size)
        out.append(
            {
                "k": k.copy(),
                "lambda": scale,
                "r2": 0.9977 + 1e-4 * chance.standard_normal(size),
                "k_se": error * full,
                "rms": scale / 0.887,
                "zeros": 0.0 * full,
                "nonfinite": 0.0 * full,
                "eta": eta * full if n else np.nan * full,
                "weight_decay": 0.1 * full if n else np.nan * full,
                "eta_sum": eta * every * n * full if n else np.nan * full,
                "update_max": 7.27 * full,
                "update_ratio": 0.25 * eta / (scale / 0.887) if n else np.nan * full,
                "element_max": 7.27 * full,
                "largest": 4.4 * scale / 0.887,
            }
        )
    return out


def scale_by(now: Columns, factor: float, of: Any = slice(None), largest: bool = True) -> None:
    """Multiplies matrices by a factor in one sample: all of them, or those of an index; with their largest value, or without."""
    for name in SCALES if largest else SCALES[:2]:
        now[name][of] *= factor


def samples_of(
    columns: Sequence[Columns],
    blocks: int = 4,
    every: int = 10,
    of: Any = None,
    withheld: Mapping[str, int] | None = None,
) -> list[Sample]:
    """As a history holds them: None for what there is not; ``withheld`` is the same in all of them."""
    chosen = of or components(blocks)
    return [
        Sample(
            n * every,
            chosen,
            {
                name: tuple(
                    None if not np.isfinite(v) else float(v) for v in now.get(name, np.full(len(chosen), np.nan))
                )
                for name in READ
            },
            withheld or {},
        )
        for n, now in enumerate(columns)
    ]


def window_of(samples: Sequence[Sample], attention: Mapping[str, Any] = ATTENTION) -> SampleWindow:
    window = SampleWindow([attention])
    for sample in samples:
        window.push(sample)
    return window


def window_in(columns: Sequence[Columns], attention: Mapping[str, Any] = ATTENTION, **options: Any) -> SampleWindow:
    """The window after these columns."""
    return window_of(samples_of(columns, **options), attention)


def alerts_in(
    columns: Sequence[Columns],
    rule: str = "",
    settings: AlertSettings | None = None,
    attention: Mapping[str, Any] = ATTENTION,
    **options: Any,
) -> list[Alert]:
    """The alerts of these columns, infos included: those of one rule, or all of them."""
    found = replay(samples_of(columns, **options), settings, [attention])
    return [alert for alert in found if rule in ("", alert.finding.rule)]


def begun_in(columns: Sequence[Columns], rule: str = "", **options: Any) -> list[Alert]:
    """Those that begin."""
    return [alert for alert in alerts_in(columns, rule, **options) if alert.phase == "begins"]


def alerts_of(
    break_it: Callable[[list[Columns]], object] = lambda columns: None,
    settings: AlertSettings | None = None,
    attention: Mapping[str, Any] = ATTENTION,
    **options: Any,
) -> list[Alert]:
    """The alerts of a healthy run that something was done to; infos are left out."""
    columns = healthy(**options)
    break_it(columns)
    kept = {name: options[name] for name in ("blocks", "every") if name in options}
    found = alerts_in(columns, settings=settings, attention=attention, **kept)
    return [alert for alert in found if alert.finding.severity != "info"]


def index(block: int, kind: str) -> int:
    return block * len(KINDS) + KINDS.index(kind)


def watched(columns: list[Columns]) -> list[Columns]:
    """The same with what a watch of writes sees: steps of a tenth of η, and no write."""
    for n, now in enumerate(columns):
        full = np.ones_like(now["k"])
        now |= {"step_rms": (1e-4 if n else np.nan) * full, "written_after": np.nan * full}
        now |= {name: np.zeros(len(full)) for name in ("written", "written_rms", "state_written")}
    return columns


def written(
    columns: list[Columns], *members: int, at: int, rms: float = 0.005, after: float = 0.0, state: bool = False
) -> None:
    """Writes to some matrices, or to their optimizer's state, in the interval before sample ``at``."""
    for i in members:
        columns[at]["state_written" if state else "written"][i] += 1.0
        columns[at]["written_rms"][i] = 0.0 if state else rms
        columns[at]["written_after"][i] = after
