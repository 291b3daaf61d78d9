"""Writes the tables of docs/published.md from the package: the models, the ranges, and how far models of a type are apart.

python docs/generate_published.py            # into docs/published.md, between its markers
python docs/generate_published.py --print    # to standard output
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from pathlib import Path

from weibull_monitor.analysis import PUBLISHED, PublishedModel, expected_range
from weibull_monitor.analysis.expected import spread, spread_is_known
from weibull_monitor.analysis.published import AttentionKind

TARGET = Path(__file__).with_name("published.md")
TYPES: dict[AttentionKind, str] = {
    "mha": "MHA",
    "mha_qk_norm": "MHA, QK-norm",
    "gqa": "GQA",
    "fused": "MHA, fused",
}
KINDS = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")


def tables() -> dict[str, str]:
    """The tables by the name of their markers."""
    return {
        "models": models(),
        "gated": shapes([m for m in PUBLISHED if m.attention != "fused"], KINDS),
        "fused": shapes([m for m in PUBLISHED if m.attention == "fused"], ("attn_qkv", "attn_o", "ffn_in", "ffn_out")),
        "ranges": ranges(),
        "distances": distances(),
    }


def models() -> str:
    """Attention, size and hyper-parameters."""
    head = "| model | size | attention | heads q/kv | blocks | tokens | η_peak | λ_wd | steps | T/τ | known |"
    rows = [head, "|---|---|---|---|---|---|---|---|---|---|---|"]
    for m in PUBLISHED:
        heads = f"{m.query_heads}/{m.key_value_heads}" if m.query_heads else ""
        norm = ", QK-norm" if m.qk_norm and "QK-norm" not in TYPES[m.attention] else ""
        known = [
            f"{m.eta_peak:g}" if m.eta_peak else "",
            f"{m.weight_decay:g}" if m.weight_decay else "",
            f"{m.steps:,}" if m.steps else "",
            f"{m.peak_time:.3g}" if m.peak_time else "",
            m.confidence or "",
        ]
        cells = [m.name, m.size, TYPES[m.attention] + norm, heads, str(m.blocks), m.tokens, *known]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def shapes(of: list[PublishedModel], kinds: tuple[str, ...]) -> str:
    """k and λ by kind."""
    rows = [["model", *(f"`{kind}`" for kind in kinds)], ["---"] * (len(kinds) + 1)]
    rows += [[m.name, *(f"{m.k[kind]:.4f} · {m.lambda_[kind]:.4g}" for kind in kinds)] for m in of]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ranges() -> str:
    """Expected ranges and spreads of everything that has one."""
    rows = [
        "| kind or class | attention | published medians of k | models | sd between models of a type |",
        "|---|---|---|---|---|",
    ]
    asked: list[tuple[str, AttentionKind | None]] = [
        (kind, attention)
        for attention in ("mha", "gqa", "fused")
        for kind in ("selection", "attn_q", "attn_k", "attn_qkv", "attn_v", "attn_o")
    ]
    asked += [(kind, None) for kind in ("transmission", "ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out")]
    for of, attention in asked:
        if (found := expected_range(of, attention)) is not None:
            name = TYPES[attention] if attention else "any"
            like: frozenset[AttentionKind] = frozenset([attention] if attention else TYPES)
            known = attention != "mha" and (of in ("selection", "transmission") or spread_is_known(of, like))
            rows.append(f"| `{of}` | {name} | {found} | {found.models} | {found.spread:.4f}{'' if known else '†'} |")
    return "\n".join(rows)


def distances() -> str:
    """Distances between all pairs of one type, of matrices that are measured without error."""
    rows = ["| attention | pairs | nearest | median | furthest |", "|---|---|---|---|---|"]
    for attention in ("gqa", "fused"):
        of = [m for m in PUBLISHED if m.attention == attention]
        found = sorted((distance(a, b, attention), f"{a.name} and {b.name}") for a, b in itertools.combinations(of, 2))
        median = found[len(found) // 2][0]
        ends = [f"{found[i][0]:.2f} ({found[i][1]})" for i in (0, -1)]
        rows.append(f"| {TYPES[attention]} | {len(found)} | {ends[0]} | {median:.2f} | {ends[1]} |")
    return "\n".join(rows)


def distance(a: PublishedModel, b: PublishedModel, attention: AttentionKind) -> float:
    """As `nearest` has it."""
    z = [(a.k[kind] - b.k[kind]) / (math.sqrt(2) * spread(kind, frozenset([attention]))) for kind in a.k]
    return math.sqrt(sum(x * x for x in z) / len(z))


def filled(page: str) -> str:
    """The page with its tables as the package has them."""
    for name, table in tables().items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        page = re.sub(f"{begin}.*?{end}", lambda _, t=table, b=begin, e=end: f"{b}\n{t}\n{e}", page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        for name, table in tables().items():
            print(f"{name}\n\n{table}\n")
    else:
        TARGET.write_text(filled(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
