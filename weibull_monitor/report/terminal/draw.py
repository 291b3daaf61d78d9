"""A `View` as a frame of the terminal: as much as fits, the most important first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from weibull_monitor.history.alert import Alert
from weibull_monitor.report.terminal.view import ClassLine, KindLine, Suspect, View

WIDE: Final = 120
"""Columns from which the table of kinds has all that there is."""
ENDLESS: Final = 10**6
"""The height of a frame that is printed once."""
BLOCKS: Final = "▁▂▃▄▅▆▇█"
SEVERITY: Final = {"info": "cyan", "warning": "yellow", "error": "bold red"}
POSITION: Final = {"inside": "green", "just below": "cyan", "just above": "cyan"}
"""Outside is yellow and no more: a young model is there, and nothing is wrong with it."""


def sparkline(values: Sequence[float], width: int) -> str:
    """Values over time in ``width`` characters or fewer, between their lowest and their highest.

    >>> sparkline([1.0, 1.2, 1.4, 1.1], 10), sparkline([2.0, 2.0], 10), sparkline(range(16), 4)
    ('▁▄█▂', '▁▁', '▁▃▅█')
    """
    if len(values) > width:  # the last value of each stretch, so that the newest is shown
        values = [values[-(-(i + 1) * len(values) // width) - 1] for i in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high <= low:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[int((value - low) / (high - low) * (len(BLOCKS) - 1))] for value in values)


def shortened(name: str, width: int) -> str:
    """A name in no more than ``width`` characters: the middle goes, since both ends tell what it is.

    >>> shortened("model.layers.17.self_attn.q_proj.weight", 24)
    'model.layer…_proj.weight'
    >>> shortened("lm_head.weight", 24)
    'lm_head.weight'
    """
    if len(name) <= width:
        return name
    if width < 3:
        return name[:width]
    tail = width // 2
    return f"{name[: width - tail - 1]}…{name[-tail:]}"


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
    """A renderable of rich, no higher than ``height`` lines of ``width`` characters.

    Args:
        view: What to show.
        width: Columns of the terminal.
        height: Lines of the terminal.
        now: Unix time; that of the clock by default.
    """
    from rich.console import Group

    head = _head(view, width, time.time() if now is None else now)
    alerts = [*view.standing, *view.recent]
    fixed = len(head) + 1 + len(view.classes)
    # Lines that the sections need at least: their titles, one suspect, one alert.
    room = height - fixed - 1 - 2 - 2
    kinds = max(1, min(len(view.kinds), room))
    room -= kinds
    suspects = min(len(view.suspects), 1 + max(0, room))
    room -= max(0, suspects - 1)
    told = min(len(alerts), 1 + max(0, room))
    room -= max(0, told - 1)
    gap = [""] if room >= 4 else []
    parts = [
        *head,
        *gap,
        _classes(view.classes, width),
        *gap,
        _kinds(view.kinds[:kinds], width, len(view.kinds) - kinds),
        *gap,
        *_suspects(view.suspects, suspects, width),
        *gap,
        *_alerts(alerts, told, len(view.standing), width, whole=height >= ENDLESS),
    ]
    return Group(*parts)


def _head(view: View, width: int, now: float) -> list[Any]:
    from rich.text import Text

    place = Text.assemble(("weibull-monitor ", "bold"), shortened(view.path, max(10, width - 16)), no_wrap=True)
    model = Text(view.model if len(view.model) <= width else _cut(view.model, width), style="dim", no_wrap=True)
    facts = [f"{view.samples:,} samples, the last {ago(now - view.time)}"]
    if view.cost is not None:
        share = f", {100 * view.share:.2g} % of the time" if view.share is not None else ""
        facts.append(f"{view.cost:.2g} s a sample{share}")
    if view.t_over_tau is not None:
        facts.append(f"S = Σηλ_wd {view.t_over_tau:.3g}")
    step = Text(f"step {view.step:,}", style="bold", no_wrap=True)
    if view.total_steps:
        done = min(1.0, view.step / view.total_steps)
        step.append(f" of {view.total_steps:,} ", style="not bold")
        bar = max(10, min(60, width - len(step) - 8))
        step.append("━" * round(done * bar), style="green")
        step.append("─" * (bar - round(done * bar)), style="dim not bold")
        step.append(f" {100 * done:.0f} %", style="not bold")
    return [place, model, step, Text(shortened(" · ".join(facts), width), no_wrap=True)]


def _table(*columns: tuple[str, str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def _classes(lines: Sequence[ClassLine], width: int) -> Any:
    from rich.text import Text

    columns = [("class", "left"), ("k now", "right"), ("published", "right"), ("", "left"), ("drift", "right")]
    table = _table(*columns, ("k since the start", "left"))
    room = max(8, min(60, width - 62))
    for line in lines:
        where = Text(line.position, style=POSITION.get(line.position, "yellow" if line.position else ""))
        row = [line.name, f"{line.k:.4f}", line.published or "–", where, f"{100 * line.drift:+.2f} %"]
        table.add_row(*row, Text(sparkline(line.trend, room), style="cyan"))
    return table


def _kinds(lines: Sequence[KindLine], width: int, more: int) -> Any:
    from rich.text import Text

    wide = width >= WIDE
    title = f"kind (+{more} more)" if more else "kind"
    columns = [(title, "left"), *((name, "right") for name in ("n", "k start", "k now", "drift", "± s.e."))]
    columns += [("λ now", "right"), ("growth", "right"), ("λ at the end" if wide else "λ at end", "right")]
    if wide:
        columns += [("R² lowest", "right"), ("k since the start", "left")]
    table = _table(*columns)
    for line in lines:
        kind, _, n, start, now, drift, se, _, scale, growth = line.cells
        cells: list[Any] = [shortened(kind, 14), n, start, now, drift.replace(" %", "%"), se.replace(" %", "%")]
        cells += [scale, growth.replace("× ", "×"), _forecast(line, wide)]
        if wide:
            cells += ["–" if line.r2 is None else f"{line.r2:.4f}"]
            cells += [Text(sparkline(line.trend, max(8, min(40, width - 108))), style="cyan")]
        table.add_row(*cells)
    return table


def _forecast(line: KindLine, wide: bool) -> str:
    if line.forecast is None:
        return "–"
    value, low, high = line.forecast
    span = f"{low:.3g}–{high:.3g}"
    return f"{value:.4g} ({span})" if wide else span


def _suspects(suspects: Sequence[Suspect], shown: int, width: int) -> list[Any]:
    from rich.text import Text

    if not shown:
        return []
    more = f" (+{len(suspects) - shown} more)" if len(suspects) > shown else ""
    table = _table((f"worst components{more}", "left"), ("k", "right"), ("R²", "right"), ("why", "left"))
    room = width - 18  # for name and reason
    longest = max(len(s.name) for s in suspects[:shown])
    name = min(longest, max(32, room - max(len(s.why) for s in suspects[:shown])))
    for s in suspects[:shown]:
        why = Text(_cut(s.why, max(10, room - max(name, len(f"worst components{more}")))))
        why.stylize("yellow" if s.odd else "dim")
        table.add_row(_component(s.name, name), f"{s.k:.4f}", f"{s.r2:.4f}", why)
    return [table]


def _alerts(alerts: Sequence[Alert], shown: int, standing: int, width: int, whole: bool) -> list[Any]:
    from rich.text import Text

    if not alerts:
        return [Text("no alerts", style="green")]
    title = f"alerts: {standing} standing" if standing else "alerts: none standing"
    more = f" (+{len(alerts) - shown} more)" if len(alerts) > shown else ""
    lines = [Text(title + more, style="bold underline", no_wrap=True)]
    for place, alert in enumerate(alerts[:shown]):
        finding = alert.finding
        stands = place < standing
        style = SEVERITY[finding.severity] if stands else "dim"
        mark = f"{finding.severity} {finding.rule}" if stands else f"over: {finding.rule}"
        text = alert.text if whole else _cut(_short(alert, width), max(10, width - len(mark) - 2))
        lines.append(Text.assemble((f"{mark}  ", style), text, no_wrap=not whole))
    return lines


def _short(alert: Alert, width: int) -> str:
    """Where a line has to do: the number first, then the name."""
    finding = alert.finding
    more = f" and {finding.count - 1} more" if finding.count > 1 else ""
    number = f"{finding.quantity} {finding.value:.4g}, " if finding.value is not None else ""
    return f"step {alert.step}: {number}{_component(finding.component, max(24, width // 3))}{more}"


def _component(name: str, width: int) -> str:
    """What nearly all names end in goes first."""
    return name if len(name) <= width else shortened(name.removesuffix(".weight"), width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
