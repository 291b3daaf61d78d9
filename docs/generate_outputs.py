"""Runs the commands whose output the documentation shows, and writes what they print into the pages.

python docs/generate_outputs.py            # all pages: five minutes on two cores
python docs/generate_outputs.py when.md    # one page; runs/pictures come from docs/generate_pictures.py

An output is between ``<!-- output: command -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OUTPUT = re.compile(r"(<!-- output: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
BAR = re.compile(r"it/s|s/it|\d+%\||train_runtime")
SHOWN = 12
"""Lines of a training's progress that are shown before its table."""


def with_outputs(page: str) -> str:
    """The page with the present output of its commands; each runs in the repository's root."""

    def fill(found: re.Match[str]) -> str:
        print(f"$ {found[2]}", flush=True)
        return f"{found[1]}\n```text\n{shortened(output_of(found[2]))}\n```\n\n{found[3]}"

    return OUTPUT.sub(fill, page)


def output_of(command: str) -> str:
    """What a command of this environment prints, standard error included: alerts and warnings of ours stand there."""
    quiet = {
        "OMP_NUM_THREADS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        shlex.split(command),
        cwd=ROOT,
        env=os.environ | quiet | {"PATH": path, "PYTHONUNBUFFERED": "1"},  # in the order in which it was printed
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout.replace(f"{ROOT}/", "")


def shortened(text: str) -> str:
    """Without the middle of a long progress report, and without control sequences for terminals.

    What the monitor itself says is never left out: lines that begin with ``weibull``.

    >>> lines = shortened("\\n".join([*map(str, range(30)), "weibull: dead: a", *map(str, range(30))])).split("\\n")
    >>> len(lines), "weibull: dead: a" in lines, lines.count("…")
    (15, True, 2)
    """
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()]
    table = next((i for i, line in enumerate(lines) if line.startswith("Weibull shape k")), 0)
    # Not what other libraries warn of, nor progress bars, which tell of the machine.
    progress = [line for line in lines[:table] if line and "[WARNING]" not in line and not BAR.search(line)]
    kept = {*range(SHOWN // 2), *range(len(progress) - SHOWN // 2, len(progress))}
    kept |= {i for i, line in enumerate(progress) if line.startswith("weibull")}
    if len(progress) > SHOWN:
        rows: list[str] = []
        for i, line in enumerate(progress):
            if i in kept:
                rows.append(line)
            elif rows[-1] != "…":
                rows.append("…")
        progress = rows
    return "\n".join([*progress, "", *lines[table:]]).strip()


def main() -> None:
    """Fills the pages named on the command line; all by default."""
    names = sys.argv[1:]
    for page in PAGES:
        if not names or any(str(page).endswith(name) for name in names):
            text = page.read_text(encoding="utf-8")
            if (filled := with_outputs(text)) != text:
                page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
