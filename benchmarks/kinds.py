"""Are the kinds of matrices right? Compares them with labels that are made without them, over many code bases.

    python benchmarks/kinds.py --foreign DIR                # every code base whose checkout lies in DIR or that is installed
    python benchmarks/kinds.py --foreign DIR litgpt timm    # these, with every fault
    python benchmarks/kinds.py transformers                 # every model type of the installed transformers
    python benchmarks/kinds.py transformers bert llama      # these types
    python benchmarks/kinds.py --foreign DIR --markdown docs/kinds.md

A code base is judged in a process of its own. Labels: by hand for code bases (`kinds_parts/codebases.py`), from the source of
`forward` for transformers (`kinds_parts/by_source.py`). Nothing is downloaded: clone what you want to judge into DIR yourself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the package of this tree, whatever else is installed

LIMIT = 1500
"""Seconds that one code base may take."""
AT_ONCE = 20
"""Model types of transformers in one process: some models leave memory or settings behind."""


def main() -> int:
    """Judges the code bases that are named, or all."""
    options = _options()
    if options.child:
        return _child(options)
    from kinds_parts import page

    names = [n for n in options.names if n in page.SOURCES] or list(page.SOURCES)
    types = [n for n in options.names if n not in page.SOURCES]
    kept: dict[str, Any] = json.loads(options.keep.read_text()) if options.keep and options.keep.is_file() else {}
    for name in names:
        if name == "transformers":
            verdict, version = _transformers(options, types)
        else:
            verdict, version = _judged(name, options.foreign, types)
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
        options.markdown.write_text(page.page(verdicts))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="code bases, or model types after 'transformers' (default: all)")
    parser.add_argument("--foreign", type=Path, default=Path("foreign"), help="the folder that holds the checkouts")
    parser.add_argument("--markdown", type=Path, help="write the page of the documentation there")
    parser.add_argument(
        "--keep", type=Path, help="a file for the results; the page has also those of earlier runs in it"
    )
    parser.add_argument("--faults", action="store_true", help="print every fault")
    parser.add_argument("--most", type=int, default=40, help="at most so many of each sort (default: 40)")
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="minutes for the types of transformers (default: 600)"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _verdict(found: dict[str, Any]) -> tuple[str, Any]:
    from kinds_parts.judge import Verdict

    values = {k: v for k, v in found.items() if k != "version"}
    return found["version"], Verdict(**{**values, "evidence": Counter(found["evidence"])})


def _transformers(options: argparse.Namespace, types: list[str]) -> tuple[Any, str]:
    """All model types, some at a time, in an order that is random but the same each time."""
    from kinds_parts.judge import Verdict

    from weibull_monitor.model.meta_device import model_types

    types = types or random.Random(0).sample(model_types(), len(model_types()))
    total, version, started = Verdict(), "", time.monotonic()
    for start in range(0, len(types), AT_ONCE):
        if time.monotonic() - started > 60 * options.minutes:
            break
        batch = types[start : start + AT_ONCE]
        verdict, said = _judged("transformers", options.foreign, batch)
        if verdict is None:
            total.problems.append(f"{', '.join(batch)}: {said}")
            continue
        version = said
        total.add(verdict)
        if options.faults:
            for fault in (*verdict.wrong, *verdict.problems):
                print(f"    {fault}", flush=True)
            print(f"after {start + len(batch)} types: {total.matrices} matrices, {total.right} right", flush=True)
    return total, version


def _judged(name: str, foreign: Path, types: list[str]) -> tuple[Any, str]:
    command = [sys.executable, str(HERE / "kinds.py"), "--foreign", str(foreign), "--child", name, *types]
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
        transformers_types,
    )
    from kinds_parts.judge import Verdict, judge

    torch.set_num_threads(1)
    name = options.child
    total = Verdict()
    if name == "transformers":
        cases = transformers_types.cases(options.names)
    else:
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
