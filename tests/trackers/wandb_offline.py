"""Reads what W&B wrote offline: a 7-byte header, then the LevelDB log format of protobuf records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024


def records(path: Path) -> Iterator[Any]:
    """Every record of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    data, at, pending = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # the rest of a block is too short for a header
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):  # still being written
            return
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            message = wandb_internal_pb2.Record()
            message.ParseFromString(pending)
            yield message
            pending = b""


def started(run: list[Any]) -> int:
    """When a run was started; of two in one second, the names of the files do not tell which came first."""
    return min((r.run.start_time.ToNanoseconds() for r in run if r.WhichOneof("record_type") == "run"), default=0)


def finished(directory: Path, patience: float = 120.0) -> list[Any]:
    """All records of the offline runs below a directory, once each has its last: W&B's service writes on after `finish`."""
    deadline = time.monotonic() + patience
    while True:
        runs = [list(records(file)) for file in directory.rglob("run-*.wandb")]
        done = runs and all(run and run[-1].WhichOneof("record_type") == "exit" for run in runs)
        if done or time.monotonic() > deadline:
            return [record for run in sorted(runs, key=started) for record in run]
        time.sleep(0.1)


def history(directory: Path) -> list[dict[str, Any]]:
    """Every logged row of the offline runs below a directory, in order."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in finished(directory)
        if record.WhichOneof("record_type") == "history"
    ]
