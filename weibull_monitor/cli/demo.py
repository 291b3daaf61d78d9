"""``weibull-monitor demo``: trains a small model and shows what the monitor measures."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, positive

NEXT = (
    ("report {0} -o {0}/report.html", "a page with every curve, for the browser (extra: report)"),
    ("watch {0} --once", "the same on one screen; without --once it follows a run in progress (extra: report)"),
    ("compare {0}", "comparison with published models"),
    ("alerts {0}", "its alerts"),
    ("sweep {0}", "λ against the learning rate"),
)
"""Next commands to try: command lines without the program's name, and what each shows."""


def add(commands: Commands) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "demo",
        _execute,
        help="train a small model, break a layer, and see the alert",
        description="Trains a transformer of 0.9 million parameters on the sources of Python's standard library, on the CPU, "
        "with a monitor. After two thirds of the steps one matrix is multiplied by 4. The loss does not show it, but the monitor "
        "does. It needs no data, no network and no other library, and takes about half a minute.",
        examples=[
            ("", "write the run to runs/demo"),
            ("--healthy", "break nothing"),
            ("--output /tmp/demo --steps 600", "a longer run, elsewhere"),
        ],
    )
    command.add_argument(
        "--output", default="runs/demo", metavar="DIR", help="directory of the run (default: runs/demo)"
    )
    command.add_argument("--steps", type=positive, default=300, metavar="N", help="optimizer steps (default: 300)")
    command.add_argument("--healthy", action="store_true", help="break nothing")


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.cli.demo_training import BROKEN, FACTOR, train
    from weibull_monitor.errors import visible
    from weibull_monitor.report.text.alerts import render
    from weibull_monitor.report.text.run import summarize

    every = max(1, options.steps // 12)
    broken_after = None if options.healthy else max(1, 2 * options.steps // 3)

    def show(step: int, loss: float) -> None:
        if step == 1 or step % every == 0:
            print(f"step {step:5}   loss {loss:.3f}", flush=True)
        if step == broken_after:
            print(f"step {step:5}   now {BROKEN} is multiplied by {FACTOR:g}", flush=True)

    history = train(options.output, options.steps, show, broken_after)
    print(f"\n{summarize(history)}\n")
    print(f"{render(history.alerts)}\n\nThe history:  {visible(str(history.path))}\nNext:")
    lines = [(f"weibull-monitor {words.format(options.output)}", what) for words, what in NEXT]
    width = max(len(line) for line, _ in lines)
    print("\n".join(f"  {line:{width}}   {what}" for line, what in lines))
    return OK
