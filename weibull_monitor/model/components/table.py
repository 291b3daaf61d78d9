"""The table that a run begins with: kinds and numbers of matrices, what was not recognised and why, and what is skipped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from weibull_monitor.errors import counted
from weibull_monitor.model.components.component import CLASS_OF_KIND, Component, Discovery
from weibull_monitor.model.components.identify import WHY

EXAMPLES = 6
"""How many reasons are listed; the rest are counted together."""


def coverage(discovery: Discovery) -> float:
    """The share of the model's elements that are in measured matrices of any kind; 0 for an empty model."""
    measured = sum(component.numel for component in _stored(discovery))
    return min(1.0, measured / discovery.elements) if discovery.elements else 0.0


def render(discovery: Discovery) -> str:
    """The table as text.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover
    >>> print(render(discover(nn.TransformerEncoderLayer(64, 4, 256))))
    kind      class         matrices  parts  elements  known by
    attn_qkv  mixed                1      -    12,288  name
    attn_q    selection            -      1     4,096  name
    attn_k    selection            -      1     4,096  name
    attn_v    none                 -      1     4,096  name
    attn_o    transmission         1      -     4,096  name
    ffn_in    transmission         1      -    16,384  name
    ffn_out   transmission         1      -    16,384  name
    4 matrices hold 98.3 % of the model's 49,984 elements; 1.7 % are in vectors (biases, norms)
    """
    stored = _stored(discovery)
    if not discovery.components and not discovery.skipped:
        return "No weight matrix was found: the model has no parameter with two dimensions or more. Is it the right module?"
    lines = _kinds(discovery)
    share = f"{100 * coverage(discovery):.1f} %" if discovery.elements else "none"
    summary = f"{counted(len(stored), 'matrix holds', 'matrices hold')} {share} of the model's {discovery.elements:,} elements"
    if discovery.elements and discovery.vectors:
        summary += f"; {100 * discovery.vectors / discovery.elements:.1f} % are in vectors (biases, norms)"
    lines.append(summary)
    lines += _reasons(
        "other", [(c.why or "so named by the user", c.name, c.numel) for c in stored if c.kind == "other"]
    )
    lines += _reasons("skipped", [(s.reason, s.name, s.numel) for s in discovery.skipped])
    if discovery.problem:
        lines.append(f"no forward pass could be followed ({discovery.problem}): names decide where it did not come")
    lines += _advice(stored)
    return "\n".join(lines)


def _advice(stored: list[Component]) -> list[str]:
    """One line about matrices of attention and feed-forward blocks that nothing settled, with the option that would."""
    lost = [c for c in stored if c.kind == "other" and c.why in (WHY["attention"], WHY["ffn"])]
    if not lost:
        return []
    pattern = re.sub(r"\d+", r"\\d+", re.escape(lost[0].name)) + "$"
    more = f" and {len(lost) - 1} more" * (len(lost) > 1)
    return [
        f"not recognised in attention or feed-forward blocks: {lost[0].name}{more}; example_inputs= may settle it, and "
        f'kinds={{r"{pattern}": "attn_q"}}, with the right kind, will'
    ]


def _kinds(discovery: Discovery) -> list[str]:
    order = {kind: i for i, kind in enumerate(KIND_ORDER)}
    matrices: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    known: dict[str, Counter[str]] = {}
    for c in discovery.components:
        kinds[c.label] = c.kind
        known.setdefault(c.label, Counter())[c.evidence] += 1
        (matrices if c.part is None else parts)[c.label] += 1
        if c.part is None:
            elements[c.label] += c.numel
    for c in discovery.components:
        if c.part is not None and not matrices[c.label]:
            elements[c.label] += c.numel
    rows = [["kind", "class", "matrices", "parts", "elements", "known by"]]
    for label in sorted(kinds, key=lambda label: (order[kinds[label]], label)):
        counts = [f"{n:,}" if n else "-" for n in (matrices[label], parts[label], elements[label])]
        evidence = known[label]
        one = len(evidence) == 1
        shown = next(iter(evidence)) if one else ", ".join(f"{e} {n:,}" for e, n in evidence.most_common())
        rows.append([label, CLASS_OF_KIND[kinds[label]], *counts, shown])
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return [
        "  ".join(
            cell.rjust(w) if 1 < i < 5 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _reasons(title: str, entries: list[tuple[str, str, int]]) -> list[str]:
    by_reason: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for reason, name, numel in entries:
        by_reason[reason].append((name, numel))
    lines = []
    for n, (reason, found) in enumerate(sorted(by_reason.items(), key=lambda item: -sum(size for _, size in item[1]))):
        if n == EXAMPLES:
            rest = sum(len(f) for f in by_reason.values()) - sum(len(f) for f in list(by_reason.values())[:EXAMPLES])
            lines.append(f"{title}: {rest} more for other reasons")
            break
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        lines.append(f"{title}: {found[0][0]}{more} ({sum(size for _, size in found):,} elements): {reason}")
    return lines


def _stored(discovery: Discovery) -> list[Component]:
    return [component for component in discovery.components if component.part is None]


# fmt: off
KIND_ORDER = (
    "attn_qkv", "attn_qk", "attn_q", "attn_k", "attn_kv", "attn_v", "attn_q_a", "attn_q_b", "attn_kv_a", "attn_kv_b", "attn_gate",
    "attn_o", "ffn_gate_up", "ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out", "router", "mixer", "embedding", "lm_head",
    "adapter_a", "adapter_b", "adapter", "other",
)
# fmt: on
"""The order in which kinds are listed."""
