"""The lines that `benchmarks/kinds.py` prints, and the page of the documentation that it writes."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kinds_parts.judge import Verdict

SOURCES: Final = {
    "nanoGPT": "karpathy/nanoGPT",
    "nanochat": "karpathy/nanochat",
    "modded-nanogpt": "KellerJordan/modded-nanogpt",
    "litgpt": "Lightning-AI/litgpt",
    "OLMo": "allenai/OLMo",
    "OLMo-core": "allenai/OLMo-core",
    "gpt-neox": "EleutherAI/gpt-neox",
    "Megatron-LM": "NVIDIA/Megatron-LM",
    "torchtitan": "pytorch/torchtitan",
    "lingua": "facebookresearch/lingua",
    "DiT": "facebookresearch/DiT",
    "whisper": "openai-whisper",
    "x-transformers": "x-transformers",
    "open_clip": "open_clip_torch",
    "timm": "timm",
    "diffusers": "diffusers",
    "transformers": "transformers",
}
"""Where each code base comes from: a repository on GitHub, or a package on PyPI."""


def version(name: str, foreign: Path) -> str:
    """The commit of a checkout (of its `.commit` file where it has no history), or the version of a package."""
    source = SOURCES[name]
    if "/" not in source:
        return importlib.metadata.version(source)
    noted = foreign / name / ".commit"
    if noted.is_file():
        return noted.read_text().split()[0][:8]
    run = subprocess.run(
        ["git", "-C", str(foreign / name), "rev-parse", "--short=8", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "?"


def line(name: str, version: str, verdict: Verdict) -> str:
    """One line of plain text about a code base."""
    evidence = ", ".join(f"{count} by {kind}" for kind, count in verdict.evidence.most_common())
    return (
        f"{name} {version}: {verdict.models} models, {verdict.matrices} matrices, {verdict.right} right, {verdict.other} other, "
        f"{len(verdict.wrong)} WRONG; heads {verdict.heads_right} of {verdict.heads}; {evidence}; {verdict.seconds:.1f} s; "
        f"{len(verdict.unlabelled)} without a label, {len(verdict.problems)} problems"
    )


HEADER = """\
# Are the kinds right?

Every attention and feed-forward matrix of small models of other code bases, and of every model type of transformers that can be
built, compared with a label that was made without the tables and without the forward pass of this package: by hand from the
code for code bases, and from the source of each module's `forward` for transformers.

```
python benchmarks/kinds.py --foreign DIR --markdown docs/kinds.md
```

DIR holds checkouts; packages are those that are installed. Fused storage counts as the matrices that it holds: it is right if
every one has exactly its rows. *Heads* are the matrices whose number of heads is known, and how many of them were cut so.
*Evidence* counts what kinds rest on: the forward pass (use) or names.

| code base | version | models | matrices | right | other | wrong | heads | by use | by name | seconds |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""


def page(verdicts: Mapping[str, tuple[str, Verdict]]) -> str:
    """The page of the documentation."""
    out = [HEADER]
    total = Verdict()
    for name, (version, verdict) in verdicts.items():
        total.add(verdict)
        out.append(_row(f"[{name}]({_link(name)})", f"`{version}`", verdict))
    out.append(_row("**all**", "", total))
    sorts = (
        ("wrong", "Wrong", "A wrong kind is a fault of this package, or of the label."),
        ("missed", "Not recognised", "These are measured as `other`, or whole where they hold several matrices."),
    )
    for attribute, title, note in sorts:
        lines = [(name, fault) for name, (_, v) in verdicts.items() for fault in getattr(v, attribute)]
        out.append(f"\n## {title}\n\n{note}\n\n" if lines else "")
        out += [f"- {name}: {fault.replace('|', ' ')}\n" for name, fault in lines[:200]]
        if len(lines) > 200:
            out.append(f"- and {len(lines) - 200} more\n")
    return "".join(out)


def _link(name: str) -> str:
    source = SOURCES[name]
    return f"https://github.com/{source}" if "/" in source else f"https://pypi.org/project/{source}/"


def _row(name: str, version: str, v: Verdict) -> str:
    heads = f"{v.heads_right}/{v.heads}" if v.heads else "–"
    cells = (name, version, v.models, f"{v.matrices:,}", f"{v.right:,}", v.other, len(v.wrong), heads)
    cells += (f"{v.evidence.get('use', 0):,}", f"{v.evidence.get('name', 0):,}", f"{v.seconds:.1f}")
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"
