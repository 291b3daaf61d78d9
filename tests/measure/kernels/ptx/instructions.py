"""Translates the instructions of a kernel into functions that do to a warp what each of them does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from measure.kernels.ptx.machine import FORMATS, GARBAGE, LANES, SHARED_START, UNSIGNED, Array, PTXError, Warp

WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}

Do = Callable[[Warp], None]
Get = Callable[[Warp], Array]


@dataclass
class Instruction:
    text: str
    name: str
    guard: tuple[int, bool] | None
    do: Do | None
    target: int = -1


class Instructions:
    """The registers and symbols that a kernel declares, and what reads its instructions."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.types: list[str] = []
        self.symbols: dict[str, int] = {}
        self.shared = SHARED_START

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

    def _read(self, statement: str) -> Instruction:
        found = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", statement, re.DOTALL)
        if not found:
            raise PTXError(f"not understood: {statement}")
        guard = (self.slots[found[2]], found[1] != "!") if found[2] else None
        name, operands = found[3], _operands(found[4])
        do = None if name.split(".")[0] in ("bra", "ret", "bar") else self._operation(name, operands)
        return Instruction(" ".join(statement.split()), name, guard, do)

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

    def _target(self, operand: str) -> Callable[[Warp, Array], None]:
        """What writes a register, in the lanes that take part."""
        if operand == "_":
            return lambda warp, value: None
        slot = self.slots[operand]

        def put(warp: Warp, value: Array) -> None:
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
        elif to_kind[0] == "s" and from_kind == "f64":
            rounds = {"rzi"}  # as numpy does it
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

            def split(warp: Warp) -> None:
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

        def across(warp: Warp) -> None:
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

        def where(warp: Warp, how: str) -> tuple[npt.NDArray[np.uint8], Array, str]:
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

            def load(warp: Warp) -> None:
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

            def store(warp: Warp) -> None:
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

        def add(warp: Warp) -> None:
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
