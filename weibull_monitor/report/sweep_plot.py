"""The picture of a sweep: λ against √(η/λ_wd) on the left, the λ grown in training against √I on the right.

Both axes are logarithmic, so that lines through the origin are parallel and the scatter about them is that of the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from weibull_monitor.analysis.sweep import Regression, Sweep, SweepGroup
from weibull_monitor.errors import ConfigurationError, MissingDependencyError

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
"""Distinguishable with every kind of colour vision (M. Okabe, K. Ito)."""
_MARKERS: Final = "osD^vPX"


def draw(sweep: Sweep, path: str | Path, kinds: Sequence[str] = ()) -> None:
    """Draws the picture and writes it to a file.

    Args:
        sweep: The result of `compare_runs`.
        path: A file name with an ending that matplotlib knows: ``.png``, ``.svg``, ``.pdf``.
        kinds: The kinds to show; by default the two classes.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        ConfigurationError: If matplotlib does not know the ending of the file name.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "report") from error
    shown = [g for g in (*sweep.classes, *sweep.kinds) if g.name in kinds] if kinds else list(sweep.classes)
    shown = shown or list(sweep.kinds)
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    if Path(path).suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise ConfigurationError(f"{path} does not end like a picture; name a .png, .svg or .pdf")
    left, right = figure.subplots(1, 2)
    for i, one in enumerate(shown):
        style = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        plain = [(e.plain, e.lambda_) for e in one.ends if e.plain is not None]
        _scatter(left, plain, one, one.plain, style)
        effective = [(e.effective, e.grown) for e in one.ends if e.effective is not None and e.grown is not None]
        _scatter(right, effective, one, one.effective, style)
    _dress(left, "plain: the law for long runs at a constant rate", "√(η/λ_wd)", "λ at the end")
    _dress(right, "effective: with the schedule and the start in it", "√I", "√(λ² − λ₀²·exp(−2S))")
    runs = len({end.run for one in shown for end in one.ends})
    figure.suptitle(f"Weibull scale λ of {runs} runs: one point per run, median over the matrices", fontsize=12)
    figure.savefig(path, dpi=150)


def _scatter(
    axes: Any, points: Sequence[tuple[float, float]], one: SweepGroup, line: Regression | None, style: dict[str, Any]
) -> None:
    if not points or line is None:
        return
    spread = f", CV {100 * line.cv:.0f} %" if line.cv is not None else ""
    r = f", r = {line.r:.2f}" if line.r is not None else ""
    label = f"{one.name}: slope {line.slope:.3g}{r}{spread}"
    axes.scatter([x for x, _ in points], [y for _, y in points], s=46, alpha=0.85, linewidths=0, label=label, **style)
    ends = [0.8 * min(x for x, _ in points), 1.25 * max(x for x, _ in points)]
    axes.plot(ends, [line.slope * x for x in ends], color=style["color"], linewidth=1.3)
    if line.low is not None and line.high is not None and line.low > 0:
        low, high = [line.low * x for x in ends], [line.high * x for x in ends]
        axes.fill_between(ends, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _dress(axes: Any, title: str, x: str, y: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper left")
