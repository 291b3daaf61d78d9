"""Histories with faults of every kind: each command reads them, or says in a line what is wrong.

``WEIBULL_FUZZ=2000`` makes that many instead of a few; `benchmarks/hostile.py` makes more, of all formats.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from hostile.inputs import write_history
from hostile.mutations import mutated_lines
from hostile.running import Tally, run_command
from hostile.structures import restructured_lines

ROUNDS = int(os.environ.get("WEIBULL_FUZZ", "6"))


def test_each_command_reads_it_or_says_what_is_wrong(tmp_path: Path) -> None:
    good = write_history(tmp_path / "good", 4)
    bad = tmp_path / "bad" / "weibull" / "history.jsonl"
    bad.parent.mkdir(parents=True)
    run, tally = str(tmp_path / "bad"), Tally()
    for number in range(ROUNDS):
        change = restructured_lines if number % 2 else mutated_lines
        bad.write_bytes(change(good.read_bytes(), random.Random(number)))
        for words in (["report", run, "-o", f"{run}/page.html"], ["alerts", run], ["alerts", run, "--recorded"]):
            run_command(words, str(number), tally)
        for words in (["compare", run, "--list"], ["watch", run, "--once"], ["sweep", run, run]):
            run_command(words, str(number), tally)
    assert not tally.faults
    assert tally.tried == 6 * ROUNDS
