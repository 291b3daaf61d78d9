"""A scan as text: what was read, k by block and kind, the diagnosis, drift along a trajectory, findings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from weibull_monitor.analysis import ExpectedRange
from weibull_monitor.analysis.diagnosis import Diagnosis, diagnose
from weibull_monitor.checkpoint.formats.locate import logged_rates
from weibull_monitor.checkpoint.scan import Checkpoint, Scan
from weibull_monitor.errors import ConfigurationError, visible
from weibull_monitor.history.record import RecordedSnapshot
from weibull_monitor.model.components import Component, representatives
from weibull_monitor.model.components.grid import grid_of
from weibull_monitor.report.kinds import by_kind
from weibull_monitor.report.text.deltas import delta_lines
from weibull_monitor.report.text.diagnosis import NEIGHBOURS, WIDTH, diagnosis_lines
from weibull_monitor.report.text.recovery import recovery_lines
from weibull_monitor.report.text.table import Line, Piece, aligned, joined, wrapped
from weibull_monitor.scaling.recovery import rates_at

ROWS: Final = 40
"""Rows of the table of blocks; where there are more blocks, neighbours share one."""
NEAR, FAR = 0.03, 0.10
"""Distances from the published range, as shares of its nearer end, at which the colour changes."""
ODD: Final = 16
"""Rows of the table of remarks."""
TREND: Final = 8
"""Checkpoints of a trajectory that are shown side by side."""


def render(
    scan: Scan, neighbours: int = NEIGHBOURS, weight_decay: float | None = None, learning_rate: float | None = None
) -> list[Line]:
    """The scan as lines, about 110 columns wide.

    Args:
        scan: The scan.
        neighbours: How many of the nearest published models are shown.
        weight_decay: λ_wd, for the alignment force along a trajectory; None for no such table.
        learning_rate: η, if it was constant; by default it is what the Trainer has logged beside the last checkpoint.
    """
    last = scan.checkpoints[-1]
    snapshot = scan.history.snapshots[-1]
    try:
        diagnosis: Diagnosis | None = diagnose(scan.history)
    except ConfigurationError:  # no matrix has a fit, and the findings say why
        diagnosis = None
    parts = [_head(scan)]
    if len(scan.checkpoints) > 1:
        parts.append(_trajectory(scan))
    if weight_decay is not None:
        parts.append(_recovered(scan, weight_decay, learning_rate))
    parts.append(_blocks(snapshot, diagnosis))
    parts.append(_other_kinds(snapshot, diagnosis))
    if diagnosis is not None and diagnosis.kinds:
        # A checkpoint knows no training time, and without a first checkpoint there is no growth either.
        growth = scan.history.baseline is not None and len(scan.checkpoints) > 1
        parts.append(diagnosis_lines(diagnosis, neighbours, step=scan.steps_known, clock=False, growth=growth))
    parts.append(delta_lines(snapshot, last.adapters.record))
    odd = {matrix.name for matrix in diagnosis.odd} if diagnosis else set()
    return joined([*parts, _remarks(last), _findings(scan.checkpoints, odd), _skipped(last)])


def styled(lines: Iterable[Line]) -> Any:
    """The lines as a `rich.text.Text`."""
    from rich.text import Text

    text = Text("\n", no_wrap=True, overflow="ignore").join(Text.assemble(*line) for line in lines)
    text.no_wrap, text.overflow = True, "ignore"
    return text


def _head(scan: Scan) -> list[Line]:
    lines: list[Line] = []
    model = scan.history.runs[-1].model
    for one in scan.checkpoints[:TREND]:
        step = f"step {one.step:,}" if scan.steps_known else f"number {one.step}"
        where = f"{step}: " if len(scan.checkpoints) > 1 or scan.steps_known else ""
        lines.append([(f"{where}{visible(str(one.source))}", "bold"), (f"  {one.format}, {_bytes(one.size)}", "dim")])
    if len(scan.checkpoints) > TREND:
        lines.append([(f"and {len(scan.checkpoints) - TREND} more", "dim")])
    last = scan.checkpoints[-1]
    stored = sum(c.part is None for c in last.components)
    kind = f"{model['class']}: " if model.get("class") else ""
    parts = len(last.components) - stored
    measured = f"{stored:,} matrices" + (f" and {parts:,} parts of them" if parts else "")
    share = f"{100 * last.coverage:.1f} % of {model['parameters']:,} elements"
    lines.append([(f"{kind}{measured} measured, {share}", "")])
    notes = dict.fromkeys(note for one in scan.checkpoints for note in one.notes)
    if len(scan.checkpoints) > 1 and not scan.steps_known:
        notes["the checkpoints do not say their steps, or two say the same: they are numbered"] = None
    return [*lines, *wrapped(notes, WIDTH, "dim")]


_Cell = tuple[float, ExpectedRange | None]
"""One k of the table of blocks, and the published range that it can be compared with."""
_Row = tuple[str, list[_Cell | None]]


def _blocks(snapshot: RecordedSnapshot, diagnosis: Diagnosis | None) -> list[Line]:
    """k by block and kind."""
    grid, values = grid_of(snapshot.components), snapshot.values("k")
    if not values:
        return []
    compared = {name for kind in diagnosis.kinds for name in kind.median.names} if diagnosis else set()
    # A column of one kind among several may have the end of a name after its kind.
    bands = [diagnosis.sample.expected(kind.partition(" ")[0]) if diagnosis else None for kind in grid.kinds]
    table: list[list[_Cell | None]] = [
        [
            None if k is None else (k, band if compared & set(names) else None)
            for k, names, band in zip(row, cells, bands, strict=True)
        ]
        for row, cells in zip(grid.values(values), grid.cells, strict=True)
    ]
    merged = max(1, -(-len(table) // ROWS))
    rows = _merged(grid.blocks, table, merged)
    kinds = [n for n in range(len(grid.kinds)) if any(row[n] for _, row in rows)]
    # Kinds that fit side by side: each takes its name or a range of nine characters, a mark, and two spaces.
    columns = (WIDTH - max(len(label) for label, _ in rows)) // (max(9, *map(len, grid.kinds)) + 3)
    columns = max(3, columns)
    lines = joined(_table(kinds[n : n + columns], grid.kinds, rows) for n in range(0, len(kinds), columns))
    legend: Line = [("k by block", "dim")]
    if any(cell and cell[1] for _, row in rows for cell in row):
        styles = {"inside": "green", "below ↓": "yellow", "far below ⇊": "bold red", "above ↑": "cyan"}
        legend = [("k by block; published:", "dim")]
        for n, (words, style) in enumerate(styles.items()):
            legend += [(", " if n else " ", "dim"), (words, style)]
        legend.append((" the models' medians", "dim"))
    shared = f"each row stands for {merged} blocks: the k furthest from the kind's median"
    return [*lines, legend, *([[(shared, "dim")]] if merged > 1 else [])]


def _merged(blocks: Sequence[str], table: Sequence[list[_Cell | None]], merged: int) -> list[_Row]:
    """Rows of so many blocks each: of every kind the k that is furthest from the kind's median."""
    middles = [median([cell[0] for cell in column if cell] or [0.0]) for column in zip(*table, strict=True)]
    rows: list[_Row] = []
    for n in range(0, len(table), merged):
        first, last = blocks[n], blocks[min(n + merged, len(blocks)) - 1]
        columns = zip(zip(*table[n : n + merged], strict=True), middles, strict=True)
        cells = [_furthest([cell for cell in column if cell], middle) for column, middle in columns]
        rows.append((first if first == last else f"{first}–{last.rpartition(' ')[2]}", cells))
    return rows


def _furthest(cells: Sequence[_Cell], middle: float) -> _Cell | None:
    return max(cells, key=lambda cell: abs(cell[0] - middle), default=None)


def _table(kinds: Sequence[int], names: Sequence[str], rows: Sequence[_Row]) -> list[Line]:
    """The columns of some kinds."""
    table: list[list[str | Piece]] = [["block", *(f"{names[n]} " for n in kinds)]]
    table += [[(label, "dim"), *(_shown(row[n]) for n in kinds)] for label, row in rows if any(row[n] for n in kinds)]
    bands = [next((cell[1] for _, row in rows if (cell := row[n]) and cell[1]), None) for n in kinds]
    if any(bands):
        table.append([("publ.", "dim"), *((f"{b.low:.2f}–{b.high:.2f} " if b else "– ", "dim") for b in bands)])
    return aligned(table, right=range(len(kinds) + 1))


def _shown(cell: _Cell | None) -> Piece:
    """A k with a mark and a colour that say where it lies relative to the published range."""
    if cell is None:
        return "· ", "dim"
    k, band = cell
    mark, style = " ", "green" if band else ""
    if band and k < band.low:
        away = 1.0 - k / band.low
        mark, style = ("⇊", "bold red") if away > FAR else ("↓", "yellow" if away <= NEAR else "orange1")
    elif band and k > band.high:
        mark, style = "↑", "cyan" if k / band.high - 1.0 <= NEAR else "bold cyan"
    return f"{k:.3f}{mark}", style


def _other_kinds(snapshot: RecordedSnapshot, diagnosis: Diagnosis | None) -> list[Line]:
    """The kinds that the diagnosis leaves out, since nothing is published for them: experts, other towers, embeddings."""
    known = {name for kind in diagnosis.kinds for name in kind.median.names} if diagnosis else set()
    columns = {name: snapshot.values(name) for name in ("k", "lambda", "r2")}
    groups: dict[str, list[Component]] = {}
    for c in representatives(snapshot.components):
        if c.name not in known and c.name in columns["k"] and c.name in columns["r2"]:
            groups.setdefault(f"{c.label}{', experts' if c.expert is not None else ''}", []).append(c)
    if not groups:
        return []
    rows = [["kind", "matrices", "k", "from", "to", "λ", "R² from"]]
    for label, members in groups.items():
        k = [columns["k"][c.name] for c in members]
        scale = median(columns["lambda"][c.name] for c in members)
        lowest = min(columns["r2"][c.name] for c in members)
        figures = (f"{median(k):.4f}", f"{min(k):.4f}", f"{max(k):.4f}", f"{scale:.3g}", f"{lowest:.3f}")
        rows.append([label, f"{len(members):,}", *figures])
    title = "kinds without published values:" if known else "by kind:"
    return [[(title, "dim")], *aligned(rows, right=range(1, 7))]


def _trajectory(scan: Scan) -> list[Line]:
    """Medians of k per kind at some of the checkpoints, and what k and λ have done from the first to the last."""
    snapshots = scan.history.snapshots
    count = min(TREND, len(snapshots))
    chosen = [snapshots[round(n * (len(snapshots) - 1) / (count - 1))] for n in range(count)]
    k, scale = [s.values("k") for s in chosen], [chosen[0].values("lambda"), chosen[-1].values("lambda")]
    title = "step" if scan.steps_known else "number"
    rows: list[list[str | Piece]] = [[title, *(f"{snapshot.step:,}" for snapshot in chosen), "drift", "λ"]]
    for kind, members in by_kind(chosen[-1].components).items():
        medians = [[by_name[c.name] for c in members if c.name in by_name] for by_name in k]
        drift, growth = _ratio(members, k[0], k[-1]), _ratio(members, *scale)
        moved = 100 * ((drift or 1.0) - 1.0)
        style = "" if abs(moved) < 1 else "yellow" if abs(moved) <= 30 else "red"
        ends: list[Piece] = [(f"{moved:+.1f} %" if drift else "", style), (f"× {growth:.3f}" if growth else "", "")]
        rows.append([kind, *(f"{median(found):.4f}" if found else "·" for found in medians), *ends])
    words = f"k: median; drift of k and growth of λ: median over the matrices, since the first of {len(snapshots)} checkpoints"
    return [*aligned(rows, right=range(1, count + 3)), [(words, "dim")]]


def _recovered(scan: Scan, weight_decay: float, learning_rate: float | None) -> list[Line]:
    """The alignment force, or why it is not there."""
    steps = [snapshot.step for snapshot in scan.history.snapshots]
    if not scan.steps_known:
        return [[("alignment: the steps of the checkpoints are not known", "dim")]]
    if learning_rate is not None:
        eta: list[float] | None = [learning_rate] * len(steps)
    else:
        eta = rates_at(steps, logged_rates(scan.checkpoints[-1].source))
    if eta is None:
        return [[("alignment: η is not known: there is no trainer_state.json with it; give --learning-rate", "dim")]]
    return recovery_lines(scan.history.snapshots, eta, weight_decay)


def _ratio(members: Sequence[Component], first: Mapping[str, float], last: Mapping[str, float]) -> float | None:
    """The median ratio of the values of matrices at the last and the first checkpoint."""
    both = [last[c.name] / first[c.name] for c in members if c.name in last and first.get(c.name)]
    return median(both) if both else None


def _remarks(last: Checkpoint) -> list[Line]:
    """What is odd about matrices; those of one kind with the same remarks share a row."""
    groups: dict[tuple[str, tuple[str, ...]], list[Component]] = {}
    for c in last.components:
        if texts := last.remarks.get(c.name):
            groups.setdefault((c.label, texts), []).append(c)
    if not groups:
        return []
    count = sum(map(len, groups.values()))
    lines: list[Line] = [[(f"remarks on {count:,} {'matrix' if count == 1 else 'matrices'}:", "bold")]]
    for (kind, texts), members in list(groups.items())[:ODD]:
        more = f" and {len(members) - 1:,} more" if len(members) > 1 else ""
        folded = textwrap.wrap(f"{visible(members[0].name)}{more} ({kind}): {'; '.join(texts)}", WIDTH - 4)
        lines += [[(("  " if n == 0 else "    ") + text, "")] for n, text in enumerate(folded)]
    if len(groups) > ODD:
        left = sum(len(members) for members in list(groups.values())[ODD:])
        lines.append([(f"  and {left:,} more, which --csv has", "dim")])
    return lines


def _findings(checkpoints: Sequence[Checkpoint], odd: set[str]) -> list[Line]:
    seen: dict[str, tuple[str, list[int]]] = {}
    for one in checkpoints:
        for finding in one.findings:
            if finding.rule != "no_single_shape" or not set(finding.names) <= odd:
                seen.setdefault(finding.text, (finding.severity, []))[1].append(one.step)
    if not seen:
        return []
    lines: list[Line] = [[("findings:", "bold")]]
    for text, (severity, steps) in seen.items():
        where = "" if len(checkpoints) == 1 else f" (step {steps[0]:,}" + (" and later)" if len(steps) > 1 else ")")
        style = "bold red" if severity == "error" else "yellow"
        folded = textwrap.wrap(f"{text}{where}", WIDTH - 11, break_long_words=False)
        lines.append([(f"  {severity:8} ", style), (folded[0], "")])
        lines += [[(" " * 11 + rest, "")] for rest in folded[1:]]
    return lines


def _skipped(last: Checkpoint) -> list[Line]:
    reasons: dict[str, list[str]] = {}
    for name, reason in last.skipped.items():
        reasons.setdefault(reason, []).append(name)
    texts = [
        f"{len(names)} skipped: {names[0]}{' and others' * (len(names) > 1)}: {reason}"
        for reason, names in reasons.items()
    ]
    more = [f"and others for {len(texts) - 6} more reasons"] if len(texts) > 6 else []
    return wrapped([*texts[:6], *more], WIDTH, "dim")


def _bytes(size: int) -> str:
    """A size in words: ``1.2 GB``."""
    power = min(4, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
