"""Hostile files and unlucky runs, many of them: what was tried, what survived.

    python benchmarks/hostile.py histories --count 1000       # each with six commands
    python benchmarks/hostile.py files --count 1000           # of each format
    python benchmarks/hostile.py structures --count 1000      # the same with another fuzzer, and settings, adapters, histories
    python benchmarks/hostile.py fields --count 1000          # of each format: one field is another value, every command
    python benchmarks/hostile.py configurations               # also with an interpreter that has another transformers
    python benchmarks/hostile.py injections --seconds 600     # shared out over the hosts
    python benchmarks/hostile.py ends --seconds 300           # the same where a monitor begins and ends
    python benchmarks/hostile.py interruptions --seconds 300  # exceptions that have to pass, such as KeyboardInterrupt
    python benchmarks/hostile.py kills --count 64
    python benchmarks/hostile.py size

Every part prints a line for `docs/reliability.md`, and what went wrong. ``--seed`` gives other inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hostile.configurations import CASES  # noqa: E402
from hostile.inputs import write_history  # noqa: E402
from hostile.mutations import (  # noqa: E402
    mutated_bytes,
    mutated_json,
    mutated_lines,
    mutated_safetensors,
    mutated_zip,
)
from hostile.running import Tally, call, most_memory, run_command, watch_for_contacts  # noqa: E402
from hostile.structures import (  # noqa: E402
    RAW,
    gzipped,
    restructured,
    restructured_lines,
    restructured_safetensors,
    rezipped,
    tokens_in,
)
from hostile_fields import adapter, fields  # noqa: E402
from hostile_injections import ends, injections, interruptions  # noqa: E402
from hostile_size import size  # noqa: E402

from weibull_monitor.checkpoint.child import process  # noqa: E402


def histories(options: argparse.Namespace, folder: Path) -> Tally:
    tally = Tally()
    data = write_history(folder / "good").read_bytes()
    bad = folder / "bad" / "weibull"
    bad.mkdir(parents=True)
    run = str(folder / "bad")
    for number in range(options.seed, options.seed + options.count):
        (bad / "history.jsonl").write_bytes(mutated_lines(data, random.Random(number)))
        for words in (
            ["report", run, "-o", f"{folder}/page.html"],
            ["alerts", run],
            ["alerts", run, "--recorded"],
            ["compare", run, "--list"],
            ["watch", run, "--once"],
            ["sweep", run, str(folder / "good")],
        ):
            run_command(words, str(number), tally)
    return tally


def files(options: argparse.Namespace, folder: Path) -> Tally:
    from checkpoint.test_fuzz import FORMATS

    from weibull_monitor.checkpoint import scan

    structured = {
        "safetensors": mutated_safetensors,
        "index": mutated_json,
        "torch.save": mutated_zip,
        "lightning": mutated_zip,
    }
    tally = Tally()
    for kind, make in FORMATS.items():
        whole, broken = folder / kind, folder / f"{kind}-broken"
        whole.mkdir()
        names = make(whole)
        shutil.copytree(whole, broken)
        for number in range(options.seed, options.seed + options.count):
            source = random.Random(f"{kind} {number}")
            name = names[number % len(names)]
            change = structured.get(kind, mutated_bytes) if source.random() < 0.6 else mutated_bytes
            (broken / name).write_bytes(change((whole / name).read_bytes(), source))
            call(lambda path=broken: scan(path), f"{kind} {number}", tally)  # type: ignore[misc]
            shutil.copy(whole / name, broken / name)
    return tally


def structures(options: argparse.Namespace, folder: Path) -> Tally:
    from checkpoint.test_fuzz import FORMATS
    from hostile.test_configurations import checkpoint

    from weibull_monitor.checkpoint import scan

    structured = {
        "safetensors": (restructured_safetensors, restructured_safetensors, tokens_in),
        "index": (restructured, restructured, tokens_in),
        "torch.save": (rezipped, rezipped, tokens_in),
        "lightning": (rezipped, tokens_in),
        "adapter": (restructured, tokens_in),
        "config": (restructured,),
    }
    formats = FORMATS | {
        "adapter": adapter,
        "config": lambda place: [checkpoint(place / "model", {}).name + "/config.json"],
    }
    total, only = Tally(), options.only.split(",") if options.only else [*formats, "history", "thresholds"]

    def report(kind: str, tally: Tally) -> None:
        print(
            f"{kind}: {tally.tried:,} tried, {tally.read:,} read, {len(tally.faults)} faults, {most_memory()} MB",
            flush=True,
        )
        print(*tally.faults[:20], sep="\n", flush=True)
        nonlocal total
        total += tally

    for kind, make in formats.items():
        if kind not in only:
            continue
        whole, broken, tally = folder / kind, folder / f"{kind}-broken", Tally()
        whole.mkdir()
        names = make(whole)
        shutil.copytree(whole, broken)
        with process():
            for number in range(options.seed, options.seed + options.count // (8 if kind == "config" else 1)):
                source = random.Random(f"{kind} {number}")
                name = names[number % len(names)]
                good = (whole / name).read_bytes()
                bad = source.choice(structured.get(kind, (tokens_in,)))(good, source)
                (broken / name).write_bytes(gzipped(good, source) if source.random() < 0.02 else bad)
                place = str((broken / name).parent)
                if source.random() < 0.1 or kind == "config":
                    run_command(["scan", place, *source.choice(((), ("--json", "-")))], f"{kind} {number}", tally)
                    if kind == "config" and source.random() < 0.5:
                        run_command(["components", place], f"{kind} {number}", tally)
                else:
                    call(lambda path=place: scan(path), f"{kind} {number}", tally)  # type: ignore[misc]
                (broken / name).write_bytes(good)
        report(kind, tally)
    good = write_history(folder / "good", 4).read_bytes()
    if "history" in only:
        tally, bad = Tally(), folder / "bad" / "weibull"
        bad.mkdir(parents=True)
        run = str(folder / "bad")
        for number in range(options.seed, options.seed + options.count):
            source = random.Random(f"history {number}")
            data = gzipped(good, source) if source.random() < 0.01 else restructured_lines(good, source)
            (bad / "history.jsonl").write_bytes(data)
            every = [["report", run, "-o", f"{folder}/page.html"], ["alerts", run], ["alerts", run, "--recorded"]]
            every += [
                ["compare", run, "--list"],
                ["watch", run, "--once"],
                ["sweep", run, str(folder / "good"), "--json"],
            ]
            for words in source.sample(every, 3):
                run_command(words, str(number), tally)
        report("history", tally)
    if "thresholds" in only:
        tally = Tally()
        for number in range(options.seed, options.seed + options.count):
            source = random.Random(f"thresholds {number}")
            rule, key = (
                source.choice(("scale_shift", "dead", "x", "nonfinite")),
                source.choice(("z", "ignore", "at_most", "persist")),
            )
            text = f"[alerts.{rule}]\n{key} = {source.choice(RAW)}\n[alerts.unchanged]\nintervals = 3\n"
            data = text.encode("utf-8", "surrogatepass")
            (folder / "t.toml").write_bytes(tokens_in(data, source) if source.random() < 0.4 else data)
            run_command(["alerts", str(folder / "good"), "--config", str(folder / "t.toml")], str(number), tally)
        report("thresholds", tally)
    return total


def configurations(options: argparse.Namespace, folder: Path) -> Tally:
    import transformers
    from hostile.configurations import GOOD
    from hostile.test_configurations import checkpoint

    print(f"transformers {transformers.__version__}")
    tally = Tally()
    with process():
        for number, (name, settings) in enumerate(CASES.items()):
            place = checkpoint(folder / str(number), settings)
            run_command(["scan", str(place)], f"scan, {name}", tally)
            run_command(["components", str(place)], f"components, {name}", tally)
        for number in range(options.seed, options.seed + options.count):
            settings = json.loads(mutated_json(json.dumps(GOOD).encode(), random.Random(number)))
            place = folder / "mutated"
            checkpoint(place, {})
            text = json.dumps(settings, ensure_ascii=False)
            (place / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
            run_command(["scan", str(place)], f"scan, mutated {number}", tally)
            shutil.rmtree(place)
    return tally


def _trained(where: Path) -> None:
    """Trains with the real Trainer, from the last checkpoint that is whole, if there is one."""
    from small_trainer import trainer

    from weibull_monitor.integrations.transformers import WeibullCallback

    saved = sorted(where.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in saved if (path / "trainer_state.json").is_file()]
    made = trainer(where, WeibullCallback(every_n_steps=1), max_steps=24, save_strategy="steps", save_steps=4)
    made.train(resume_from_checkpoint=str(whole[-1]) if whole else None)


def kills(options: argparse.Namespace, folder: Path) -> Tally:
    import small_trainer  # noqa: F401, imported once: each process is a fork of this one

    import weibull_monitor.integrations.transformers  # noqa: F401
    from weibull_monitor import read_history

    def start(place: Path) -> int:
        if child := os.fork():
            return child
        code = 1
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            _trained(place)
            code = 0
        finally:
            os._exit(code)

    def figures(place: Path) -> dict[int, tuple[object, ...]]:
        found = read_history(place).snapshots
        return {one.step: (one.columns["k"], one.columns["lambda"], one.columns["eta_sum"]) for one in found}

    began = time.monotonic()
    os.waitpid(start(folder / "whole"), 0)
    took, expected, tally = time.monotonic() - began, figures(folder / "whole"), Tally()
    source = random.Random(options.seed)
    for number in range(options.count):
        place, tally.tried = folder / str(number), tally.tried + 1
        while True:  # the Trainer goes on by a step from the last checkpoint of a run that has ended: only kills count
            running = start(place)
            time.sleep(took * source.uniform(0.1, 1.0))
            os.kill(running, signal.SIGKILL)
            if os.waitpid(running, 0)[1] == signal.SIGKILL:
                break
            took = 0.7 * took
            shutil.rmtree(place)
        ended = os.waitstatus_to_exitcode(os.waitpid(start(place), 0)[1])
        found = figures(place)
        equal = found == expected
        other = sorted(step for step in {*found, *expected} if found.get(step) != expected.get(step))
        print(f"kill {number}: {'equal' if equal else f'exit code {ended}, other samples at {other}'}", flush=True)
        tally.read += equal
        tally.faults += [] if equal else [f"kill {number}: other samples"]
        shutil.rmtree(place)
    return tally


PARTS = {
    "histories": histories,
    "files": files,
    "structures": structures,
    "fields": fields,
    "configurations": configurations,
    "injections": injections,
    "ends": ends,
    "interruptions": interruptions,
    "kills": kills,
    "size": size,
}
COUNTS = {
    "histories": 200,
    "files": 500,
    "structures": 500,
    "fields": 500,
    "configurations": 100,
    "kills": 8,
    "size": 20_000,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="", help="formats of structures, separated by commas")
    parser.add_argument("--places", default="", help="only injections in files whose path has this in it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.count = COUNTS.get(options.part, 0) if options.count is None else options.count
    warnings.simplefilter("ignore")
    watch_for_contacts()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weibull-hostile-") as folder:
        tally = PARTS[options.part](options, Path(folder))
    print(*tally.faults[:40], sep="\n")
    print(
        f"{options.part}: {tally.tried:,} tried, {tally.read:,} read or survived, {tally.refused:,} refused in a line, "
        f"{len(tally.faults)} faults, {time.monotonic() - began:.0f} s, at most {most_memory()} MB"
    )
    return bool(tally.faults)


if __name__ == "__main__":
    sys.exit(main())
