"""Pictures of what k and λ are."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pictures.palette import Palette
from pictures.style import save
from pictures.training import followed
from weibull_monitor import WeibullFit, fit_weibull
from weibull_monitor.analysis import PUBLISHED
from weibull_monitor.measure.weibull import F_HIGH, F_LOW, anchors
from weibull_monitor.model.components import CLASS_OF_KIND

BAND = (1.186, 1.204)
"""Medians of the feed-forward matrices of twelve published models (T. Ding, arXiv:2605.18898, 2026)."""


def mixture() -> torch.Tensor:
    """Two populations: 70 % normal with σ 0.02, 30 % normal with σ 0.0002."""
    draw = torch.Generator().manual_seed(0)
    return torch.cat([0.02 * torch.randn(700_000, generator=draw), 0.0002 * torch.randn(300_000, generator=draw)])


def histogram() -> None:
    """|w| of two matrices of the healthy run at its end, and the fitted densities."""
    run = followed()
    chosen = {
        "W_up of block 1": ("model.layers.1.mlp.up_proj.weight", "transmission"),
        "W_k of block 1": ("model.layers.1.self_attn.k_proj.weight", "selection"),
    }

    def draw(figure: Figure, palette: Palette) -> None:
        for axes, (title, (name, component_class)) in zip(figure.subplots(1, 2), chosen.items(), strict=True):
            body(axes, run.last[name], palette, palette.of(component_class))
            axes.set_title(f"{title}, after training")

    save("histogram", (8.4, 3.3), draw)


def body(axes: Axes, weights: torch.Tensor, palette: Palette, color: str) -> WeibullFit:
    """A histogram of |w|, and the density of its fit."""
    magnitudes, fit = weights.abs().flatten().numpy(), fit_weibull(weights)
    top = float(np.quantile(magnitudes, 0.998))
    axes.hist(magnitudes, bins=60, range=(0.0, top), density=True, color=color, alpha=0.35, label="|w|")
    x = np.linspace(top / 400, top, 200)
    scaled = x / fit.lambda_
    density = fit.k / fit.lambda_ * scaled ** (fit.k - 1) * np.exp(-(scaled**fit.k))
    axes.plot(x, density, color=color, label=f"Weibull k = {fit.k:.3f}, λ = {fit.lambda_:.4f}")
    axes.axvline(fit.lambda_, color=palette.ink, linewidth=0.9, linestyle=":")
    axes.annotate("λ", (fit.lambda_, axes.get_ylim()[1]), xytext=(4, -11), textcoords="offset points")
    axes.set(xlabel="|w| (as the weights)", ylabel="density", xlim=(0, top))
    axes.legend(loc="upper right")
    return fit


def plot(axes: Axes, weights: torch.Tensor, palette: Palette, color: str) -> WeibullFit:
    """The Weibull probability plot of a matrix: its quantiles, and the line through the middle 80 %."""
    magnitudes = np.sort(weights.abs().flatten().double().numpy())
    magnitudes, fit = magnitudes[magnitudes > 0], fit_weibull(weights)
    share = np.concatenate([[0.002, 0.005, 0.01, 0.02, 0.05], np.linspace(0.1, 0.9, 33), [0.95, 0.98, 0.99, 0.999]])
    x, y = np.log(np.quantile(magnitudes, share)), np.log(-np.log1p(-share))
    low, high = (math.log(-math.log1p(-f)) for f in (F_LOW, F_HIGH))
    axes.axhspan(low, high, color=palette.faint, alpha=0.45, linewidth=0)
    axes.scatter(x, y, s=16, color=color, linewidths=0, label="quantiles of |w|", zorder=3)
    ends = np.array([x.min(), x.max()])
    line = f"line: slope k = {fit.k:.3f}, R² = {fit.r2:.4f}"
    axes.plot(ends, fit.k * (ends - math.log(fit.lambda_)), color=palette.ink, linewidth=1.2, label=line)
    axes.plot(
        [math.log(fit.lambda_)], [0.0], "x", color=palette.alert, label="ln λ: where the line crosses 0", zorder=4
    )
    axes.set(xlabel="ln |w|", ylabel="ln(−ln(1 − F))", ylim=(y.min() - 0.4, y.max() + 0.4))
    axes.legend(loc="lower right", handletextpad=0.4)
    return fit


def probability_plot() -> None:
    """The plots of the two matrices of `histogram`."""
    run = followed()

    def draw(figure: Figure, palette: Palette) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        plot(left, run.last["model.layers.1.mlp.up_proj.weight"], palette, palette.transmission)
        left.set_title("W_up of block 1: the middle 80 % is the shaded part")
        plot(right, run.last["model.layers.1.self_attn.k_proj.weight"], palette, palette.selection)
        right.set_title("W_k of block 1")
        right.set_ylabel("")

    save("probability-plot", (8.8, 4.0), draw)


def two_populations() -> None:
    """A body of two populations: no single line goes through its plot."""
    weights = mixture()

    def draw(figure: Figure, palette: Palette) -> None:
        left, right = figure.subplots(1, 2)
        magnitudes = weights.abs().numpy()
        left.hist(np.log10(magnitudes[magnitudes > 1e-6]), bins=90, range=(-6, -1), color=palette.none, alpha=0.6)
        left.set(xlabel="log₁₀ |w|", ylabel="values", title="two populations, by size")
        plot(right, weights, palette, palette.none)
        right.set_title("… and their probability plot")

    save("two-populations", (8.8, 4.0), draw)


def anchor_values() -> None:
    """What k reads before any training, by initialisation, and its noise at 65,536 values."""
    names = {
        "normal": "normal",
        "truncated_normal_3": "normal, cut at ±3σ",
        "truncated_normal_2": "normal, cut at ±2σ",
        "uniform": "uniform (PyTorch's nn.Linear)",
        "laplace": "Laplace",
    }
    known = sorted(((anchors()[name], label) for name, label in names.items()), key=lambda pair: pair[0].k)

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.axvspan(*BAND, color=palette.transmission, alpha=0.2, linewidth=0, label="trained feed-forward matrices")
        k, noise = [a.k for a, _ in known], [2 * a.k * a.k_noise / 256 for a, _ in known]
        axes.errorbar(
            k, range(len(known)), xerr=noise, fmt="o", color=palette.ink, capsize=3, label="k ± 2 s.e. at 256 × 256"
        )
        for row, (a, _) in enumerate(known):
            axes.annotate(f"{a.k:.4f}", (a.k, row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
        axes.set_yticks(range(len(known)), [label for _, label in known])
        axes.set(xlabel="k", xlim=(0.95, 1.45), ylim=(-0.6, len(known) - 0.2))
        axes.legend(loc="lower right")

    save("anchors", (8.0, 3.2), draw)


def published() -> None:
    """Medians over the blocks of every published model, by kind."""
    kinds = ["attn_q", "attn_k", "attn_qkv", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out"]

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.axhspan(*BAND, color=palette.transmission, alpha=0.2, linewidth=0)
        axes.axhline(anchors()["normal"].k, color=palette.ink, linewidth=0.9, linestyle=":")
        axes.annotate("normal initialisation 1.2054", (-0.45, 1.212), fontsize=9)
        for column, kind in enumerate(kinds):
            values = [model.k[kind] for model in PUBLISHED if kind in model.k]
            spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
            component_class = CLASS_OF_KIND[kind]
            axes.scatter(
                column + np.array(spread), values, s=20, color=palette.of(component_class), alpha=0.85, linewidths=0
            )
        for component_class, label in (
            ("selection", "Selection"),
            ("transmission", "Transmission"),
            ("none", "neither, or fused"),
        ):
            axes.scatter([], [], s=20, color=palette.of(component_class), label=label)
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set(ylabel="k, median over the blocks", ylim=(0.72, 1.25), xlim=(-0.6, len(kinds) - 0.4))
        axes.annotate("OLMo-1: separate heads, no QK-norm", (1.25, 0.785), fontsize=9)
        axes.annotate("OLMo-2: with QK-norm", (1.25, 0.972), fontsize=9)
        axes.legend(loc="lower right")

    save("published", (8.8, 4.2), draw)


def classes(name: str = "classes", width: int = 96, blocks: int = 2) -> None:
    """k and λ of both classes in the healthy run."""
    history = followed(width, blocks).history
    shown = {
        c.name: c.component_class for c in history.components if c.component_class in ("selection", "transmission")
    }

    def draw(figure: Figure, palette: Palette) -> None:
        shape, scale = figure.subplots(1, 2)
        shape.axhspan(*BAND, color=palette.transmission, alpha=0.2, linewidth=0)
        shape.annotate("published Transmission", (history.snapshots[-1].step, 1.2045), ha="right", fontsize=9)
        for component_class in ("selection", "transmission"):
            names = [name for name, own in shown.items() if own == component_class]
            for axes, column in ((shape, "k"), (scale, "lambda")):
                points = [(s.step, [s.values(column)[n] for n in names]) for s in history.snapshots]
                steps, values = [step for step, _ in points], [v for _, v in points]
                color = palette.of(component_class)
                low, high = ([float(np.quantile(v, q)) for v in values] for q in (0.25, 0.75))
                axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
                axes.plot(
                    steps,
                    [median(v) for v in values],
                    color=color,
                    label=f"{component_class.capitalize()}, {len(names)} matrices",
                )
        shape.set(xlabel="optimizer step", ylabel="k: median and middle half")
        scale.set(xlabel="optimizer step", ylabel="λ (as the weights)")
        shape.legend(loc="lower left")

    save(name, (8.8, 3.6), draw)


def noise() -> None:
    """k of normal matrices of the same distribution, by size: what a change has to exceed."""
    draw_of = torch.Generator().manual_seed(0)
    sides = (32, 64, 128, 256, 512, 1024)
    found = {n: [f.k for f in fit_weibull(list(torch.randn(60, n, n, generator=draw_of).unbind()))] for n in sides}
    anchor = anchors()["normal"]

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for n, values in found.items():
            spread = np.exp(np.linspace(-0.12, 0.12, len(values)))
            axes.scatter(n * spread, values, s=9, color=palette.none, alpha=0.7, linewidths=0)
        n = np.geomspace(26, 1250, 60)
        for sign in (-2, 2):
            bound = anchor.k * (1 + sign * anchor.k_noise / n)
            axes.plot(n, bound, color=palette.ink, linewidth=1.1, label="k ± 2·1.132·k/√n" if sign > 0 else None)
        axes.axhspan(*BAND, color=palette.transmission, alpha=0.25, linewidth=0, label="published Transmission band")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sides, [f"{n} × {n}" for n in sides])
        axes.set(xlabel="size of the matrix", ylabel="k of normal weights")
        axes.legend(loc="upper right")

    save("noise", (8.0, 3.6), draw)
