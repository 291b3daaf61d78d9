"""Reads what W&B wrote offline: a 7-byte header, then the LevelDB log format of protobuf records."""

from __future__ import annotations

import json
import struct
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
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            message = wandb_internal_pb2.Record()
            message.ParseFromString(pending)
            yield message
            pending = b""


def history(directory: Path) -> list[dict[str, Any]]:
    """Every logged row of the offline runs below a directory, in order."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for file in sorted(directory.rglob("*.wandb"))
        for record in records(file)
        if record.WhichOneof("record_type") == "history"
    ]
