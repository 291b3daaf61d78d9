"""``weibull-monitor demo``: trains a small model and shows what the monitor sees of it."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command, positive

NEXT = (
    ("report {0} -o {0}/report.html", "a page for the browser, with every curve (extra: report)"),
    ("watch {0} --once", "the same on one screen, which follows a run that is going on (extra: report)"),
    ("compare {0}", "is that what published models show?"),
    ("alerts {0}", "what the rules say of it"),
    ("sweep {0}", "where λ stands, and where the learning rate put it"),
)
"""What to look at afterwards: command lines without the program's name, and what each does."""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Registers the command."""
    command = add_command(
        commands,
        "demo",
        help="train a small model and see k and λ of its matrices",
        description="Trains a transformer of 0.9 million parameters on Python's own library sources, on the CPU, with a monitor. "
        "Needs no data, no network and no other library; about half a minute.",
        examples=[("", "the run goes to runs/demo"), ("--output /tmp/demo --steps 600", "a longer one, elsewhere")],
    )
    command.add_argument("--output", default="runs/demo", metavar="DIR", help="where the run goes (default: runs/demo)")
    command.add_argument("--steps", type=positive, default=300, metavar="N", help="optimizer steps (default: 300)")
    command.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.cli.demo_training import train
    from weibull_monitor.report.text.run import summarize

    every = max(1, options.steps // 6)

    def told(step: int, loss: float) -> None:
        if step == 1 or step % every == 0:
            print(f"step {step:5}   loss {loss:.3f}", flush=True)

    history = train(options.output, options.steps, told)
    print(f"\n{summarize(history)}\n\nThe history:  {history.path}\nNow:")
    lines = [(f"weibull-monitor {words.format(options.output)}", what) for words, what in NEXT]
    width = max(len(line) for line, _ in lines)
    print("\n".join(f"  {line:{width}}   {what}" for line, what in lines))
    return OK
