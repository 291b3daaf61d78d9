"""Runs other people's training scripts without and with the monitor, and says what that changed.

    python benchmarks/wild.py FOLDER ...                          # folders of code bases, or one that holds them
    python benchmarks/wild.py FOLDER --only nanoGPT trl           # these code bases, or scripts whose name contains this
    python benchmarks/wild.py FOLDER --markdown docs/wild.md      # writes the table into the page

A script is run as its authors wrote it, on the CPU, with a tiny model and made data, for a few dozen steps, in a temporary copy
of its code base: once as it is, once with the lines added that a user would add, and, where it can resume, once more from its own
checkpoint.
Nothing is downloaded. The entries are in ``wild_parts/``; a code base whose folder is not given is passed over.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the package of this tree, whatever else is installed

from wild_parts.hosts import HOSTS  # noqa: E402
from wild_parts.loops import LOOPS  # noqa: E402
from wild_parts.page import write  # noqa: E402
from wild_parts.script import Script  # noqa: E402

from weibull_monitor import read_history  # noqa: E402

SCRIPTS: Final = (*LOOPS, *HOSTS)
IGNORED: Final = shutil.ignore_patterns(".git", "*.ipynb", "*.png", "*.gif", "*.jpg")


@dataclass
class Found:
    """What running a script gave; the table has a row of it."""

    script: Script
    commit: str
    error: str = ""
    steps: int = 0
    losses: bool = False
    weights: bool = False
    random: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    plain: float = 0.0
    monitored: float = 0.0
    resumed: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="code bases, or parts of names of scripts"
    )
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the table into this page")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="time both runs N times, take the fastest")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work there, and leave everything in place")
    parser.add_argument("--python", default=sys.executable, help="the Python that has what the code bases need")
    options = parser.parse_args()
    if problem := installed(options.python):
        parser.error(problem)
    folders = {f.name: f for given in options.folders for f in (given, *given.iterdir()) if f.is_dir()}
    found = []
    for script in SCRIPTS:
        named = not options.only or any(n == script.folder or n in script.name for n in options.only)
        if script.folder in folders and named:
            found.append(tried(script, folders[script.folder].resolve(), options))
            print(line(found[-1]), flush=True)
            if options.markdown:
                write(options.markdown, found[-1])


def installed(python: str) -> str:
    """Why a Python would not run the package of this tree: the scripts import what is installed there."""
    asked = [python, "-c", "import weibull_monitor.integrations as found; print(found.__path__[0])"]
    answer = subprocess.run(
        asked, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir()
    ).stdout.strip()
    if answer == str(HERE.parent / "integrations"):
        return ""
    there = f"has the one of {Path(answer).parent}" if answer else "has none"
    return f"{python} needs weibull_monitor of this tree, and {there}: {python} -m pip install -e {HERE.parent}"


def tried(script: Script, folder: Path, options: argparse.Namespace) -> Found:
    """Runs a script in every way, and compares."""
    found = Found(script, commit(folder))
    work = Path(options.keep or tempfile.mkdtemp(prefix="wild-")) / f"{script.folder}-{SCRIPTS.index(script)}"
    try:
        missing = [name for name in script.needs if find_spec(name) is None]
        if missing:
            raise RuntimeError(f"needs {', '.join(missing)}")
        compared(script, folder, work, options, found)
    except Exception as error:
        found.error = f"{type(error).__name__}: {error}"
    finally:
        if not options.keep:
            shutil.rmtree(work.parent, ignore_errors=True)
    return found


def compared(script: Script, folder: Path, work: Path, options: argparse.Namespace, found: Found) -> None:
    shutil.rmtree(work, ignore_errors=True)
    plain, monitored = work / "plain", work / "monitored"
    part = "." if script.path else script.within  # a script that imports nothing of its code base is copied alone
    shutil.copytree(folder / part, plain / part, ignore=IGNORED)
    script.data(plain)
    for edit in script.setup:
        edit.apply(plain)
    shutil.copytree(plain, monitored)
    for edit in script.monitor:
        edit.apply(monitored)
    reports: dict[Path, list[dict[str, Any]]] = {plain: [], monitored: []}
    for i in range(options.repeat):
        for root in (plain, monitored):
            copy = root.with_name(f"{root.name}-{i}")
            shutil.copytree(root, copy)
            reports[root].append(run(script, copy, options.python, whole=True))
    before, after = reports[plain][0], reports[monitored][0]
    found.steps = before["steps"]
    found.losses = bool(before["losses"]) and before["losses"] == after["losses"]
    found.weights, found.random = before["weights"] == after["weights"], before["random"] == after["random"]
    found.plain, found.monitored = (min(r["cpu"] for r in reports[root]) for root in (plain, monitored))
    place = monitored.with_name("monitored-0")
    said = after["said"] + [f"warning {w}" for w in after["warned"] if w not in before["warned"]]
    found.said = [text.replace(str(place / script.within), "…") for text in said]
    histories = read(place)
    if not histories:
        raise RuntimeError("there is no history")
    for history in histories.values():
        found.kinds.update(c.kind for c in history.components)
        found.others += [c.name for c in history.components if c.kind == "other"]
        found.skipped |= history.runs[-1].skipped
        found.alerts += [f"{a.title} {a.phase}: {a.text}" for a in history.alerts]
        found.samples += len(history.snapshots)
        found.seconds += sum(s.seconds or 0.0 for s in history.snapshots)
    found.resumed = resumed(script, place, options.python, histories, after["losses"])


def resumed(script: Script, place: Path, python: str, before: dict[Path, Any], losses: list[str]) -> str:
    """Goes on from the checkpoint in the middle, in the same place, and compares the history with that of before."""
    if script.resume is None:
        return "the script cannot"
    again = run(script, place, python, whole=False)["losses"]
    repeats = bool(again) and losses[-len(again) :] == again
    for where, history in read(place).items():
        if where not in before:
            return f"a new history in {where.relative_to(place)}"
        begun, went_on = history.runs[-1], before[where]
        if begun.resumed_from is None:
            return "a new run, not a resumed one"
        if [s.step for s in history.snapshots] != [s.step for s in went_on.snapshots]:
            return f"from step {begun.resumed_from}, at other steps: {[s.step for s in history.snapshots]}"
        if repeats and [s.columns["k"] for s in history.snapshots] != [s.columns["k"] for s in went_on.snapshots]:
            return f"from step {begun.resumed_from}: the losses are those of the run before, and k is not"
        more = [a for a in history.alerts if a.step > begun.resumed_from and a not in went_on.alerts]
        also = f"; alerts: {', '.join(sorted({a.finding.rule for a in more}))}" if more else ""
        return f"from step {begun.resumed_from}, {'to the last digit' if repeats else 'on other batches'}{also}"
    return "there is no history"


def read(place: Path) -> dict[Path, Any]:
    """Every history under a directory."""
    return {f: read_history(f) for f in sorted(place.rglob("history.jsonl"))}


def run(script: Script, root: Path, python: str, whole: bool) -> dict[str, Any]:
    """Runs a script in a process of its own; gives back the report of `wild_parts/launch.py`."""
    report = root.with_name("report.json")
    arguments = [*script.arguments.split(), *("" if whole else script.resume or "").split()]
    if whole and script.naming:
        arguments += [script.naming, "whole"]
    path = [str(root / p) for p in script.path]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "HF_HOME": str(root.parent / "hf"),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHDYNAMO_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join(path),
        **script.environment,
    }
    command = [python, str(HERE / "wild_parts" / "launch.py"), str(report), *script.run, *arguments]
    log = root.with_name(f"{root.name}{'' if whole else '-resumed'}.log")
    with log.open("w") as out:
        done = subprocess.run(
            command, cwd=root / script.within, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{root.name} ended with {done.returncode}: {last(log.read_text().splitlines())}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def last(said: Iterable[str]) -> str:
    """The last line that names an error."""
    errors = [text for text in said if "Error" in text or "error:" in text]
    return errors[-1].strip() if errors else "see the log (--keep)"


def commit(folder: Path) -> str:
    """The commit of a checkout, from ``.commit`` (hash and date) where it has no ``.git``."""
    if (folder / ".commit").exists():
        return (folder / ".commit").read_text().strip()
    told = subprocess.run(
        ["git", "-C", str(folder), "log", "-1", "--format=%H %cs"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


def line(found: Found) -> str:
    """Everything about a script, for the terminal."""
    name = f"{found.script.folder}: {found.script.name}"
    if found.error:
        return f"{name}\n  FAILED {found.error}"
    rows = [
        f"{found.steps} steps; {found.script.lines} lines; losses {found.losses}, weights {found.weights}, random {found.random}",
        f"kinds {dict(found.kinds)}; other {found.others}; skipped {found.skipped}",
        f"said {found.said}",
        f"alerts {found.alerts}",
        f"CPU {found.plain:.2f} → {found.monitored:.2f} s; {found.samples} samples, {found.seconds:.3f} s",
        f"resumed: {found.resumed}",
    ]
    return "\n  ".join([name, *rows])


if __name__ == "__main__":
    main()
