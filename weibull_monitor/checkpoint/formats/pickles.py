"""Pickles read without running anything.

A pickle is a program. This reader knows the instructions that tables of tensors need, and a short list of names that they may
call. It calls none of them: a stand-in remembers the name and its arguments. A pickle that names anything else, or uses other
instructions, is refused. torch's weights-only reader cannot be used, because it makes the tensors, and a few bytes can ask it for
any amount of memory (``bytearray(2**40)``).

It extends the reader of the standard library that is written in Python; the one written in C allocates a table of 2**31 entries
for a few bytes.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from weibull_monitor.errors import CheckpointError

MAX_BYTES: Final = 64 << 20
MAX_INSTRUCTIONS: Final = 4_000_000
"""A tensor takes about 40, a shard about 25."""


class UnsafePickle(Exception):
    """A pickle that is not read, and why."""


@dataclass
class Call:
    """A call that a pickle asks for. It is not made.

    Attributes:
        name: Module and name of the function or class.
        arguments: Its arguments.
        state: The state that the result would be given afterwards.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = field(default=None, repr=False)

    def __hash__(self) -> int:
        return id(self)

    @property
    def fields(self) -> dict[str, Any]:
        """The state, if it is a table; else empty."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}


@dataclass(frozen=True)
class Name:
    """A class, function or constant that a pickle names. It is not imported."""

    name: str


Persistent = Callable[[Any], Any]
_KEYS: Final = (str, int, float, bool, bytes, type(None))

_PICKLE: Any = pickle  # the type stubs do not have its Python form


class Reader(_PICKLE._Unpickler):  # type: ignore[misc]
    """Reads one pickle.

    Args:
        data: The pickle.
        allowed: Names that it may use, as ``module.name``.
        persistent: Makes the stand-in for an object that is stored elsewhere, from its reference.
    """

    def __init__(self, data: bytes, allowed: frozenset[str], persistent: Persistent | None = None) -> None:
        if len(data) > MAX_BYTES:
            raise UnsafePickle(f"it has {len(data):,} bytes, more than {MAX_BYTES:,}")
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._allowed, self._persistent = allowed, persistent
        self._left = MAX_INSTRUCTIONS

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        full = f"{module}.{name}"
        if full not in self._allowed:
            raise UnsafePickle(f"it asks for {full[:100]!r}, which could run code")
        return Name(full)

    def persistent_load(self, pid: Any) -> Any:
        """The stand-in for an object that is stored elsewhere."""
        if self._persistent is None:
            raise UnsafePickle("it refers to something stored elsewhere")
        return self._persistent(pid)

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise UnsafePickle("it calls something that is not a function")
        if function.name in ("collections.OrderedDict", "builtins.dict", "collections.defaultdict"):
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            out: OrderedDict[Any, Any] = OrderedDict()
            for pair in pairs:
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    raise UnsafePickle("a table has entries that are not pairs")
                out[_key(pair[0])] = pair[1]
            return out
        return Call(function.name, arguments)

    def load_reduce(self) -> None:
        """A call."""
        arguments = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """An object of a class."""
        arguments = self.stack.pop()
        self.stack.append(self._called(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        """An object of a class with named arguments, which are not needed here."""
        self.stack.pop()
        self.load_newobj()

    def load_build(self) -> None:
        """The state of an object."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Call):
            self.stack[-1].state = state
        elif not isinstance(self.stack[-1], OrderedDict):  # its state, such as _metadata, is not needed
            raise UnsafePickle("it changes something that is not an object")

    def load_setitem(self) -> None:
        """An entry of a table."""
        value, key = self.stack.pop(), self.stack.pop()
        self._table()[_key(key)] = value

    def load_setitems(self) -> None:
        """Entries of a table."""
        items = self.pop_mark()
        table = self._table()
        for at in range(0, len(items) - 1, 2):
            table[_key(items[at])] = items[at + 1]

    def load_dict(self) -> None:
        """A table with its entries."""
        items = self.pop_mark()
        self.append({_key(items[at]): items[at + 1] for at in range(0, len(items) - 1, 2)})

    def load_append(self) -> None:
        """An entry of a list."""
        value = self.stack.pop()
        self._list().append(value)

    def load_appends(self) -> None:
        """Entries of a list."""
        items = self.pop_mark()
        self._list().extend(items)

    def load_int(self) -> None:
        """A number in decimal."""
        line = self.readline()[:-1]
        if len(line) > 32:
            raise UnsafePickle("it holds a number of more than 32 digits")
        if line in (b"00", b"01"):  # False and True in protocol 0
            self.append(line == b"01")
        else:
            self.append(int(line.rstrip(b"L") or b"0"))

    load_long = load_int

    def load_long4(self) -> None:
        """A number of any length."""
        raise UnsafePickle("it holds a number of more than 255 bytes")

    def _table(self) -> Any:
        top = self.stack[-1]
        if type(top) in (dict, OrderedDict):
            return top
        if isinstance(top, Call):  # a class of tables
            top.state = top.state if isinstance(top.state, dict) else {}
            return top.state
        raise UnsafePickle("it fills something that is not a table")

    def _list(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise UnsafePickle("it fills something that is not a list")
        return self.stack[-1]


def _refuse(reader: Reader) -> None:
    raise UnsafePickle("it uses an instruction that tables of tensors do not need")


def _counted(handler: Callable[[Reader], None]) -> Callable[[Reader], None]:
    def load(reader: Reader) -> None:
        reader._left -= 1
        if not reader._left:
            raise UnsafePickle(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
        handler(reader)

    return load


def _table_of_instructions() -> dict[int, Callable[[Reader], None]]:
    """The handlers of the base class, replaced by those of `Reader` where it has its own, and each counted."""
    out = {}
    unused = {pickle.INST[0], pickle.OBJ[0], pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0], pickle.EMPTY_SET[0]}
    unused |= {pickle.FROZENSET[0], pickle.ADDITEMS[0], pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0]}
    unused |= {pickle.BYTEARRAY8[0], pickle.DUP[0], pickle.PERSID[0], pickle.STRING[0], pickle.UNICODE[0]}
    for code, handler in Reader.__mro__[1].dispatch.items():
        own = getattr(Reader, handler.__name__, handler)
        stop = code == pickle.STOP[0]
        out[code] = handler if stop else _counted(_refuse if code in unused else own)
    return out


Reader.dispatch = _table_of_instructions()


def _key(key: Any) -> Any:
    """The key, if hashing it is cheap."""
    if isinstance(key, (*_KEYS, Name, Call)):
        return key
    if isinstance(key, tuple) and len(key) < 64 and all(isinstance(k, _KEYS) for k in key):
        return key
    raise UnsafePickle(f"a table has a {type(key).__name__} as a key")


def read_pickle(data: bytes, what: str, allowed: frozenset[str], persistent: Persistent | None = None) -> Any:
    """The object that a pickle describes, made of plain values, `Call` and `Name`.

    Args:
        data: The pickle.
        what: The file, for messages.
        allowed: Names that it may use.
        persistent: Makes the stand-in for an object that is stored elsewhere, from its reference.

    Raises:
        CheckpointError: If it is not a pickle, uses another name, or asks for too much. Nothing of it has been run.

    >>> read_pickle(pickle.dumps({"a": [1, 2]}), "a file", frozenset())
    {'a': [1, 2]}
    >>> read_pickle(pickle.dumps(print), "a file", frozenset())
    Traceback (most recent call last):
    weibull_monitor.errors.CheckpointError: a file is not read: it asks for 'builtins.print', which could run \
code. Nothing of it was run; save the weights alone, best as safetensors
    """
    try:
        return Reader(data, allowed, persistent).load()
    except UnsafePickle as error:
        raise CheckpointError(
            f"{what} is not read: {error}. Nothing of it was run; save the weights alone, best as safetensors"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # an interpreter of corrupted bytes may fail in any way
        reason = str(error)[:80] or type(error).__name__
        raise CheckpointError(f"{what} is not a valid table of tensors ({reason}); the file is corrupted") from error


def flatten(value: Any, skip: Callable[[str], bool] = lambda _: False, limit: int = 1_000_000) -> dict[str, Any]:
    """The leaves of nested tables by dotted path. A table that occurs several times is entered once.

    Args:
        value: A table.
        skip: Whether to leave out a path and what is below it.
        limit: How many leaves there may be.
    """
    out: dict[str, Any] = {}
    seen: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    while stack:
        path, here, depth = stack.pop()
        if isinstance(here, Mapping):
            if id(here) in seen or depth > 32:
                continue
            seen.add(id(here))
            for key, inner in reversed(list(here.items())):
                name = f"{path}.{key}" if path else str(key)
                if len(name) < 4096 and not skip(name):
                    stack.append((name, inner, depth + 1))
        else:
            out[path] = here
            if len(out) > limit:
                raise CheckpointError(f"there are more than {limit:,} entries in its tables: it is corrupted")
    return out
