"""``weibull-monitor paper``: the numbers of the papers, computed from the table that the package ships."""

from __future__ import annotations

import argparse

from weibull_monitor.cli.common import OK, Commands, add_command


def add(commands: Commands) -> None:
    """Registers the command."""
    add_command(
        commands,
        "paper",
        _execute,
        help="the numbers of the papers, computed and as published",
        description="Prints every number of the papers that can be computed from the published tables, beside the published "
        "number.",
        examples=[("", "all of them")],
    )


def _execute(options: argparse.Namespace) -> int:
    from weibull_monitor.analysis.paper import claims
    from weibull_monitor.report.text.table import aligned, plain

    rows = [["number", "statistic", "computed", "published"]]
    rows += [[c.what, c.statistic, c.computed, c.published] for c in claims()]
    print(plain(aligned(rows)))
    print("\nT. Ding, arXiv:2605.18898, arXiv:2606.19367 (2026), CC BY 4.0.")
    print("Computed from the medians over blocks that the package ships; the papers computed from all matrices.")
    return OK
