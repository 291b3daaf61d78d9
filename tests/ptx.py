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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


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
class _Buffer:
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
            self.buffers.append(_Buffer(name, storage.data_ptr(), data))

    def at(self, addresses: Array, size: int) -> tuple[_Buffer, Array]:
        """The buffer that all addresses lie in, and the offset of each."""
        if (addresses % np.uint64(size)).any():
            raise PTXError(f"an access of {size} bytes that is not aligned")
        first = int(addresses.min())
        for buffer in self.buffers:
            if buffer.start <= first and int(addresses.max()) + size <= buffer.start + len(buffer.data):
                return buffer, (addresses - np.uint64(buffer.start)).astype(np.int64)
        raise PTXError(f"an access of {size} bytes outside of the tensors: {first:#x}")


class _Shared:
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
class _Warp:
    registers: list[Array]
    special: dict[str, Any]
    threads: Array
    lanes: Array
    """Whether each lane takes part in the instruction that is being executed."""
    shared: _Shared
    memory: Memory
    parameters: dict[str, int]
    tally: Tally


Do = Callable[[_Warp], None]
Get = Callable[[_Warp], Array]


@dataclass
class _Instruction:
    text: str
    name: str
    guard: tuple[int, bool] | None
    do: Do | None
    target: int = -1


class Program:
    """A kernel, read from PTX.

    Args:
        ptx: A module with one kernel.
        dynamic_shared: Bytes of shared memory that a launch asks for.
    """

    def __init__(self, ptx: str, dynamic_shared: int) -> None:
        self.slots: dict[str, int] = {}
        self.types: list[str] = []
        self.symbols: dict[str, int] = {}
        self.shared = SHARED_START
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
        self.code: list[_Instruction] = []
        branches: list[tuple[_Instruction, str]] = []
        for names, statement in statements:
            labels |= dict.fromkeys(names, len(self.code))
            if statement and not statement.startswith("."):
                instruction = self._read(statement)
                self.code.append(instruction)
                if instruction.name.startswith("bra"):
                    branches.append((instruction, statement.split()[-1]))
        for instruction, label in branches:
            instruction.target = labels[label]

    # Reading.

    def _declare(self, statement: str) -> None:
        if found := re.match(r"\.reg\s+\.(\w+)\s+(.*)$", statement, re.DOTALL):
            for name in found[2].split(","):
                numbered = re.match(r"\s*(%\w+)<(\d+)>", name)
                many = [f"{numbered[1]}{n}" for n in range(int(numbered[2]))] if numbered else [name.strip()]
                for one in many:
                    if one not in self.slots:
                        self.slots[one] = len(self.types)
                        self.types.append(found[1])
                    elif self.types[self.slots[one]] != found[1]:
                        raise PTXError(f"two registers of one name and different types: {one}")
        elif found := re.match(r"\.shared\s+\.align\s+(\d+)\s+\.\w?(\d+)\s+(\w+)\[(\d+)\]", statement):
            align, bits, size = int(found[1]), int(found[2]), int(found[4])
            self.shared = -(-self.shared // align) * align
            self.symbols[found[3]] = self.shared
            self.shared += size * bits // 8
        else:
            raise PTXError(f"not understood: {statement}")

    def _read(self, statement: str) -> _Instruction:
        found = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", statement, re.DOTALL)
        if not found:
            raise PTXError(f"not understood: {statement}")
        guard = (self.slots[found[2]], found[1] != "!") if found[2] else None
        name, operands = found[3], _operands(found[4])
        do = None if name.split(".")[0] in ("bra", "ret", "bar") else self._operation(name, operands)
        return _Instruction(" ".join(statement.split()), name, guard, do)

    def _source(self, operand: str, kind: str) -> Get:
        """What reads an operand as a type."""
        dtype = FORMATS[kind]
        if operand in self.slots:
            slot = self.slots[operand]
            if kind == "pred":
                return lambda warp: warp.registers[slot]
            unsigned = UNSIGNED[np.dtype(dtype).itemsize]
            return lambda warp: warp.registers[slot].astype(unsigned, copy=False).view(dtype)
        if operand.startswith("%"):
            return lambda warp: np.broadcast_to(np.asarray(warp.special[operand], dtype=dtype), LANES)
        if re.match(r"0[dD][0-9A-Fa-f]{16}$", operand):
            bits: Any = np.array([int(operand[2:], 16)], dtype=np.uint64).view(dtype)
        elif re.match(r"0[fF][0-9A-Fa-f]{8}$", operand):
            bits = np.array([int(operand[2:], 16)], dtype=np.uint32).view(dtype)
        else:
            value = self.symbols[operand] if operand in self.symbols else int(operand.rstrip("U"), 0)
            if kind == "pred":
                bits = np.array([value != 0])
            else:
                size = np.dtype(dtype).itemsize
                bits = np.array([value & (2 ** (8 * size) - 1)], dtype=UNSIGNED[size]).view(dtype)
        constant = np.broadcast_to(bits, LANES)
        return lambda warp: constant

    def _target(self, operand: str) -> Callable[[_Warp, Array], None]:
        """What writes a register, in the lanes that take part."""
        if operand == "_":
            return lambda warp, value: None
        slot = self.slots[operand]

        def put(warp: _Warp, value: Array) -> None:
            register = warp.registers[slot]
            if value.dtype != register.dtype:
                # A narrower value is extended by its sign, if it has one; a wider one loses its upper bits.
                size = register.dtype.itemsize
                if value.dtype.kind == "i" and value.dtype.itemsize < size:
                    value = value.astype(f"i{size}")
                value = value.view(UNSIGNED[value.dtype.itemsize]).astype(register.dtype)
            np.copyto(register, value, where=warp.lanes)

        return put

    def _operation(self, name: str, operands: list[str]) -> Do:
        parts = name.replace("::cta", "").split(".")
        op, kind = parts[0], parts[-1]
        if op in ("ld", "st", "red", "atom"):
            return self._access(parts, operands)
        if op == "mov" and any(operand.startswith("{") for operand in operands):
            return self._repack(kind, operands)
        if op in ("shfl", "redux", "vote"):
            return self._across(parts, operands)
        if op == "setp":
            compare = COMPARE[parts[1]]
            a, b, to = self._source(operands[1], kind), self._source(operands[2], kind), self._target(operands[0])
            return lambda warp: to(warp, compare(a(warp), b(warp)))
        if op == "selp":
            a, b = self._source(operands[1], kind), self._source(operands[2], kind)
            which, to = self._source(operands[3], "pred"), self._target(operands[0])
            return lambda warp: to(warp, np.where(which(warp), a(warp), b(warp)))
        if op == "cvt":
            return self._convert(parts, operands)
        wide = "wide" in parts
        function = FUNCTIONS.get(f"{op}.{kind}" if kind in ("f32", "f64", "pred") else op)
        if function is None or not set(parts[1:-1]) <= {"lo", "wide", "rn", "uni", "ftz", "approx"}:
            raise PTXError(f"no such instruction here: {name}")
        result = WIDE[kind] if wide else kind
        kinds = [kind] * (len(operands) - 1)
        if op in ("shl", "shr"):
            kinds[1] = "u32"
        elif op == "bfe":
            kinds[1:] = ["u32", "u32"]
        elif op == "mad" and wide:
            kinds[2] = result
        sources = [self._source(operand, each) for operand, each in zip(operands[1:], kinds, strict=True)]
        to, dtype = self._target(operands[0]), FORMATS[result]
        if wide:
            return lambda warp: to(warp, function(*(source(warp).astype(dtype) for source in sources)))
        return lambda warp: to(warp, function(*(source(warp) for source in sources)).astype(dtype, copy=False))

    def _convert(self, parts: list[str], operands: list[str]) -> Do:
        to_kind, from_kind = parts[-2:]
        if {to_kind[0], from_kind[0]} <= {"u", "s"}:
            rounds: set[str] = set()
        elif to_kind[0] == "f" and from_kind[0] in "us":
            rounds = {"rn"}
        else:
            raise PTXError(f"no such instruction here: {'.'.join(parts)}")
        if set(parts[1:-2]) != rounds:
            raise PTXError(f"no such instruction here: {'.'.join(parts)}")
        source, to, dtype = self._source(operands[1], from_kind), self._target(operands[0]), FORMATS[to_kind]
        return lambda warp: to(warp, source(warp).astype(dtype))

    def _repack(self, kind: str, operands: list[str]) -> Do:
        """``mov`` between a register and the two halves of it."""
        whole = np.dtype(FORMATS[kind]).itemsize
        half = f"b{4 * whole}"
        if operands[0].startswith("{"):
            source = self._source(operands[1], kind)
            to = [self._target(name) for name in _members(operands[0])]

            def split(warp: _Warp) -> None:
                halves = np.ascontiguousarray(source(warp)).view(FORMATS[half]).reshape(LANES, 2)
                for put, value in zip(to, halves.T.copy(), strict=True):
                    put(warp, value)

            return split
        sources = [self._source(name, half) for name in _members(operands[1])]
        put = self._target(operands[0])
        return lambda warp: put(warp, np.stack([s(warp) for s in sources], axis=1).view(FORMATS[kind])[:, 0])

    def _across(self, parts: list[str], operands: list[str]) -> Do:
        """Between the lanes of a warp, which all have to take part."""
        name, lane = ".".join(parts), np.arange(LANES)
        exchange: Get
        if name == "redux.sync.add.s32":
            numbers = self._source(operands[1], "s32")
            exchange = lambda warp: np.full(LANES, numbers(warp).sum(dtype=np.int32), dtype=np.int32)  # noqa: E731
        elif name == "vote.sync.ballot.b32":
            votes, bit = self._source(operands[1], "pred"), np.uint64(1) << lane.astype(np.uint64)
            exchange = lambda warp: np.full(LANES, bit[votes(warp)].sum(), dtype=np.uint32)  # noqa: E731
        elif (name, operands[3]) in (("shfl.sync.bfly.b32", "31"), ("shfl.sync.up.b32", "0")) and "|" not in operands[
            0
        ]:
            words, by = self._source(operands[1], "b32"), int(operands[2], 0)
            origin = lane ^ by if "bfly" in parts else np.where(lane >= by, lane - by, lane)
            exchange = lambda warp: words(warp)[origin]  # noqa: E731
        else:
            raise PTXError(f"no such instruction here: {name}")
        members, to = self._source(operands[-1], "u32"), self._target(operands[0])

        def across(warp: _Warp) -> None:
            if int(members(warp)[0]) != 2**LANES - 1 or not warp.lanes.all():
                raise PTXError("an exchange within a warp without all of its lanes")
            to(warp, exchange(warp))

        return across

    def _access(self, parts: list[str], operands: list[str]) -> Do:
        """Loads, stores and atomic additions."""
        op, kind = parts[0], parts[-1]
        space = next((part for part in parts if part in ("global", "shared", "param")), "")
        vector = next((int(part[1:]) for part in parts if re.fullmatch(r"v\d", part)), 1)
        place = next(n for n, operand in enumerate(operands) if operand.startswith("["))
        base, _, offset = operands[place][1:-1].partition("+")
        base, shift = base.strip(), int(offset or 0)
        if space == "param":
            to, dtype = self._target(operands[0]), FORMATS[kind]
            return lambda warp: to(warp, np.full(LANES, warp.parameters[base], dtype=np.int64).astype(dtype))
        if space not in ("global", "shared"):
            raise PTXError(f"no such instruction here: {'.'.join(parts)}")
        address = self._source(base, "u64" if space == "global" else "u32")
        itemsize = np.dtype(FORMATS[kind]).itemsize
        size = itemsize * vector
        names = _members(operands[1 - place]) if op in ("ld", "st") else operands[place + 1 :]
        reach = np.arange(size)

        def where(warp: _Warp, how: str) -> tuple[npt.NDArray[np.uint8], Array, str]:
            addresses = address(warp)[warp.lanes].astype(np.int64) + shift
            if space == "global":
                buffer, offsets = warp.memory.at(addresses.view(np.uint64), size)
                return buffer.data, offsets, buffer.name
            offsets = addresses - SHARED_START
            if (offsets < 0).any() or (offsets + size > len(warp.shared.data)).any() or (addresses % size).any():
                raise PTXError("an access outside of shared memory, or not aligned")
            warp.shared.note(how, offsets, size, warp.threads[warp.lanes])
            return warp.shared.data, offsets, ""

        if op == "ld":
            targets = [self._target(name) for name in names]

            def load(warp: _Warp) -> None:
                data, offsets, name = where(warp, "read")
                if name:
                    warp.tally.bytes_read[name] += size * len(offsets)
                found = np.zeros((LANES, vector), dtype=UNSIGNED[itemsize])
                found[warp.lanes] = data[offsets[:, None] + reach].view(UNSIGNED[itemsize])
                for put, value in zip(targets, found.T.copy(), strict=True):
                    put(warp, value.view(FORMATS[kind]))

            return load
        sources = [self._source(name, kind) for name in names]
        if op == "st":

            def store(warp: _Warp) -> None:
                data, offsets, _ = where(warp, "write")
                values = np.stack([source(warp)[warp.lanes] for source in sources], axis=1)
                written = np.ascontiguousarray(values).view(np.uint8).reshape(len(offsets), size)
                data[offsets[:, None] + reach] = written
                if (data[offsets[:, None] + reach] != written).any():
                    raise PTXError("a race: two lanes write different values to one word")

            return store
        if "add" not in parts or kind not in ("u32", "u64", "s32"):
            raise PTXError(f"no such instruction here: {'.'.join(parts)}")
        old = self._target(operands[0]) if op == "atom" and operands[0] != "_" else None

        def add(warp: _Warp) -> None:
            data, offsets, _ = where(warp, "add")
            if old is not None:  # which of them found what is not known
                old(warp, np.full(LANES, GARBAGE, dtype=UNSIGNED[itemsize]))
            first = offsets[0] % itemsize  # of a buffer that need not begin at a multiple of the width
            whole = data[first : first + (len(data) - first) // itemsize * itemsize].view(UNSIGNED[itemsize])
            np.add.at(whole, (offsets - first) // itemsize, sources[0](warp)[warp.lanes].view(UNSIGNED[itemsize]))
            if space == "shared":
                words = np.unique(offsets // 4)
                warp.tally.shared_adds += len(offsets)
                warp.tally.passes += int(np.bincount(words % 32).max())

        return add

    # Running.

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
                shared = _Shared(self.shared - SHARED_START)
                warps = []
                for first in range(0, self.threads, LANES):
                    threads = np.arange(first, first + LANES)
                    special = {"%tid.x": threads, "%ctaid.x": block, "%laneid": np.arange(LANES), "%nctaid.x": grid}
                    registers = [_garbage(kind, generator) for kind in self.types]
                    lanes = np.ones(LANES, dtype=bool)
                    warp = _Warp(registers, special, threads, lanes, shared, memory, parameters, tally)
                    warps.append(self._warp(warp))
                self._block(warps, shared, generator)
        return tally

    def _block(self, warps: list[Iterator[int]], shared: _Shared, generator: np.random.Generator) -> None:
        while True:
            at = {next(warps[n], -1) for n in generator.permutation(len(warps))}
            if len(at) > 1:
                raise PTXError("the warps of a block wait at different barriers")
            if at == {-1}:
                return
            shared.barrier()

    def _warp(self, warp: _Warp) -> Iterator[int]:
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


def _operands(text: str) -> list[str]:
    return [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s][^,]*", text)]


def _members(operand: str) -> list[str]:
    return [name.strip() for name in operand.strip("{}").split(",")]


def _shift_right(a: Array, by: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    over = by >= bits
    shifted = a >> np.minimum(by, bits - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(over, a.dtype.type(0), shifted)


def _shift_left(a: Array, by: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    return np.where(by >= bits, a.dtype.type(0), a << np.minimum(by, bits - 1).astype(a.dtype))


def _field(a: Array, position: Array, length: Array) -> Array:
    if a.dtype.kind == "i":
        raise PTXError("a field with a sign is not taken here")
    return (a >> position.astype(a.dtype)) & ((a.dtype.type(1) << length.astype(a.dtype)) - a.dtype.type(1))


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "u":
        return a // b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def _fused(a: Array, b: Array, c: Array) -> Array:
    """a·b + c, rounded once but for the last bits of an 80-bit number."""
    extended = np.longdouble
    return (a.astype(extended) * b.astype(extended) + c.astype(extended)).astype(np.float64)


def _bits_set(a: Array) -> Array:
    return np.unpackbits(a.view(np.uint8).reshape(LANES, -1), axis=1).sum(axis=1)


def _unordered(compare: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)


def _not_equal(a: Array, b: Array) -> Array:
    """Ordered: false where one is not a number."""
    return (a < b) | (a > b)


COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": _not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "equ": _unordered(np.equal), "neu": _unordered(_not_equal), "ltu": _unordered(np.less),
    "leu": _unordered(np.less_equal), "gtu": _unordered(np.greater), "geu": _unordered(np.greater_equal),
}  # fmt: skip

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "mov": lambda a: a, "add": np.add, "sub": np.subtract, "mul": np.multiply, "mad": lambda a, b, c: a * b + c,
    "min": np.minimum, "max": np.maximum, "div": _divide, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "shl": _shift_left, "shr": _shift_right, "bfe": _field, "popc": _bits_set,
    "mov.pred": lambda a: a, "and.pred": np.logical_and, "or.pred": np.logical_or, "xor.pred": np.logical_xor,
    "not.pred": np.logical_not,
    "mov.f64": lambda a: a, "add.f64": np.add, "sub.f64": np.subtract, "mul.f64": np.multiply, "div.f64": np.divide,
    "neg.f64": np.negative, "abs.f64": np.abs, "min.f64": np.fmin, "max.f64": np.fmax, "sqrt.f64": np.sqrt,
    "fma.f64": _fused, "rcp.f64": np.reciprocal, "abs.f32": np.abs,
}  # fmt: skip
