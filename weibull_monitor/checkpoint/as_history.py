"""Writes what a scan found as a history, whole or not at all."""

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

Measured = tuple[RunRecord, Snapshot]


def as_history(measured: Sequence[Measured], path: Path) -> History:
    """The history that a scan makes, in memory.

    Args:
        measured: For every checkpoint, by rising step, what it is and its sample.
        path: What the history gives as its place.
    """
    with tempfile.TemporaryDirectory(prefix="weibull-scan-") as folder:
        _write(measured, Path(folder))
        return replace(read_history(folder), path=path)


def write_history(history: History, measured: Sequence[Measured], output_dir: Path) -> Path:
    """Writes the history of a scan to ``output_dir/weibull/history.jsonl``: to another name first, and then all at once.

    Raises:
        ConfigurationError: If it cannot be written there, or there is the history of a run, which a scan does not replace.
    """
    target = output_dir / FILE
    check_output(output_dir)
    scratch = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".scan-", dir=target.parent)
        _write(measured, Path(scratch))
        os.replace(Path(scratch) / FILE, target)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror}; name another directory") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def check_output(output_dir: Path) -> None:
    """Refuses a directory that holds the history of a run.

    Raises:
        ConfigurationError: Then.
    """
    target = output_dir / FILE
    if target.exists():
        runs = read_history(target).runs
        if not runs or "source" not in runs[-1].model:
            raise ConfigurationError(
                f"{target} is the history of a run, which a scan does not replace: name another directory"
            )


def _write(measured: Sequence[Measured], folder: Path) -> None:
    writer = HistoryWriter(folder)
    try:
        before: RunRecord | None = None
        for record, snapshot in measured:
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
    """The steps of several checkpoints, and whether they are known: numbered from 1 where one does not say, or two say the same.

    >>> increasing([100, 200]), increasing([None, 5]), increasing([7, 7])
    (([100, 200], True), ([1, 2], False), ([1, 2], False))
    """
    known = [step for step in steps if step is not None]
    if len(known) == len(steps) and len(set(known)) == len(known):
        return known, True
    return list(range(1, len(steps) + 1)), False


def check_same_model(measured: Sequence[Measured], names: Sequence[str]) -> None:
    """Refuses checkpoints that have no matrix in common.

    Raises:
        CheckpointError: Then.
    """
    for (before, _), (after, _), name in zip(measured, measured[1:], names[1:], strict=False):
        if not {c.name for c in before.components} & {c.name for c in after.components}:
            raise CheckpointError(
                f"{name} has no matrix in common with the checkpoint before it: they are not of one run; scan them one by one"
            )
