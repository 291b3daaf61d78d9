"""What a block of threads has: registers, shared memory, and the global memory that is lent to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

LANES = 32
SHARED_START = 0x400
"""Where shared memory begins: not at 0, so that a forgotten address is seen."""
SHARED_LIMIT = 48 * 1024
GARBAGE = 0xA5

Array = npt.NDArray[Any]
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
FORMATS: dict[str, Any] = {
    "u8": np.uint8, "b8": np.uint8, "s8": np.int8, "u16": np.uint16, "b16": np.uint16, "s16": np.int16,
    "u32": np.uint32, "b32": np.uint32, "s32": np.int32, "u64": np.uint64, "b64": np.uint64, "s64": np.int64,
    "f32": np.float32, "f64": np.float64, "pred": np.bool_,
}  # fmt: skip


class PTXError(RuntimeError):
    """The code did something that it must not do, or that is not understood here."""


@dataclass
class Tally:
    """What was done.

    Attributes:
        instructions: Executed by warps, by name.
        bytes_read: Of each global buffer, by its name.
        shared_adds: Lanes that added to shared memory by an atomic.
        passes: Shared-memory passes of those additions: for each warp the most different words in one of the 32 banks.
    """

    instructions: Counter[str] = field(default_factory=Counter)
    bytes_read: Counter[str] = field(default_factory=Counter)
    shared_adds: int = 0
    passes: int = 0


@dataclass
class Buffer:
    name: str
    start: int
    data: npt.NDArray[np.uint8]


class Memory:
    """Global memory: the storages of tensors, at the addresses where they are."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.buffers = []
        for name, tensor in tensors.items():
            storage = tensor.untyped_storage()
            data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()  # type: ignore[call-overload]
            self.buffers.append(Buffer(name, storage.data_ptr(), data))

    def at(self, addresses: Array, size: int) -> tuple[Buffer, Array]:
        """The buffer that all addresses lie in, and the offset of each."""
        if (addresses % np.uint64(size)).any():
            raise PTXError(f"an access of {size} bytes that is not aligned")
        first = int(addresses.min())
        for buffer in self.buffers:
            if buffer.start <= first and int(addresses.max()) + size <= buffer.start + len(buffer.data):
                return buffer, (addresses - np.uint64(buffer.start)).astype(np.int64)
        raise PTXError(f"an access of {size} bytes outside of the tensors: {first:#x}")


class Shared:
    """The shared memory of a block, and who touched which word since the last barrier."""

    FREE, MANY = -1, -2

    def __init__(self, size: int) -> None:
        self.data = np.full(size, GARBAGE, dtype=np.uint8)
        self.touched = {kind: np.full(size // 4, self.FREE, dtype=np.int64) for kind in ("read", "write", "add")}

    def barrier(self) -> None:
        for who in self.touched.values():
            who.fill(self.FREE)

    def note(self, kind: str, offsets: Array, size: int, threads: Array) -> None:
        """Raises if another thread touches a word of these in a way that does not go together with this."""
        words = (offsets[:, None] + np.arange(0, max(size, 4), 4)).ravel() // 4
        who = np.repeat(threads, max(size, 4) // 4)
        for other, by in self.touched.items():
            if kind == other != "write":
                continue
            if ((by[words] != self.FREE) & (by[words] != who)).any():
                raise PTXError(f"a race in shared memory: {kind} after {other} without a barrier between them")
        mine = self.touched[kind]
        shared = (mine[words] != self.FREE) & (mine[words] != who)
        mine[words] = np.where(shared, self.MANY, who)
        order = np.argsort(words, kind="stable")
        twice = words[order][1:] == words[order][:-1]
        mine[words[order][1:][twice]] = self.MANY


@dataclass
class Warp:
    registers: list[Array]
    special: dict[str, Any]
    threads: Array
    lanes: Array
    """Whether each lane takes part in the instruction that is being executed."""
    shared: Shared
    memory: Memory
    parameters: dict[str, int]
    tally: Tally
