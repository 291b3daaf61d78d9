"""Where histories are: a directory of its own for each run, and a list of the trials of a search."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.history.record import FILE, RunRecord
from weibull_monitor.history.writer import HistoryWriter

_END: Final = 1 << 16
"""Bytes at the end of a file in which its last line is looked for."""


def new_directory(first: str | Path) -> Path:
    """Creates a directory that did not exist: ``<first>``, or else ``<first>-2``, ``<first>-3``, …

    Raises:
        ConfigurationError: If it cannot be created.
    """
    for number in count(1):
        directory = Path(first if number == 1 else f"{first}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"the directory {directory} cannot be created: {error.strerror}; pass an output_dir"
            ) from error
        return directory
    raise AssertionError  # `count` has no end


def add_trial(output_dir: str | Path, record: RunRecord, trial: str) -> None:
    """Adds a trial to the list of trials in the directory of a search, which is where a single run has its history.

    Args:
        output_dir: The directory of the search.
        record: The record of the trial's run.
        trial: The trial's name; its directory is ``<output_dir>/<trial>``.

    Raises:
        ConfigurationError: If the list cannot be written.
    """
    named = (record.name,) if record.name else ()
    history = Path(trial, FILE.parent, *named, FILE.name).as_posix()
    listed = HistoryWriter(output_dir)
    try:
        listed.write_run(replace(record, components=(), skipped={}, trial=trial, history=history))
    finally:
        listed.close()


def trial_history(listed: Path, run: RunRecord) -> Path:
    """The history of a trial, given the list it is in."""
    return listed.parent.parent / (run.history or FILE)


def last_trial(file: Path) -> Path:
    """The history of the last trial, if a file is a list of trials and that history exists; else the file."""
    try:
        with file.open("rb") as lines:
            lines.seek(max(0, os.fstat(lines.fileno()).st_size - _END))
            last = lines.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        if b'"trial":"' not in last:
            return file
        line = json.loads(last)
        found = file.parent.parent / line["history"] if line["trial"] else file
    except (OSError, ValueError, KeyError, TypeError):  # it ends with another line
        return file
    return found if found.is_file() else file


def models_in(path: str | Path) -> Sequence[Path]:
    """The directories of several models' histories, where a run has given names to its models."""
    return sorted(file.parent for file in (Path(path) / FILE.parent).glob(f"*/{FILE.name}"))
