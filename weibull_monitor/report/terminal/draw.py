"""A `View` as a frame of the terminal: as much as fits, the most important first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from weibull_monitor.history.alert import Alert, measured, short_name
from weibull_monitor.report.terminal.view import View

WIDE: Final = 120
"""Columns from which the table of kinds also has R² and a curve."""
ENDLESS: Final = 10**6
"""The height of a frame that is printed once."""
BLOCKS: Final = "▁▂▃▄▅▆▇█"
SEVERITY: Final = {"info": "cyan", "warning": "yellow", "error": "bold red"}
POSITION: Final = {"": "", "inside": "green", "just below": "cyan", "just above": "cyan"}
"""Outside is yellow, not red: every young model is there, and nothing is wrong with it."""


def sparkline(values: Sequence[float], width: int) -> str:
    """Values over time in ``width`` characters or fewer, between their lowest and their highest.

    >>> sparkline([1.0, 1.2, 1.4, 1.1], 10), sparkline([2.0, 2.0], 10), sparkline(range(16), 4)
    ('▁▄█▂', '▁▁', '▁▃▅█')
    """
    if len(values) > width:  # the last value of each stretch, so that the newest is shown
        values = [values[-(-(i + 1) * len(values) // width) - 1] for i in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = (high - low) or 1.0
    return "".join(BLOCKS[int((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def shortened(name: str, width: int) -> str:
    """A name in ``width`` characters or fewer: the middle goes, since both ends say what it is.

    >>> shortened("model.layers.17.self_attn.q_proj.weight", 24)
    'model.layer…_proj.weight'
    """
    tail = max(1, width // 2)
    return name if len(name) <= width else f"{name[: max(0, width - tail - 1)]}…{name[-tail:]}"


def ago(seconds: float) -> str:
    """A time span in words.

    >>> ago(3.2), ago(90), ago(4000), ago(200000)
    ('3 s ago', '1 min ago', '1 h 6 min ago', '2 days ago')
    """
    if seconds < 60:
        return f"{max(0, int(seconds))} s ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 2 * 86400:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min ago"
    return f"{int(seconds // 86400)} days ago"


def waiting(path: str, width: int) -> Any:
    """The frame while there is no history, or no sample in it."""
    from rich.text import Text

    return Text.assemble(("waiting for the first sample", "bold"), f"\n{shortened(path, width)}", no_wrap=True)


def draw(view: View, width: int, height: int = ENDLESS, now: float | None = None) -> Any:
    """A renderable of rich, at most ``height`` lines of ``width`` characters; ``now`` is Unix time, by default the clock's."""
    from rich.console import Group

    head = _head(view, width, time.time() if now is None else now, whole=height >= ENDLESS)
    alerts = [*view.standing, *view.recent]
    whole = height >= ENDLESS
    # Rows that are left once the head, the titles, and a row of each table are drawn. Alerts that stand take them first, to
    # a third, then kinds.
    room = height - len(head) - 1 - len(view.classes) - 3
    told = min(len(view.standing), max(1, room // 3)) if view.standing else 0
    rows: list[int] = []
    for wanted in (len(view.kinds), len(view.suspects), len(alerts)):
        left = room - (1 - len(rows)) - max(1, told) if len(rows) < 2 else room
        rows.append(min(wanted, max(1, left)))
        room -= rows[-1]
    gap = [""] if room >= 4 else []
    return Group(
        *head,
        *gap,
        *_alerts(alerts, rows[2], len(view.standing), width, whole),
        *gap,
        *_suspects(view, rows[1], width),
        *gap,
        _classes(view, width),
        *gap,
        _kinds(view, rows[0], width),
    )


def _head(view: View, width: int, now: float, whole: bool) -> list[Any]:
    from rich.text import Text

    facts = [f"{view.samples:,} samples, the last {ago(now - view.time)}"]
    if view.cost is not None:
        share = f", {100 * view.share:.2g} % of the time" if view.share is not None else ""
        facts.append(f"{view.cost:.2g} s each{share}")
    if view.t_over_tau is not None:
        facts.append(f"S = Σηλ_wd {view.t_over_tau:.3g}")
    if view.attention is not None:
        facts.append(f"scale of attention {view.attention[0]:.3g}, highest {view.attention[1]:.3g}")
    if view.updates is not None:
        facts.append(f"last step {100 * view.updates[0]:.2g} % of a matrix, at most {100 * view.updates[1]:.2g} %")
    step = Text(f"step {view.step:,}", style="bold", no_wrap=True)
    if view.total_steps:
        done = min(1.0, view.step / view.total_steps)
        step.append(f" of {view.total_steps:,} ", style="not bold")
        bar = max(10, min(60, width - len(step) - 8))
        step.append("━" * round(done * bar), style="green")
        step.append("─" * (bar - round(done * bar)), style="dim not bold")
        step.append(f" {100 * done:.0f} %", style="not bold")
    return [
        Text.assemble(("weibull-monitor ", "bold"), shortened(view.path, max(10, width - 16)), no_wrap=True),
        Text(view.model, style="dim", no_wrap=not whole, overflow="fold" if whole else "ellipsis"),
        step,
        Text(" · ".join(facts), no_wrap=not whole, overflow="fold" if whole else "ellipsis"),
    ]


def _table(left: str, *names: str) -> Any:
    """A table whose columns are aligned to the right, but for the first and those whose names begin with a space."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column(left, no_wrap=True)
    for name in names:
        table.add_column(name.strip(), justify="left" if name.startswith(" ") else "right", no_wrap=True)
    return table


def _classes(view: View, width: int) -> Any:
    from rich.text import Text

    table = _table("class", "k now", "published", " ", "drift", " k since the start")
    for line in view.classes:
        where = Text(line.position, style=POSITION.get(line.position, "yellow"))
        trend = Text(sparkline(line.trend, max(8, min(60, width - 62))), style="cyan")
        table.add_row(line.name, f"{line.k:.4f}", line.published or "–", where, f"{100 * line.drift:+.2f} %", trend)
    return table


def _kinds(view: View, shown: int, width: int) -> Any:
    from rich.text import Text

    wide = width >= WIDE
    more = ["R² lowest", " k since the start"] if wide else []
    end = "λ at the end" if wide else "λ at end"
    title = _more("kind", len(view.kinds) - shown)
    table = _table(title, "n", "k start", "k now", "drift", "± s.e.", "λ now", "growth", end, *more)
    for line in view.kinds[:shown]:
        kind, _, n, start, now, drift, se, _, scale, growth = (
            cell.replace(" %", "%").replace("× ", "×") for cell in line.cells
        )
        cells: list[Any] = [shortened(kind, 14), n, start, now, drift, se, scale, growth]
        value, low, high = line.forecast or (0.0, 0.0, 0.0)
        span = f"{low:.3g}–{high:.3g}"
        cells.append((f"{value:.4g} ({span})" if wide else span) if line.forecast else "–")
        if wide:
            cells += ["–" if line.r2 is None else f"{line.r2:.4f}"]
            cells += [Text(sparkline(line.trend, max(8, min(40, width - 108))), style="cyan")]
        table.add_row(*cells)
    return table


def _more(title: str, hidden: int) -> str:
    return f"{title} (+{hidden} more)" if hidden > 0 else title


def _suspects(view: View, shown: int, width: int) -> list[Any]:
    from rich.text import Text

    if not view.suspects:
        return []
    title, suspects = _more("worst components", len(view.suspects) - shown), view.suspects[:shown]
    room = width - 18  # for name and reason
    name = min(
        max(len(_component(s.name, ENDLESS)) for s in suspects), max(32, room - max(len(s.why) for s in suspects))
    )
    table = _table(title, "k", "R²", " why")
    for n, s in enumerate(suspects):
        why = Text(s.why, style="yellow" if n < view.odd else "dim", overflow="ellipsis")
        why.truncate(max(10, room - max(name, len(title))), overflow="ellipsis")
        table.add_row(_component(s.name, name), f"{s.k:.4f}", f"{s.r2:.4f}", why)
    return [table]


def _alerts(alerts: Sequence[Alert], shown: int, standing: int, width: int, whole: bool) -> list[Any]:
    from rich.text import Text

    if not alerts:
        return [Text("no alerts", style="green")]
    title = f"alerts: {standing} active" if standing else "alerts: none active"
    lines = [Text(_more(title, len(alerts) - shown), style="bold underline", no_wrap=True)]
    for n, alert in enumerate(alerts[:shown]):
        finding = alert.finding
        active = n < standing
        mark = f"{finding.severity} {finding.rule}" if active else f"cleared: {finding.rule}"
        text = alert.text if whole else _short(alert, width)
        style = SEVERITY[finding.severity] if active else "dim"
        lines.append(Text.assemble((f"{mark}  ", style), text, no_wrap=not whole, overflow="ellipsis"))
    return lines


def _short(alert: Alert, width: int) -> str:
    """An alert in one line: the number first, then the name."""
    finding = alert.finding
    more = f" and {finding.count - 1} more" if finding.count > 1 else ""
    number = f"{measured(finding, 4)}, " if finding.value is not None else ""
    return f"step {alert.step}: {number}{_component(finding.component, max(24, width // 3))}{more}"


def _component(name: str, width: int) -> str:
    """A component's name in ``width`` characters or fewer: the block and the end, which says what it is, stay the longest.

    >>> name = "model.language_model.layers.17.self_attn.q_proj.weight"
    >>> _component(name, 60), _component(name, 33), _component(name, 20), _component(name, 10)
    ('language_model.layers.17.self_attn.q_proj', 'layers.17.self_attn.q_proj', 'layers.17…q_proj', '17…q_proj')
    >>> _component("model.layers.3.mlp.experts.12.up_proj.weight[head 2]", 28)
    'layers.3…12.up_proj[head 2]'
    """
    name = short_name(name).replace(".weight[", "[")
    if len(name) <= width:
        return name
    parts = name.split(".")
    block = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    if block is None:
        return shortened(name, width)
    heads = [".".join(parts[max(0, block - 1) : block + 1]), parts[block]]
    tails = [".".join(parts[start:]) for start in range(block + 1, len(parts))]
    found = [".".join(parts[max(0, block - 1) :]), *(f"{head}…{tail}" for head in heads for tail in tails)]
    return next((text for text in found if len(text) <= width), shortened(name, width))
