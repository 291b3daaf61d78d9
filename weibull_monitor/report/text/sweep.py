"""The comparison of several runs as a table of text."""

from __future__ import annotations

from weibull_monitor.analysis.sweep import Regression, Sweep


def render(sweep: Sweep) -> str:
    """The comparison as a table, about 110 columns wide."""
    head = ["", "runs", "r", "slope", "95 %", "CV", "runs", "r", "slope = c", "95 %", "CV"]
    rows = [head]
    for section in (sweep.classes, sweep.kinds):
        rows += [[g.name, *_cells(g.plain), *_cells(g.effective)] for g in section]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(_pad(cell, w, i) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]
    left, right = sum(widths[1:6]) + 8, sum(widths[6:]) + 8
    titles = " " * widths[0] + "  " + "λ against √(η/λ_wd)".center(left) + "  " + "grown λ against √I".center(right)
    rule = "─" * len(lines[0])
    body = lines[1:]
    body.insert(len(sweep.classes), rule)
    text = [titles.rstrip(), lines[0], rule, *body]
    return "\n".join(text + [f"left out: {name}: {reason}" for name, reason in sweep.left_out.items()])


def _cells(line: Regression | None) -> list[str]:
    if line is None:
        return ["–"] * 5
    interval = f"[{line.low:.4f}, {line.high:.4f}]" if line.low is not None and line.high is not None else "–"
    spread = f"{100 * line.cv:.1f} %" if line.cv is not None else "–"
    return [str(line.n), f"{line.r:.3f}" if line.r is not None else "–", f"{line.slope:.4f}", interval, spread]


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
