"""Which tensors of a checkpoint make up which parameter of the model that its configuration describes.

Names differ by what wrappers and trainers put before them, by what transformers renames when it loads, and, of experts, by
their storage: one matrix each in the file, one tensor for all of them in the model. An expert's matrix is then a box of
the model's parameter, and is counted there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from weibull_monitor.checkpoint.formats.tensors import Piece, StoredTensor
from weibull_monitor.model.components.names import clean_name

Names = Mapping[str, StoredTensor]
_LEVELS: Final = 4
"""Segments that trainers put before a model's names at most (``state_dict.model.module.…``)."""


@dataclass(frozen=True)
class ModelMatch:
    """A checkpoint laid onto a model.

    Attributes:
        parameters: For every parameter that is in the checkpoint, its elements; named as in the model.
        missing: Parameters of the model that are not.
        left: Tensors that are no parameter of the model.
    """

    parameters: Mapping[str, StoredTensor]
    missing: tuple[str, ...]
    left: Mapping[str, StoredTensor]


def onto_model(tensors: Names, model: nn.Module) -> ModelMatch:
    """Lays the tensors of a checkpoint onto a model's parameters.

    Args:
        tensors: What the checkpoint holds, by name.
        model: The model, on any device; not modified.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    everything = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    tied = {name: first for first, names in _shared(model).items() for name in names}
    known = everything.keys() | dict(model.named_buffers()).keys()
    renamed = _Renaming(model)
    prefix = _prefix(tensors, renamed, known)
    whole: dict[str, StoredTensor] = {}
    boxes: dict[str, list[tuple[tuple[int, ...], StoredTensor]]] = {}
    left: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        target, place = renamed(_without(name, prefix), known)
        target = tied.get(target, target)
        if target not in shapes:
            if target not in known:
                left[name] = tensor
        elif place is not None:
            boxes.setdefault(target, []).append((place, tensor))
        elif tensor.shape == shapes[target] or tensor.problem:
            whole.setdefault(target, replace(tensor, name=target))
        else:
            left[name] = tensor
    for target, members in boxes.items():
        merged = _merged(target, shapes[target], members)
        if merged is None:
            left |= {tensor.name: tensor for _, tensor in members}
        else:
            whole.setdefault(target, merged)
    missing = tuple(name for name in shapes if name not in whole)
    return ModelMatch(whole, missing, left)


def _merged(
    name: str, shape: tuple[int, ...], members: Sequence[tuple[tuple[int, ...], StoredTensor]]
) -> StoredTensor | None:
    """A parameter made of experts' matrices: (source, expert) of each says where it belongs. None if they do not make it up."""
    sizes: dict[int, int] = {}
    for (source, _), tensor in members:
        if len(tensor.shape) != len(shape) - 1 or tensor.shape[1:] != shape[2:] or tensor.problem:
            return None
        if sizes.setdefault(source, tensor.shape[0]) != tensor.shape[0]:
            return None
    starts, at = {}, 0
    for source in sorted(sizes):
        starts[source], at = at, at + sizes[source]
    cells = {place for place, _ in members}
    if at != shape[1] or cells != {(s, e) for s in sizes for e in range(shape[0])} or len(cells) != len(members):
        return None
    if len({tensor.dtype for _, tensor in members}) != 1:
        return None
    pieces = tuple(
        _shifted(piece, expert, starts[source])
        for (source, expert), tensor in sorted(members, key=lambda m: (m[0][1], m[0][0]))
        for piece in tensor.pieces
    )
    return StoredTensor(name, shape, members[0][1].dtype, pieces)


def _shifted(piece: Piece, expert: int, row: int) -> Piece:
    strides = None if piece.strides is None else (0, *piece.strides)
    return replace(piece, sizes=(1, *piece.sizes), at=(expert, piece.at[0] + row, *piece.at[1:]), strides=strides)


def _shared(model: nn.Module) -> dict[str, list[str]]:
    """For every parameter that has several names, the others."""
    first: dict[int, str] = {}
    out: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            out.setdefault(first[id(parameter)], []).append(name)
        else:
            first[id(parameter)] = name
    return out


def _prefix(tensors: Names, renamed: _Renaming, known: Iterable[str]) -> str:
    """What stands before the model's names in the checkpoint: the prefix with which most of them are found."""
    candidates: Counter[str] = Counter({"": 1})
    names = [clean_name(name) for name, tensor in tensors.items() if len(tensor.shape) > 1]
    for name in names:
        segments = name.split(".")
        for depth in range(1, min(len(segments), _LEVELS + 1)):
            candidates[".".join(segments[:depth]) + "."] += 1
    likely = [prefix for prefix, count in candidates.most_common(32) if count * 2 > len(names) or not prefix]
    sample = names[:: max(1, len(names) // 200)]
    keys = known if isinstance(known, set) else set(known)

    def found(prefix: str) -> int:
        return sum(renamed(_without(name, prefix), keys)[0] in keys for name in sample)

    return max(sorted(likely, key=len), key=found)


def _without(name: str, prefix: str) -> str:
    return clean_name(name).removeprefix(prefix)


class _Renaming:
    """What transformers makes of a checkpoint's names, where it is a model of its own.

    Experts that it merges are told by `MergeModulelist` along dimension 0 and, for gate and up, `Concatenate` along dimension 1;
    what it converts in another way keeps the name that it has in the file.
    """

    def __init__(self, model: nn.Module) -> None:
        self._base = str(getattr(model, "base_model_prefix", "") or "")
        self._renamings: list[Any] = []
        self._converters: list[Any] = []
        if not self._base:
            return
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightConverter, WeightRenaming

            for rule in get_model_conversion_mapping(model):
                if isinstance(rule, WeightRenaming):
                    self._renamings.append(rule)
                elif isinstance(rule, WeightConverter):
                    self._converters.append(rule)
        except (ImportError, AttributeError, TypeError):  # before version 5 it loads names as they are
            self._renamings, self._converters = [], []

    def __call__(self, name: str, known: Iterable[str]) -> tuple[str, tuple[int, int] | None]:
        """The parameter that a tensor belongs to and, if it is a part of it, (source, expert)."""
        if self._based(name, known) in known:
            return self._based(name, known), None
        for rule in self._renamings:
            name = rule.rename_source_key(name)[0]
        for rule in self._converters:
            target, source = rule.rename_source_key(name)
            if source is None:
                continue
            index = _expert(name, source)
            operations = [(type(op).__name__, getattr(op, "dim", None)) for op in rule.operations]
            merges = operations in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)])
            if merges and index is not None and len(rule.target_patterns) == 1:
                return self._based(target, known), (list(rule.source_patterns).index(source), index)
            return name, None
        return self._based(name, known), None

    def _based(self, name: str, known: Iterable[str]) -> str:
        """The name with or without the prefix of the base model, whichever the model has."""
        if name in known or not self._base:
            return name
        for other in (name.removeprefix(f"{self._base}."), f"{self._base}.{name}"):
            if other in known:
                return other
        return name


def _expert(name: str, pattern: str) -> int | None:
    """The number that stands for the ``*`` of a pattern."""
    before, star, after = pattern.partition("*")
    at = name.rfind(before)
    rest = name[at + len(before) :] if star and at >= 0 else ""
    number = rest.removesuffix(after) if rest.endswith(after) else ""
    return int(number) if number.isdigit() and len(number) < 8 else None
