"""Runs the PTX of a kernel on the CPU, so that what a compiler made of it can be tested without a GPU.

It does not simulate a GPU and measures no times. It executes what Triton's compiler emits for the kernels of this package,
warp by warp, 32 lanes at once in numpy, and stricter than a GPU would:

- global memory is what was lent to it, and each access has to lie within and be aligned to its width;
- shared memory and registers begin as garbage;
- two threads that touch a word of shared memory between two barriers, one of them writing, are a data race, also if their
  order would happen to be right here; unless both add by atomics, or the lanes of a warp write the same value at once.

The semantics are those of "Parallel Thread Execution ISA", NVIDIA, version 8.8. An instruction that is not known is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from measure.kernels.ptx.instructions import Instruction, Instructions
from measure.kernels.ptx.machine import (
    LANES,
    SHARED_LIMIT,
    SHARED_START,
    UNSIGNED,
    Array,
    Memory,
    PTXError,
    Shared,
    Tally,
    Warp,
)


class Program(Instructions):
    """A kernel, read from PTX.

    Args:
        ptx: A module with one kernel.
        dynamic_shared: Bytes of shared memory that a launch asks for.
    """

    def __init__(self, ptx: str, dynamic_shared: int) -> None:
        super().__init__()
        text = re.sub(r"//[^\n]*", "", ptx)
        text = re.sub(r"(?m)^\s*\.(loc|file|pragma)\b[^\n]*$", "", text)
        head, body = _entry(text)
        self.parameters = re.findall(r"\.param\s+[^,)]*?(\w+)\s*[,\n)]", head)
        found = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", head)
        self.threads = int(found[1]) if found else 0
        external = re.search(r"\.extern \.shared[^;]*?(\w+)\[\]", text)
        statements = list(_statements(body))
        for _, statement in statements:
            if statement.startswith("."):
                self._declare(statement)
        if external:
            self.shared = -(-self.shared // 16) * 16
            self.symbols[external[1]] = self.shared
            self.shared += dynamic_shared
        if self.shared > SHARED_LIMIT:
            raise PTXError("more shared memory than a launch gets unasked")
        labels: dict[str, int] = {}
        self.code: list[Instruction] = []
        branches: list[tuple[Instruction, str]] = []
        for names, statement in statements:
            labels |= dict.fromkeys(names, len(self.code))
            if statement and not statement.startswith("."):
                instruction = self._read(statement)
                self.code.append(instruction)
                if instruction.name.startswith("bra"):
                    branches.append((instruction, statement.split()[-1]))
        for instruction, label in branches:
            instruction.target = labels[label]

    def run(self, grid: int, memory: Memory, arguments: Sequence[int], seed: int = 0) -> Tally:
        """Runs all blocks, one after the other.

        Args:
            grid: Blocks.
            memory: What may be touched.
            arguments: Of the kernel: addresses and integers; those beyond are zero.
            seed: Of the order in which the warps of a block take their turns between two barriers, and of the garbage.

        Raises:
            PTXError: If the code touches what it must not, or races.
        """
        tally = Tally()
        values = [*arguments, *(0,) * (len(self.parameters) - len(arguments))]
        parameters = dict(zip(self.parameters, values, strict=True))
        generator = np.random.default_rng(seed)
        with np.errstate(all="ignore"):
            for block in range(grid):
                shared = Shared(self.shared - SHARED_START)
                warps = []
                for first in range(0, self.threads, LANES):
                    threads = np.arange(first, first + LANES)
                    special = {"%tid.x": threads, "%ctaid.x": block, "%laneid": np.arange(LANES), "%nctaid.x": grid}
                    registers = [_garbage(kind, generator) for kind in self.types]
                    lanes = np.ones(LANES, dtype=bool)
                    warp = Warp(registers, special, threads, lanes, shared, memory, parameters, tally)
                    warps.append(self._warp(warp))
                self._block(warps, shared, generator)
        return tally

    def _block(self, warps: list[Iterator[int]], shared: Shared, generator: np.random.Generator) -> None:
        while True:
            at = {next(warps[n], -1) for n in generator.permutation(len(warps))}
            if len(at) > 1:
                raise PTXError("the warps of a block wait at different barriers")
            if at == {-1}:
                return
            shared.barrier()

    def _warp(self, warp: Warp) -> Iterator[int]:
        """Runs a warp; gives way at each barrier. Lanes that have gone different ways meet at the lowest instruction."""
        places = np.zeros(LANES, dtype=np.int64)
        end = len(self.code)
        counts = warp.tally.instructions
        while (at := int(places.min())) < end:
            group = places == at
            rest = places[~group]
            until = int(rest.min()) if len(rest) else end
            while at < until:
                instruction = self.code[at]
                counts[instruction.name] += 1
                lanes = group
                if instruction.guard is not None:
                    slot, sense = instruction.guard
                    lanes = group & (warp.registers[slot] == sense)
                at += 1
                if instruction.do is not None:
                    if lanes.any():
                        warp.lanes = lanes
                        try:
                            instruction.do(warp)
                        except PTXError as error:
                            raise PTXError(f"{error}: {instruction.text}") from None
                elif instruction.name.startswith("bar"):
                    if not group.all() or instruction.guard is not None:
                        raise PTXError("a barrier that not all lanes come to")
                    yield at
                else:
                    places[group] = at
                    places[lanes] = end if instruction.name == "ret" else instruction.target
                    break
            else:
                places[group] = at


def _garbage(kind: str, generator: np.random.Generator) -> Array:
    if kind == "pred":
        return generator.integers(0, 2, LANES).astype(np.bool_)
    size = int(kind[1:]) // 8
    return np.frombuffer(generator.bytes(size * LANES), dtype=UNSIGNED[size]).copy()


def _entry(text: str) -> tuple[str, str]:
    """The head and the body of the kernel."""
    start = text.index(".entry")
    begin = text.index("{", start)
    depth = 0
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:begin], text[begin + 1 : at]
    raise PTXError("a kernel without an end")


def _statements(body: str) -> Iterator[tuple[list[str], str]]:
    """Each statement, with the labels before it. Scopes are not kept apart: their registers are written before they are read."""
    for piece in body.split(";"):
        statement, labels = piece.strip(), []
        while True:
            if statement[:1] in ("{", "}"):
                statement = statement[1:].strip()
            elif found := re.match(r"(\$\w+):", statement):
                labels.append(found[1])
                statement = statement[found.end() :].strip()
            else:
                break
        yield labels, statement
