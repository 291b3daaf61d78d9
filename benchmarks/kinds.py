"""Are the kinds of matrices right? Compares them with labels that are made without them, over many code bases.

    python benchmarks/kinds.py --foreign DIR                # every code base whose checkout lies in DIR or that is installed
    python benchmarks/kinds.py --foreign DIR litgpt timm    # these, with every fault
    python benchmarks/kinds.py transformers --into FILE     # every model type of transformers; goes on where it was cut
    python benchmarks/kinds.py transformers bert llama      # these types
    python benchmarks/kinds.py --foreign DIR --into FILE --keep FILE --markdown docs/kinds.md

A code base is judged in a process of its own, and so is a model type of transformers. Labels: by hand for code bases
(`kinds_parts/codebases.py`), by the effect of each matrix for transformers (`kinds_parts/by_effect.py`). Nothing is downloaded:
clone what you want to judge into DIR yourself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The package of this tree, whatever else is installed.
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]

LIMIT = 1500
"""Seconds that one code base may take."""


def main() -> int:
    """Judges the code bases that are named, or all."""
    options = _options()
    if options.child:
        return _child(options)
    from kinds_parts import page, transformers_types

    names = [n for n in options.names if n in page.SOURCES] or list(page.SOURCES)
    types = [n for n in options.names if n not in page.SOURCES]
    kept: dict[str, Any] = json.loads(options.keep.read_text()) if options.keep and options.keep.is_file() else {}
    every: list[dict[str, Any]] = []
    for name in names:
        if name == "transformers":
            every = _types(options, types)
            verdict, version = transformers_types.total(every, "use"), page.version(name, options.foreign)
        else:
            verdict, version = _judged(name, options.foreign)
        if verdict is None:
            print(f"{name}: {version}", file=sys.stderr)
            continue
        kept[name] = {**vars(verdict), "version": version}
        if options.keep:
            options.keep.write_text(json.dumps(kept))
        print(page.line(name, version, verdict), flush=True)
        if options.faults or options.names:
            for what in ("wrong", "missed", "unlabelled", "problems"):
                for fault in getattr(verdict, what)[: options.most]:
                    print(f"    {what}: {fault}")
    if options.markdown:
        verdicts = {name: _verdict(kept[name]) for name in page.SOURCES if name in kept}
        options.markdown.write_text(page.page(verdicts, every))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="code bases, or model types after 'transformers' (default: all)")
    parser.add_argument("--foreign", type=Path, default=Path("foreign"), help="the folder that holds the checkouts")
    parser.add_argument("--markdown", type=Path, help="write the page of the documentation there")
    parser.add_argument(
        "--keep", type=Path, help="a file for the results; the page has also those of earlier runs in it"
    )
    parser.add_argument("--into", type=Path, help="a file for what each type of transformers gave, to go on from")
    parser.add_argument("--seconds", type=int, default=120, help="limit for one model type, of one core (default: 120)")
    parser.add_argument("--faults", action="store_true", help="print every fault")
    parser.add_argument("--most", type=int, default=40, help="at most so many of each sort (default: 40)")
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="minutes for the types of transformers (default: 600)"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _verdict(found: dict[str, Any]) -> tuple[str, Any]:
    from kinds_parts.judge import verdict_of

    return found["version"], verdict_of({k: v for k, v in found.items() if k != "version"})


def _types(options: argparse.Namespace, types: list[str]) -> list[dict[str, Any]]:
    """What the model types of transformers gave."""
    from kinds_parts import transformers_types

    with tempfile.TemporaryDirectory() as folder:
        into = options.into or Path(folder, "types.jsonl")
        found = []
        for one in transformers_types.all_types(types, into, options.seconds, options.minutes):
            found.append(one)
            if options.faults:
                print(transformers_types.line(one), flush=True)
    return found


def _judged(name: str, foreign: Path) -> tuple[Any, str]:
    command = [sys.executable, str(HERE / "kinds.py"), "--foreign", str(foreign), "--child", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return None, f"not ended after {LIMIT} seconds"
    for out in run.stdout.splitlines():
        if out.startswith("VERDICT "):
            version, verdict = _verdict(json.loads(out[8:]))
            return verdict, version
    return None, run.stderr.strip()[-600:] or "not there"


def _child(options: argparse.Namespace) -> int:
    """Judges one code base in this process."""
    warnings.simplefilter("ignore")
    import torch
    from kinds_parts import (  # noqa: F401
        codebases,
        codebases_diffusion,
        codebases_parallel,
        codebases_vision,
        page,
    )
    from kinds_parts.judge import Verdict, judge

    torch.set_num_threads(1)
    name = options.child
    total = Verdict()
    folder, builder = codebases.CODEBASES[name]
    if folder:
        path = options.foreign / folder
        if not path.is_dir():
            print(f"{path} is not there", file=sys.stderr)
            return 1
        sys.path.insert(0, str(path.resolve()))
    cases = builder(options.foreign / folder)
    while True:
        try:
            case = next(cases, None)
        except Exception as error:
            total.problems.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            if options.faults:
                traceback.print_exc()
            break
        if case is None:
            break
        if isinstance(case, str):
            total.problems.append(case)
            continue
        try:
            total.add(judge(case.name, case.model, case.inputs, case.label))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            total.problems.append(
                f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]} "
                f"({Path(where.filename).name}:{where.lineno})"
            )
    print("VERDICT " + json.dumps({**vars(total), "version": page.version(name, options.foreign)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
