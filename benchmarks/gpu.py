"""What does the monitor cost on a CUDA GPU? Everything in one run of at most ten minutes, into `benchmarks/RESULTS.md`.

    python benchmarks/gpu.py                    # on a GPU of 40 GiB or more; prints, and writes RESULTS.md after each part
    python benchmarks/gpu.py --no-write         # prints only
    python benchmarks/gpu.py --rehearse         # every part with tiny models, without a GPU too; the figures mean nothing

A part that fails says so in a line, and the others go on; after a failure that the CUDA context does not survive, in a new
process. What the budget does not suffice for is left out, and says so.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_parts.machine import Machine
    from gpu_parts.page import Page

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the package of this tree, whatever else is installed
RESULTS = HERE / "RESULTS.md"
PARTS = ("ceiling", "correct", "samples", "training", "rivals", "variants")
"""In the order of their importance."""
RESERVE = 15
"""Seconds that a part has to have to begin."""
GRACE = 60
"""Seconds beyond the budget after which a process that hangs is ended."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--budget", type=float, default=480.0, help="seconds after which no part begins (480)")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md as it is")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the document to write to")
    parser.add_argument("--rehearse", action="store_true", help="tiny models, on the CPU where there is no GPU")
    parser.add_argument("--go-on", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.write = not (options.no_write or options.rehearse)

    import torch

    if not torch.cuda.is_available():
        if not options.rehearse:
            parser.exit(
                2, "There is no CUDA GPU here; --rehearse goes through every part on the CPU, with tiny models.\n"
            )
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
        torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Goes through the parts."""
    from gpu_parts.machine import Budget, Machine
    from gpu_parts.page import Page

    if options.write:
        _write(options, None)
    faulthandler.dump_traceback_later(options.budget + GRACE, exit=True)
    budget = Budget(options.budget)
    machine, page = Machine(options.rehearse), Page(options.rehearse)
    if options.go_on is not None:
        page.restore(options.go_on)
    else:
        _introduce(machine, page)
    for place, name in enumerate(options.parts):
        if budget.left() < RESERVE:
            page.say(f"Left out, the budget of {options.budget:.0f} s is spent: {', '.join(options.parts[place:])}.")
            break
        started = time.monotonic()
        try:
            part = importlib.import_module(f"gpu_parts.{name}")
            page.say(f"### {part.TITLE}")
            part.run(machine, page, budget)
        except Exception as error:
            page.failed(f"part {name}", error)
            if not machine.alive():
                page.say("The device does not work in this process any more: the rest in a new one.")
                _write(options, page)
                if rest := options.parts[place + 1 :]:
                    _go_on(options, page, rest, budget.left())
                break
        page.say(f"({name}: {time.monotonic() - started:.0f} s)")
        machine.free()
        _write(options, page)
    page.say("### Targets")
    page.targets()
    page.say(f"{page.failures} failed.")
    _write(options, page)
    faulthandler.cancel_dump_traceback_later()
    sys.exit(1 if page.failures else 0)


def _introduce(machine: Machine, page: Page) -> None:
    if machine.rehearsal:
        page.say("**A rehearsal: tiny models, hardly repeated. None of these figures means anything.**")
    page.say(f"{machine.describe()}; {time.strftime('%d %B %Y').lstrip('0')}.")
    begin = time.monotonic()
    used = "in use" if machine.kernels() is not None else "NOT in use, plain torch counts instead; the log says why"
    page.say(
        f"Kernels: {used}. The first call, which compiles and proves them for bf16, took {time.monotonic() - begin:.1f} s."
    )


def _write(options: argparse.Namespace, page: Page | None) -> None:
    """Writes what there is to say; without that, only looks whether it could."""
    from gpu_parts.page import replaced

    if not options.write:
        return
    text = options.results.read_text(encoding="utf-8")
    new = replaced(text, "" if page is None else page.markdown())
    if page is not None:
        beside = options.results.with_suffix(".new")
        beside.write_text(new, encoding="utf-8")
        os.replace(beside, options.results)


def _go_on(options: argparse.Namespace, page: Page, parts: Sequence[str], seconds: float) -> None:
    """Becomes a new process for the parts that are left."""
    handle, name = tempfile.mkstemp(suffix=".json")
    os.close(handle)
    page.save(Path(name))
    flags = [flag for flag, given in (("--no-write", options.no_write), ("--rehearse", options.rehearse)) if given]
    sys.stdout.flush()
    command = [sys.executable, str(HERE / "gpu.py"), "--budget", f"{max(seconds, 0.0):.0f}", "--go-on", name]
    os.execv(sys.executable, [*command, "--results", str(options.results), *flags, "--parts", *parts])


if __name__ == "__main__":
    main()
