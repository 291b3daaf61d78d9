"""The comparison of several runs as a table of text."""

from __future__ import annotations

from weibull_monitor.analysis.sweep import Regression, Sweep
from weibull_monitor.report.text.table import aligned, plain


def render(sweep: Sweep) -> str:
    """The comparison as two tables side by side, about 110 columns wide."""
    groups = [*sweep.classes, *sweep.kinds]
    rules = (1, 1 + len(sweep.classes))
    left = [["", "runs", "r", "slope", "95 %", "CV"], *([g.name, *_cells(g.plain)] for g in groups)]
    right = [["runs", "r", "slope = c", "95 %", "CV"], *(_cells(g.effective) for g in groups)]
    halves = [plain(aligned(left, range(1, 6), rules)).split("\n"), plain(aligned(right, range(5), rules)).split("\n")]
    names = max(len(g.name) for g in groups) if groups else 0
    title = "λ against √(η/λ_wd)".center(len(halves[0][0]) - names).rjust(len(halves[0][0]))
    title += "  " + "grown λ against √I".center(len(halves[1][0]))
    lines = [("──" if a.startswith("─") else "  ").join((a, b)) for a, b in zip(*halves, strict=True)]
    left_out = [f"left out: {name}: {reason}" for name, reason in sweep.left_out.items()]
    return "\n".join([title.rstrip(), *lines, *left_out])


def _cells(line: Regression | None) -> list[str]:
    if line is None:
        return ["–"] * 5
    interval = f"[{line.low:.4f}, {line.high:.4f}]" if line.low is not None and line.high is not None else "–"
    spread = f"{100 * line.cv:.1f} %" if line.cv is not None else "–"
    return [str(line.n), f"{line.r:.3f}" if line.r is not None else "–", f"{line.slope:.4f}", interval, spread]
