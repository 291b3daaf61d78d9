"""What a configuration describes, found out in a process of its own: a model is built there, and only names and shapes come back.

`described` is the one way from a configuration that cannot be trusted to matrices. The process is started when it is first
needed, and answers one request after another until the outermost `process` ends.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import nn

from weibull_monitor.checkpoint.config import cleaned, read_config, with_model_type
from weibull_monitor.checkpoint.formats.tensors import Contents
from weibull_monitor.checkpoint.layout import CheckpointLayout, Find, lay_out
from weibull_monitor.checkpoint.limits import environment, limit, refuse_contacts
from weibull_monitor.checkpoint.match import match_model
from weibull_monitor.errors import (
    CheckpointError,
    ConfigurationError,
    MissingDependencyError,
    WeibullMonitorError,
    text_of,
)
from weibull_monitor.model.architecture import facts_of
from weibull_monitor.model.components import attention_types
from weibull_monitor.model.initialisation import initial_scales
from weibull_monitor.model.meta_device import build, build_from, configuration_classes, configuration_from

MEGABYTES: Final = 300
"""Memory that building a model may take; `PER_TENSOR` more for each tensor of its checkpoint."""
SECONDS: Final = 4
"""Time of the processor that building a model may take; more for the tensors of its checkpoint."""
PATIENCE: Final = 120.0
"""Seconds after which a process that does not answer is ended, whatever it waits for: importing libraries is part of it."""
MAX_ANSWER: Final = 1 << 28
OLD_TYPES: Final = ("bert", "gpt2", "distilbert", "roberta")
"""Model types of the time when configurations did not name theirs."""
SMALL: Final = 0.05
"""Share of the elements of a checkpoint that such a model may not have."""
_START: Final = "import sys; sys.path[:] = sys.argv[1:]; from weibull_monitor.checkpoint.child import serve; serve()"


@dataclass(frozen=True)
class Described:
    """What a configuration describes.

    Attributes:
        layout: The matrices of its model; those of the checkpoint, if there is one.
        model: The class of the model and its type.
    """

    layout: CheckpointLayout
    model: Mapping[str, Any]


@dataclass(frozen=True)
class _Request:
    config: Mapping[str, Any] | str  # settings, or a model type
    contents: Contents | None
    find: Find


@dataclass(frozen=True)
class _Refusal:
    """Why a model could not be built."""

    reason: str


@dataclass
class _Process:
    """A process that builds models, and the directory that it has for a cache."""

    running: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str] = field(repr=False)

    def end(self) -> None:
        """Ends it, whatever it does."""
        with suppress(OSError):
            self.running.kill()
        for stream in (self.running.stdin, self.running.stdout):
            with suppress(OSError):
                stream.close() if stream else None
        self.running.wait()
        with suppress(OSError):
            self.folder.cleanup()


_depth = 0
_process: _Process | None = None
_one_at_a_time: Final = threading.RLock()


@contextmanager
def process() -> Iterator[None]:
    """Within it, all models are built in one process, which is started when it is first needed and ended at the end."""
    global _depth
    with _one_at_a_time:
        _depth += 1
    try:
        yield
    finally:
        with _one_at_a_time:
            _depth -= 1
            if not _depth:
                _end()


def described(config: Path, find: Find, contents: Contents | None = None) -> Described:
    """The matrices that a configuration describes. Nothing is downloaded, and no code that it names is run.

    Args:
        config: A ``config.json``.
        find: Finds the components of a model; can be pickled.
        contents: The tables of its checkpoint, if there is one: its components are those that are stored.

    Raises:
        CheckpointError: If it cannot be read, or asks for more than there can be.
        ConfigurationError: If no model can be built from it within the limits.
        MissingDependencyError: If transformers is not installed.
    """
    return _answer_to(_Request(read_config(config, None if contents is None else contents.tensors), contents, find))


def described_by(source: str | Path, find: Find, contents: Contents | None = None) -> Described:
    """Like `described`, for what a user names.

    Args:
        source: A ``config.json``, a directory that holds one, or a model type such as ``llama``: its default configuration.
        find: Finds the components of a model; can be pickled.
        contents: The tables of the checkpoint that it belongs to, if there is one.

    Raises:
        ConfigurationError: If there is no such configuration, or no model can be built from it within the limits.
        MissingDependencyError: If transformers is not installed.
    """
    path = Path(source)
    if not os.path.lexists(path):
        return _answer_to(_Request(str(source), contents, find))
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise ConfigurationError(f"{source} holds no config.json; name the directory that does")
    try:
        return described(file, find, contents)
    except (CheckpointError, ConfigurationError) as error:
        raise ConfigurationError(f"{source} cannot be used as a configuration: {error}; name another") from error


def _answer_to(request: _Request) -> Described:
    if importlib.util.find_spec("transformers") is None:
        raise MissingDependencyError("transformers", "transformers")
    with process(), _one_at_a_time:
        answer = _ask(pickle.dumps(request))
    if isinstance(answer, WeibullMonitorError):
        raise answer
    return answer


def _ask(request: bytes) -> Described | WeibullMonitorError:
    global _process
    if _process is None or _process.running.poll() is not None:
        _end()
        _process = _started()
    timer = threading.Timer(PATIENCE, _process.running.kill)
    timer.daemon = True
    timer.start()
    try:
        _send(_process.running.stdin, request)
        return _loaded(_received(_process.running.stdout))
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        _end()
        return ConfigurationError("building its model takes too much time or memory")
    except BaseException:  # Ctrl-C: what it still answers must not be taken for the next answer
        _end()
        raise
    finally:
        timer.cancel()


def _started() -> _Process:
    folder = tempfile.TemporaryDirectory(prefix="weibull-model-")
    try:
        running = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *(os.path.abspath(path) for path in sys.path if path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(folder.name),
            cwd=folder.name,
        )
    except OSError as error:
        folder.cleanup()
        raise ConfigurationError(f"the process that builds its model cannot be started: {error.strerror}") from error
    return _Process(running, folder)


def _end() -> None:
    global _process
    if _process is not None:
        _process.end()
        _process = None


def _send(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is None:
        raise EOFError
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _received(stream: IO[bytes] | None) -> bytes:
    size = int.from_bytes(_exactly(stream, 8), "little")
    if size > MAX_ANSWER:
        raise EOFError
    return _exactly(stream, size)


def _exactly(stream: IO[bytes] | None, size: int) -> bytes:
    data = stream.read(size) if stream is not None else b""
    if len(data) < size:
        raise EOFError
    return data


class _Answer(pickle.Unpickler):
    """Reads an answer, in which only values of this package may be."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of a value."""
        found = getattr(sys.modules.get(module), name, None)
        ours = (
            module.startswith("weibull_monitor.")
            and isinstance(found, type)
            and (is_dataclass(found) or issubclass(found, Enum))
        )
        if ours or isinstance(found, torch.dtype) or (module.startswith("pathlib") and name.endswith("Path")):
            return found
        if module == "builtins" and name in ("frozenset", "set"):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")


def _loaded(answer: bytes) -> Described | WeibullMonitorError:
    found = _Answer(io.BytesIO(answer)).load()
    if isinstance(found, Described):
        return found
    if isinstance(found, _Refusal):
        return ConfigurationError(found.reason)
    raise pickle.UnpicklingError("not an answer")


def serve() -> None:
    """What the process does: it reads requests from standard input until that ends, and writes answers."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)  # a library that prints must not write into the answers
    refuse_contacts()
    with suppress(ImportError):  # before the limits, which do not count what is there
        from transformers import PreTrainedModel  # noqa: F401
        from transformers.models.auto import modeling_auto  # noqa: F401
    while True:
        try:
            request: _Request = pickle.loads(_received(requests))
        except EOFError:
            return
        tensors = len(request.contents.tensors) if request.contents is not None else 0
        limit(MEGABYTES + tensors // 50, SECONDS + tensors // 500)
        _send(answers, pickle.dumps(_answered(request)))


def _answered(request: _Request) -> Described | _Refusal:
    try:
        return _found(request)
    except MemoryError:
        return _Refusal("building its model takes too much memory")
    except Exception as error:  # a constructor of transformers may fail in any way
        return _Refusal(" ".join(text_of(error).split())[:300] or type(error).__name__)


def _built(values: Mapping[str, Any], contents: Contents | None) -> nn.Module:
    """The model of settings. If they do not name a type, one whose parameters all matrices of the checkpoint fit."""
    mapping = configuration_classes()
    names = contents.tensors if contents is not None else ()
    settings = with_model_type(values, names, mapping)
    kinds = OLD_TYPES if settings.get("model_type") is None and contents is not None else ()
    for kind in kinds:
        with suppress(ConfigurationError):
            model = build_from(configuration_from(cleaned({**values, "model_type": kind}, mapping)))
            if contents is not None and _fits(contents, model):
                return model
    return build_from(configuration_from(cleaned(settings, mapping)))


def _fits(contents: Contents, model: nn.Module) -> bool:
    """Whether the matrices of a checkpoint are those of a model, but for small ones, as of a head."""
    elements = sum(tensor.numel for tensor in contents.tensors.values())
    return sum(tensor.numel for tensor in match_model(contents.tensors, model).left.values()) < SMALL * elements


def _found(request: _Request) -> Described:
    given = request.config
    model = build(given) if isinstance(given, str) else _built(given, request.contents)
    if request.contents is not None:
        layout = lay_out(request.contents, model, request.find)
    else:
        found = request.find(model)
        layout = CheckpointLayout(found, {}, attention_types(model, found.components), ())
    drawn = initial_scales(model)
    measured = {c.parameter for c in layout.discovery.components}
    return Described(layout, {**facts_of(model), "initial": {n: list(drawn[n]) for n in drawn.keys() & measured}})
