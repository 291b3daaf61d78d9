"""What a path holds: one checkpoint, in one of the formats, or several of one run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from weibull_monitor.checkpoint.formats.dcp import METADATA, read_dcp
from weibull_monitor.checkpoint.formats.files import opened, read_at, read_json
from weibull_monitor.checkpoint.formats.safetensors import read_safetensors, weight_map
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
_TORCH: Final = (".bin", ".pt", ".pth", ".ckpt")
_BESIDE: Final = re.compile(
    r"^(?:optimizer|scheduler|rng_state\w*|training_args|scaler|random_states\w*)\.(?:bin|pt|pth|pkl)$"
)
"""What training keeps beside its model."""
_STEP: Final = re.compile(r"(?i)(?:^|[-_.])(?:checkpoint|ckpt|global_step|step|iter|iteration)s?[-_=]?(\d+)(?:$|[-_.])")
_DEEPSPEED: Final = re.compile(r"^(?:mp_rank_\d+|zero_pp_rank_\d+)\w*_states\.pt$")
MAX_CHECKPOINTS: Final = 10_000


@dataclass(frozen=True)
class Source:
    """One checkpoint.

    Attributes:
        path: What the user named, or what was found there.
        format: What it is, in words.
        read: Reads its tables.
        config: Where its configuration may be; None where there is none.
        step: Optimizer steps taken, by its names or its trainer's state; None if they do not say.
        notes: What there is to say of how it was found.
    """

    path: Path
    format: str
    read: Callable[[], Contents]
    config: Path | None = None
    step: int | None = None
    notes: tuple[str, ...] = ()


def sources_at(path: Path) -> list[Source]:
    """The checkpoints at a path: one, or several of a run in the order of their steps.

    Raises:
        CheckpointError: If there is none, or nothing that can be read.
    """
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path} cannot be opened: {reason}; name a checkpoint's file or directory") from error
    if not os.path.isdir(path):
        if path.name == METADATA:
            return [_dcp(path.parent, path.parent)]
        return [_file(path)]
    one = _folder(path)
    several = _several(path)
    if one is not None:
        more = f"it also holds {len(several)} checkpoints; name those for their trajectory" if several else ""
        return [replace(one, notes=(*one.notes, more)) if more else one]
    if several:
        return several
    raise CheckpointError(_nothing(path))


def _file(path: Path) -> Source:
    step = step_of_name(path.name)
    config = _config(path.parent)
    if path.name.endswith(".index.json"):
        return _sharded(path, path)
    with opened(path) as fd:
        magic = read_at(fd, 0, min(16, os.fstat(fd).st_size), path)
        zipped = is_zip(fd)
    if path.suffix == ".safetensors" or (not zipped and magic[8:9] == b"{"):
        return Source(path, "safetensors", lambda: read_safetensors(path), config, step)
    kind = "Lightning checkpoint" if path.suffix == ".ckpt" else "torch.save"
    return Source(path, kind, lambda: read_torch(path), config, step)


def _folder(path: Path) -> Source | None:
    """The one checkpoint that a folder is."""
    step = _trainer_step(path)
    step = step_of_name(path.name) if step is None else step
    if (path / METADATA).is_file():
        return replace(_dcp(path, path), step=step)
    for name in INDEXES:
        if (path / name).is_file():
            return replace(_sharded(path / name, path), step=step)
    for name in SINGLE:
        if (path / name).is_file():
            return replace(_file(path / name), path=path, step=step)
    inner = path / "pytorch_model_fsdp_0"  # Accelerate, and the Trainer with fsdp=
    if (inner / METADATA).is_file():
        return replace(_dcp(inner, path), step=step)
    names = _names(path)
    for suffix in (".safetensors", ".bin"):
        shards = [name for name in names if name.endswith(suffix) and _SHARD.search(name)]
        if shards:
            return replace(_shards_without_index(path, shards), step=step)
    weights = [n for n in names if n.endswith((".safetensors", *_TORCH)) and not _BESIDE.match(n)]
    if len(weights) == 1 and not _DEEPSPEED.match(weights[0]):
        found = _file(path / weights[0])
        return replace(found, path=path, step=found.step if step is None else step)
    return None


def _several(path: Path) -> list[Source]:
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
        elif name.endswith((".safetensors", *_TORCH)) and not _SHARD.search(name):
            found.append(_file(inner))
    return sorted(found, key=lambda s: (s.step is None, s.step or 0))


def _sharded(index: Path, path: Path) -> Source:
    torch_files = ".bin.index" in index.name
    read = read_torch if torch_files else read_safetensors

    def contents() -> Contents:
        tensors: dict[str, StoredTensor] = {}
        size = 0
        for shard, names in weight_map(index).items():
            found = read(shard)
            if missing := [name for name in names if name not in found.tensors]:
                raise CheckpointError(
                    f"{index} says that {missing[0]!r} is in {shard.name}, where it is not; copy both again"
                )
            tensors |= {name: found.tensors[name] for name in found.tensors.keys() & set(names)}
            size += found.size
        return Contents(_in_file_order(tensors), size)

    kind = "sharded torch.save" if torch_files else "sharded safetensors"
    return Source(path, kind, contents, _config(index.parent), step_of_name(index.parent.name))


def _shards_without_index(path: Path, shards: Sequence[str]) -> Source:
    safe = shards[0].endswith(".safetensors")

    def contents() -> Contents:
        found = _SHARD.search(shards[0])
        if found is None or int(found[1]) != len(shards):
            raise CheckpointError(
                f"{path} has {len(shards)} shards of {int(found[1]) if found else 0}; copy the missing ones"
            )
        tensors: dict[str, StoredTensor] = {}
        size = 0
        for shard in shards:
            one = (read_safetensors if safe else read_torch)(path / shard)
            if twice := tensors.keys() & one.tensors.keys():
                raise CheckpointError(f"{path}: {min(twice)!r} is in two shards; name the one that is meant")
            tensors |= one.tensors
            size += one.size
        return Contents(tensors, size, notes=("there is no index of its shards: all of them are read",))

    return Source(path, "sharded safetensors" if safe else "sharded torch.save", contents, _config(path))


def _dcp(directory: Path, path: Path) -> Source:
    config = _config(path) or _config(directory.parent)
    step = step_of_name(path.name)
    return Source(path, "distributed checkpoint", lambda: read_dcp(directory), config, step)


def _in_file_order(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    def place(tensor: StoredTensor) -> tuple[str, int]:
        return (str(tensor.pieces[0].file), tensor.pieces[0].offset) if tensor.pieces else ("", 0)

    return {tensor.name: tensor for tensor in sorted(tensors.values(), key=place)}


def _config(folder: Path) -> Path | None:
    return folder if (folder / "config.json").is_file() else None


def _trainer_step(folder: Path) -> int | None:
    """The step in the state that the Hugging Face Trainer writes beside its checkpoints."""
    state = folder / "trainer_state.json"
    if not state.is_file():
        return None
    try:
        step = read_json(state).get("global_step")
    except CheckpointError:  # its weights may be whole; the name of the folder has the step too
        return None
    return step if type(step) is int and step >= 0 else None


def step_of_name(name: str) -> int | None:
    """The step that the name of a checkpoint says.

    >>> [step_of_name(n) for n in ("checkpoint-300", "epoch=2-step=1500.ckpt", "global_step40", "ckpt_0010.pt", "model.pt")]
    [300, 1500, 40, 10, None]
    """
    found = _STEP.findall(name)
    return int(found[-1]) if found and len(found[-1]) < 16 else None


def _names(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}; check the path") from error
    if len(names) > MAX_CHECKPOINTS:
        raise CheckpointError(f"{folder} has {len(names):,} entries; name the checkpoint that is meant")
    return names


def _nothing(path: Path) -> str:
    names = _names(path)
    if any(_DEEPSPEED.match(name) for name in names) or any(n.startswith("global_step") for n in names):
        return f"{path} is DeepSpeed's own format; run the zero_to_fp32.py beside it, and scan what it writes"
    if "model_index.json" in names:
        return f"{path} is a pipeline of several models; name one of its folders, such as {path / 'transformer'}"
    weights = [n for n in names if n.endswith((".safetensors", *_TORCH)) and not _BESIDE.match(n)]
    if weights:
        return (
            f"{path} holds {len(weights)} files of weights ({', '.join(weights[:3])}, …); name one of them, or several"
        )
    return f"{path} holds no checkpoint; name a .safetensors, .bin, .pt or .ckpt file, a model folder, or a directory of these"


def all_sources(paths: Iterable[Path]) -> list[Source]:
    """The checkpoints at several paths, in the order given."""
    return [source for path in paths for source in sources_at(path)]
