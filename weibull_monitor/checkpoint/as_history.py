"""Turns the samples of a scan into a history: in memory, or as a file that is written completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weibull_monitor.errors import CheckpointError, ConfigurationError
from weibull_monitor.history import HistoryWriter, RunRecord, read_history
from weibull_monitor.history.record import FILE, History
from weibull_monitor.history.snapshot import Snapshot

Sample = tuple[RunRecord, Snapshot]
"""A checkpoint as a history records it."""


def as_history(samples: Sequence[Sample], path: Path) -> History:
    """The history of a scan, in memory.

    Args:
        samples: Record and sample of every checkpoint, by rising step.
        path: The path that the history names as its own.
    """
    with tempfile.TemporaryDirectory(prefix="weibull-scan-") as folder:
        _write(samples, Path(folder))
        return replace(read_history(folder), path=path)


def write_history(samples: Sequence[Sample], output_dir: Path) -> Path:
    """Writes the history of a scan to ``output_dir/weibull/history.jsonl``, under another name first.

    Raises:
        ConfigurationError: If it cannot be written, or would replace the history of a run.
    """
    target = output_dir / FILE
    check_output(output_dir)
    scratch = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".scan-", dir=target.parent)
        _write(samples, Path(scratch))
        os.replace(Path(scratch) / FILE, target)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror}; name another directory") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def check_output(output_dir: Path) -> None:
    """Makes sure that a directory does not hold the history of a run.

    Raises:
        ConfigurationError: If it does.
    """
    target = output_dir / FILE
    if target.exists():
        try:
            runs = read_history(target).runs
        except ConfigurationError:  # whatever it is, it is not a scan
            runs = ()
        if not runs or "source" not in runs[-1].model:
            raise ConfigurationError(
                f"{target} is the history of a run, which a scan does not replace: name another directory"
            )


def _write(samples: Sequence[Sample], folder: Path) -> None:
    writer = HistoryWriter(folder)
    try:
        before: RunRecord | None = None
        for record, snapshot in samples:
            if before is None:
                writer.write_run(record)
            elif record.components != before.components:
                writer.write_run(replace(record, resumed_from=snapshot.step))
            before = record
            writer.write_snapshot(snapshot)
            writer.write_plot(snapshot)
    finally:
        writer.close()


def increasing(steps: Sequence[int | None]) -> tuple[list[int], bool]:
    """The steps of several checkpoints, and whether they are known; if one is not, or two are the same, numbers from 1 on.

    >>> increasing([100, 200]), increasing([None, 5]), increasing([7, 7])
    (([100, 200], True), ([1, 2], False), ([1, 2], False))
    """
    known = [step for step in steps if step is not None]
    if len(known) == len(steps) and len(set(known)) == len(known):
        return known, True
    return list(range(1, len(steps) + 1)), False


def check_same_model(samples: Sequence[Sample], names: Sequence[str]) -> None:
    """Makes sure that each checkpoint has a matrix in common with the one before it.

    Raises:
        CheckpointError: If one does not.
    """
    for (before, _), (after, _), name in zip(samples, samples[1:], names[1:], strict=False):
        if not {c.name for c in before.components} & {c.name for c in after.components}:
            raise CheckpointError(
                f"{name} has no matrix in common with the checkpoint before it: they are not of one run; scan them one by one"
            )
