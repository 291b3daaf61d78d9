"""Pickles read without running anything.

A pickle is a program. This reader knows the instructions that tables of tensors need, and calls nothing that a pickle names: a
stand-in remembers the name and its arguments. With a list of allowed names, a pickle that names anything else is refused.
Without one every name is a stand-in, and the reader of the tables decides which it accepts: training checkpoints keep objects of
any class beside their weights. torch's weights-only reader cannot be used, because it makes the tensors, and a few bytes can ask
it for any amount of memory (``bytearray(2**40)``).

It extends the reader of the standard library that is written in Python; the one written in C allocates a table of 2**31 entries
for a few bytes.
"""

from __future__ import annotations

import _compat_pickle
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
        table: The entries that the result would be given, if it is a table of a class of its own.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = field(default=None, repr=False)
    table: dict[Any, Any] | None = field(default=None, repr=False)

    def __hash__(self) -> int:
        return id(self)

    @property
    def fields(self) -> dict[str, Any]:
        """The state, if it is a table; else empty."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else self.table or {}

    def entries(self) -> Mapping[Any, Any] | None:
        """What the result holds, if it is a table, or a module that was pickled as a whole; None for any other object.

        A pickled `nn.Module` has the tables ``_parameters``, ``_buffers`` and ``_modules``; one of TorchScript has its tensors
        and modules as attributes.
        """
        fields = self.fields
        if isinstance(fields.get("_modules"), Mapping):
            parts = (fields.get(key) for key in ("_parameters", "_buffers", "_modules"))
            return {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}
        if self.name.startswith("__torch__."):
            return fields
        return self.table or None


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
        data: The pickle, or a file that is at its first byte.
        allowed: Names that it may use, as ``module.name``. With None every name is remembered.
        persistent: Makes the stand-in for an object that is stored elsewhere, from its reference.
    """

    def __init__(
        self, data: bytes | io.BytesIO, allowed: frozenset[str] | None, persistent: Persistent | None = None
    ) -> None:
        size = len(data) if isinstance(data, bytes) else data.getbuffer().nbytes
        if size > MAX_BYTES:
            raise UnsafePickle(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
        super().__init__(io.BytesIO(data) if isinstance(data, bytes) else data, encoding="latin1")
        self._allowed, self._persistent = allowed, persistent
        self._left = MAX_INSTRUCTIONS
        self._names: dict[str, Name] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name, spelled as Python 3 does: protocols up to 2 have ``__builtin__.set``."""
        if self.proto < 3:
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if self._allowed is not None and full not in self._allowed:
            raise UnsafePickle(f"it asks for {full[:100]!r}, which could run code")
        return self._names.setdefault(full, Name(full))

    def persistent_load(self, pid: Any) -> Any:
        """The stand-in for an object that is stored elsewhere."""
        if self._persistent is None:
            raise UnsafePickle("it refers to something stored elsewhere")
        return self._persistent(pid)

    def _called(self, function: Any, arguments: Any) -> Any:
        if self._allowed is None and isinstance(function, Call):  # such as a class within a class, found by getattr
            function = Name(function.name)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise UnsafePickle("it calls something that is not a function")
        if function.name in ("collections.OrderedDict", "builtins.dict", "collections.defaultdict"):
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            out: OrderedDict[Any, Any] = OrderedDict()
            for pair in pairs:
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    raise UnsafePickle("a table has entries that are not pairs")
                out[self._key(pair[0])] = pair[1]
            return out
        if function.name == "copyreg._reconstructor" and arguments and isinstance(arguments[0], Name):
            function = arguments[0]  # an object of protocol 0 or 1
        return Call(function.name, arguments)

    def _key(self, key: Any) -> Any:
        """The key, if hashing it is cheap."""
        if isinstance(key, (*_KEYS, Name, Call)):
            return key
        if isinstance(key, tuple) and len(key) < 64 and all(isinstance(k, _KEYS) for k in key):
            return key
        if self._allowed is None:
            return Call("a key")  # equal to no other
        raise UnsafePickle(f"a table has a {type(key).__name__} as a key")

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
        elif self._allowed is not None and not isinstance(
            self.stack[-1], OrderedDict
        ):  # its state, such as _metadata, is not needed
            raise UnsafePickle("it changes something that is not an object")

    def load_setitem(self) -> None:
        """An entry of a table."""
        value, key = self.stack.pop(), self.stack.pop()
        self._table()[self._key(key)] = value

    def load_setitems(self) -> None:
        """Entries of a table."""
        items = self.pop_mark()
        table = self._table()
        for at in range(0, len(items) - 1, 2):
            table[self._key(items[at])] = items[at + 1]

    def load_dict(self) -> None:
        """A table with its entries."""
        items = self.pop_mark()
        self.append({self._key(items[at]): items[at + 1] for at in range(0, len(items) - 1, 2)})

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
        """A number of any length. As part of settings it is not needed, and its bytes are left out."""
        if self._allowed is None:
            self.read(min(int.from_bytes(self.read(4), "little"), MAX_BYTES))
            self.append(Call("builtins.int"))
            return
        raise UnsafePickle("it holds a number of more than 255 bytes")

    def _table(self) -> Any:
        top = self.stack[-1]
        if type(top) in (dict, OrderedDict):
            return top
        if isinstance(top, Call):  # a class of tables
            if top.table is None:
                top.table = {}
            return top.table
        raise UnsafePickle("it fills something that is not a table")

    def _list(self) -> list[Any]:
        top = self.stack[-1]
        if type(top) is list:
            return top
        if self._allowed is None and isinstance(top, Call):  # a class of lists, whose entries are not needed
            return []
        raise UnsafePickle("it fills something that is not a list")

    def load_empty_set(self) -> None:
        """An empty set. What is put into it is not needed."""
        self.append(Call("builtins.set"))

    def load_additems(self) -> None:
        """Entries of a set."""
        self.pop_mark()

    def load_frozenset(self) -> None:
        """A set that does not change."""
        self.pop_mark()
        self.append(Call("builtins.frozenset"))

    def load_bytearray8(self) -> None:
        """Bytes that may change, here without making room for as many as the pickle says before they are there."""
        size = int.from_bytes(self.read(8), "little")
        if size > MAX_BYTES:
            raise UnsafePickle(f"it asks for {size:,} bytes, which tables of tensors do not need")
        self.append(self.read(size))


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
    unused = {pickle.INST[0], pickle.OBJ[0], pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]}
    unused |= {pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0], pickle.DUP[0]}
    unused |= {pickle.PERSID[0], pickle.STRING[0], pickle.UNICODE[0]}
    for code, handler in Reader.__mro__[1].dispatch.items():
        own = getattr(Reader, handler.__name__, handler)
        stop = code == pickle.STOP[0]
        out[code] = handler if stop else _counted(_refuse if code in unused else own)
    return out


Reader.dispatch = _table_of_instructions()


def read_pickle(
    data: bytes | io.BytesIO, what: str, allowed: frozenset[str] | None, persistent: Persistent | None = None
) -> Any:
    """The object that a pickle describes, made of plain values, `Call` and `Name`.

    Args:
        data: The pickle, or a file that is at its first byte; it is left after the last.
        what: The file, for messages.
        allowed: Names that it may use; None for any.
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


def entries_of(value: Any) -> Mapping[Any, Any] | None:
    """The entries of a table, or of an object that is one; None for anything else."""
    return value if isinstance(value, Mapping) else value.entries() if isinstance(value, Call) else None


@dataclass(frozen=True)
class Leaf:
    """A value in nested tables that is not a table itself.

    Attributes:
        value: The value.
        table: A number for the table that it lies in.
    """

    value: Any
    table: int


def flatten(
    value: Any,
    skip: Callable[[str], bool] = lambda _: False,
    limit: int = 1_000_000,
    characters: int = MAX_BYTES // 4,
) -> dict[str, Leaf]:
    """The calls and names among the leaves of nested tables, by dotted path. A table that occurs several times is entered once.

    Args:
        value: A table.
        skip: Whether to leave out a path and what is below it.
        limit: How many entries there may be.
        characters: How many characters their paths may have altogether. A pickle holds a long name once, and may use it as often
            as it likes.
    """
    out: dict[str, Leaf] = {}
    seen: set[int] = set()
    stack: list[tuple[str, Any, int, int]] = [("", value, 0, 0)]
    while stack:
        path, here, depth, table = stack.pop()
        inside = entries_of(here)
        if inside is not None:
            if id(here) in seen or depth > 32:
                continue
            seen.add(id(here))
            for key, inner in reversed(list(inside.items())):
                limit -= 1
                key = str(key) if type(key) is int else key
                if not isinstance(inner, (Mapping, Call, Name)) or type(key) is not str or len(key) + len(path) > 4096:
                    continue
                name = f"{path}.{key}" if path else key
                characters -= len(name)
                if limit < 0 or characters < 0:
                    raise CheckpointError("there are too many entries in its tables: it is corrupted")
                if not skip(name):
                    stack.append((name, inner, depth + 1, len(seen)))
        elif isinstance(here, (Call, Name)):
            out[path] = Leaf(here, table)
    return out
