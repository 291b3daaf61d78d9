"""Finds the checkpoints at a path: which format each has, how it is read, its step and its configuration.

A path may be a file, an index of shards, a folder of one checkpoint, or a folder of several checkpoints of one run. Nothing is
read here but names, first bytes and small JSON files; `CheckpointSource.read` reads the tables.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from weibull_monitor.checkpoint.formats.dcp import METADATA, read_dcp
from weibull_monitor.checkpoint.formats.files import MAX_INDEX, open_file, read_at, read_json, siblings
from weibull_monitor.checkpoint.formats.foreign import LEGACY, foreign_name
from weibull_monitor.checkpoint.formats.safetensors import read_safetensors
from weibull_monitor.checkpoint.formats.tensors import Contents, StoredTensor
from weibull_monitor.checkpoint.formats.torch_file import is_zip, read_torch
from weibull_monitor.errors import CheckpointError

INDEXES: Final = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "adapter_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin.index.json",
)
SINGLE: Final = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "adapter_model.bin",
)
"""Files of a model folder, in the order in which they are looked for."""
_SHARD: Final = re.compile(r"-\d{5}-of-(\d{5})\.(?:safetensors|bin)$")
_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_SHARDED: Final = {True: "sharded safetensors", False: "sharded torch.save"}
_BESIDE: Final = re.compile(
    r"^(?:optimizer|scheduler|rng_state\w*|training_args|scaler|random_states\w*)\.(?:bin|pt|pth|pkl)$"
)
"""Files that training keeps beside the model."""
_STEP: Final = re.compile(r"(?i)(?:^|[-_.])(?:checkpoint|ckpt|global_step|step|iter|iteration)s?[-_=]?(\d+)(?:$|[-_.])")
_DEEPSPEED: Final = re.compile(r"^(?:mp_rank_\d+|zero_pp_rank_\d+)\w*_states\.pt$")
MAX_CHECKPOINTS: Final = 10_000


@dataclass(frozen=True)
class CheckpointSource:
    """One checkpoint: where it is and how its tables are read.

    Attributes:
        path: What the user named, or what was found there.
        format: Its format, in words.
        read: Reads its tables.
        config: Folder of its ``config.json``, or None.
        step: Optimizer steps taken, by its name or its trainer's state; None if they do not say.
        notes: Remarks for the user on how it was found.
    """

    path: Path
    format: str
    read: Callable[[], Contents]
    config: Path | None = None
    step: int | None = None
    notes: tuple[str, ...] = ()


def all_sources(paths: Iterable[Path]) -> list[CheckpointSource]:
    """The checkpoints at several paths, in the order given."""
    return [source for path in paths for source in sources_at(path)]


def sources_at(path: Path) -> list[CheckpointSource]:
    """The checkpoints at a path: one, or several of a run in the order of their steps.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path} cannot be opened: {reason}; name a checkpoint's file or directory") from error
    if not os.path.isdir(path):
        return [_distributed(path.parent) if path.name == METADATA else _file(path)]
    one = _folder(path)
    several = _several(path)
    if one is not None:
        more = f"it also holds {len(several)} checkpoints; name those for their trajectory" if several else ""
        return [replace(one, notes=(*one.notes, more)) if more else one]
    if several:
        return several
    raise CheckpointError(_nothing(path))


def _file(path: Path) -> CheckpointSource:
    """The checkpoint that a file holds, or that an index of shards describes."""
    if path.name.endswith(".index.json"):
        return _indexed(path)
    with open_file(path) as fd:
        magic = read_at(fd, 0, min(32, os.fstat(fd).st_size), path)
        zipped = is_zip(fd)
    step, config = step_of_name(path.name), _config(path.parent)
    of_torch = zipped or LEGACY in magic
    if not of_torch and (path.suffix == ".safetensors" or magic[8:9] == b"{"):
        return CheckpointSource(path, "safetensors", lambda: read_safetensors(path), config, step)
    kind = "Lightning checkpoint" if path.suffix == ".ckpt" else "torch.save"
    return CheckpointSource(path, kind, lambda: read_torch(path), config, step)


def _folder(path: Path) -> CheckpointSource | None:
    """The checkpoint that a folder is, if it is one. What the folder says of the step comes before the names of its files."""
    found = _weights_of(path)
    if found is None:
        return None
    step = _trainer_step(path)
    step = step_of_name(path.name) if step is None else step
    return replace(found, path=path, step=found.step if step is None else step)


def _weights_of(path: Path) -> CheckpointSource | None:
    """The one checkpoint whose files lie in a folder."""
    if (path / METADATA).is_file():
        return _distributed(path)
    for name in (*INDEXES, *SINGLE):
        if (path / name).is_file():
            return _file(path / name)
    inner = path / "pytorch_model_fsdp_0"  # Accelerate, and the Trainer with fsdp=
    if (inner / METADATA).is_file():
        return replace(_distributed(inner), config=_config(path))
    names = _names(path)
    for suffix in (".safetensors", ".bin"):
        shards = [name for name in names if name.endswith(suffix) and _SHARD.search(name)]
        if shards:
            return _shards_without_index(path, shards)
    weights = _weight_files(names)
    return _file(path / weights[0]) if len(weights) == 1 and not _DEEPSPEED.match(weights[0]) else None


def _several(path: Path) -> list[CheckpointSource]:
    """The checkpoints in a folder: its folders and files whose names have a step."""
    found = []
    for name in _names(path):
        inner = path / name
        if step_of_name(name) is None:
            continue
        if inner.is_dir():
            one = _folder(inner)
            if one is not None:
                found.append(one)
        elif name.endswith(_SUFFIXES) and not _SHARD.search(name):
            found.append(_file(inner))
    return sorted(found, key=lambda s: (s.step is None, s.step or 0))


def _distributed(directory: Path) -> CheckpointSource:
    config = _config(directory) or _config(directory.parent)
    step = step_of_name(directory.name)
    return CheckpointSource(directory, "distributed checkpoint", lambda: read_dcp(directory), config, step)


def _indexed(index: Path) -> CheckpointSource:
    safe = ".bin.index" not in index.name

    def read() -> Contents:
        table = read_json(index, MAX_INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise CheckpointError(
                f"{index} is not an index of shards: it has no weight_map; name a checkpoint's file or directory"
            )
        shards: dict[Path, list[str]] = {}
        for name, path in zip(table, siblings(index, list(table.values())), strict=True):
            shards.setdefault(path, []).append(name)
        missing = [path for path in shards if not os.path.exists(path)]
        if missing:
            raise CheckpointError(
                f"{missing[0]} cannot be opened: No such file or directory; the index names it: incomplete download? "
                f"({len(missing)} of {len(shards)} shards are missing)"
            )
        return _read_shards(shards, safe, index)

    return CheckpointSource(index, _SHARDED[safe], read, _config(index.parent), step_of_name(index.parent.name))


def _shards_without_index(path: Path, names: Sequence[str]) -> CheckpointSource:
    safe = names[0].endswith(".safetensors")

    def read() -> Contents:
        found = _SHARD.search(names[0])
        expected = int(found[1]) if found else 0
        if expected != len(names):
            raise CheckpointError(f"{path} has {len(names)} shards of {expected}; copy the missing ones")
        contents = _read_shards({path / name: None for name in names}, safe, path)
        return replace(contents, notes=("it has no index of its shards, so all of them are read",))

    return CheckpointSource(path, _SHARDED[safe], read, _config(path))


def _read_shards(shards: Mapping[Path, Sequence[str] | None], safe: bool, where: Path) -> Contents:
    """The tables of several files as those of one checkpoint.

    Args:
        shards: The files, and the tensors that are in each by the index; None for all.
        safe: Whether they are safetensors files.
        where: The index or the folder, for messages.
    """
    tensors: dict[str, StoredTensor] = {}
    size = 0
    for shard, names in shards.items():
        found = (read_safetensors if safe else read_torch)(shard)
        wanted = list(found.tensors) if names is None else names
        for name in wanted:
            if name not in found.tensors:
                raise CheckpointError(
                    f"{where} says that {name[:80]!r} is in {shard.name}, where it is not; copy both again"
                )
            if name in tensors:
                raise CheckpointError(f"{where}: {name[:80]!r} is in two shards; name the one that is meant")
            tensors[name] = found.tensors[name]
        size += found.size
    return Contents(_in_file_order(tensors), size)


def _in_file_order(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    def place(tensor: StoredTensor) -> tuple[str, int]:
        return (str(tensor.pieces[0].file), tensor.pieces[0].offset) if tensor.pieces else ("", 0)

    return {tensor.name: tensor for tensor in sorted(tensors.values(), key=place)}


def _config(folder: Path) -> Path | None:
    return folder if (folder / "config.json").is_file() else None


def _trainer_step(folder: Path) -> int | None:
    """The step in the ``trainer_state.json`` that the Hugging Face Trainer writes beside its checkpoints."""
    state = folder / "trainer_state.json"
    if not state.is_file():
        return None
    try:
        step = read_json(state).get("global_step")
    except CheckpointError:  # the weights may be fine, and the name of the folder has the step too
        return None
    return step if type(step) is int and step >= 0 else None


def step_of_name(name: str) -> int | None:
    """The step in the name of a checkpoint, or None.

    >>> [step_of_name(n) for n in ("checkpoint-300", "epoch=2-step=1500.ckpt", "global_step40", "ckpt_0010.pt", "model.pt")]
    [300, 1500, 40, 10, None]
    """
    found = _STEP.findall(name)
    return int(found[-1]) if found and len(found[-1]) < 16 else None


def _weight_files(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(_SUFFIXES) and not _BESIDE.match(name)]


def _names(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}; check the path") from error
    if len(names) > MAX_CHECKPOINTS:
        raise CheckpointError(f"{folder} has {len(names):,} entries; name the checkpoint that is meant")
    return names


def _nothing(path: Path) -> str:
    """Why a folder cannot be scanned, and what to do."""
    names = _names(path)
    if any(_DEEPSPEED.match(name) for name in names) or any(n.startswith("global_step") for n in names):
        return f"{path} is DeepSpeed's own format; run the zero_to_fp32.py beside it, and scan what it writes"
    if "model_index.json" in names:
        return f"{path} is a pipeline of several models; name one of its folders, such as {path / 'transformer'}"
    weights = _weight_files(names)
    if weights:
        return (
            f"{path} holds {len(weights)} files of weights ({', '.join(weights[:3])}, …); name one of them, or several"
        )
    if other := foreign_name(names):
        return f"{path} holds no checkpoint that can be read: {other[0]} {other[1]}"
    return f"{path} holds no checkpoint; name a .safetensors, .bin, .pt or .ckpt file, a model folder, or a directory of these"


def logged_rates(path: Path) -> dict[int, float]:
    """The learning rates that the Hugging Face Trainer has logged beside a checkpoint, by step; empty if there are none."""
    state = (path if path.is_dir() else path.parent) / "trainer_state.json"
    try:
        entries = read_json(state).get("log_history") if state.is_file() else None
    except CheckpointError:
        return {}
    found = {}
    for entry in entries if isinstance(entries, list) else ():
        step, eta = (entry.get("step"), entry.get("learning_rate")) if isinstance(entry, dict) else (None, None)
        if type(step) is int and isinstance(eta, float) and 0.0 <= eta < math.inf:
            found[step] = eta
    return found
