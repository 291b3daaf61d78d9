"""Assigns the tensors of a checkpoint to the parameters of the model that its configuration describes.

Names differ by prefixes of wrappers and trainers, and by what transformers renames when it loads. Experts may be stored as one
matrix each in the file and as one tensor in the model; an expert's matrix is then a box of that parameter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from weibull_monitor.checkpoint.formats.tensors import Piece, StoredTensor
from weibull_monitor.model.components.names import clean_name

Names = Mapping[str, StoredTensor]
_LEVELS: Final = 4
"""Most segments that trainers put before a model's names (``state_dict.model.module.…``)."""


@dataclass(frozen=True)
class ModelMatch:
    """Which tensors of a checkpoint belong to which parameters of a model.

    Attributes:
        parameters: The elements of every parameter that is in the checkpoint, by its name in the model.
        missing: Parameters of the model that are not in the checkpoint.
        left: Tensors that do not belong to a parameter of the model.
    """

    parameters: Mapping[str, StoredTensor]
    missing: tuple[str, ...]
    left: Mapping[str, StoredTensor]


def match_model(tensors: Names, model: nn.Module) -> ModelMatch:
    """Assigns the tensors of a checkpoint to a model's parameters.

    Args:
        tensors: The tensors of the checkpoint, by name.
        model: The model, on any device; not modified.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    everything = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    tied = _tied(model)
    known = everything.keys() | dict(model.named_buffers()).keys()
    convert = _NameConversion(model, known)
    prefix = _prefix(tensors, convert)
    whole: dict[str, StoredTensor] = {}
    boxes: dict[str, list[tuple[tuple[int, ...], StoredTensor]]] = {}
    left: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        target, place = convert(_without(name, prefix))
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
        merged = _merge_experts(target, shapes[target], members)
        if merged is None:
            left |= {tensor.name: tensor for _, tensor in members}
        else:
            whole.setdefault(target, merged)
    missing = tuple(name for name in shapes if name not in whole)
    return ModelMatch(whole, missing, left)


def _merge_experts(
    name: str, shape: tuple[int, ...], members: Sequence[tuple[tuple[int, ...], StoredTensor]]
) -> StoredTensor | None:
    """The parameter, (experts, rows, columns), that experts' matrices make up by their (source, expert); None if they do not."""
    sizes: dict[int, int] = {}
    for (source, _), tensor in members:
        if len(tensor.shape) != len(shape) - 1 or tensor.shape[1:] != shape[2:] or tensor.problem:
            return None
        if sizes.setdefault(source, tensor.shape[0]) != tensor.shape[0]:
            return None
    starts, at = {}, 0  # the first row of each source: gate comes before up
    for source in sorted(sizes):
        starts[source], at = at, at + sizes[source]
    cells = {place for place, _ in members}
    if at != shape[1] or cells != {(s, e) for s in sizes for e in range(shape[0])} or len(cells) != len(members):
        return None
    if len({tensor.dtype for _, tensor in members}) != 1:
        return None
    pieces = tuple(
        _within(piece, expert, starts[source])
        for (source, expert), tensor in sorted(members, key=lambda m: (m[0][1], m[0][0]))
        for piece in tensor.pieces
    )
    return StoredTensor(name, shape, members[0][1].dtype, pieces)


def _within(piece: Piece, expert: int, row: int) -> Piece:
    """A piece of an expert's matrix as a piece of the parameter of all experts."""
    strides = None if piece.strides is None else (0, *piece.strides)
    return replace(piece, sizes=(1, *piece.sizes), at=(expert, piece.at[0] + row, *piece.at[1:]), strides=strides)


def _tied(model: nn.Module) -> dict[str, str]:
    """The first name of every parameter, by each of its names."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}


def _prefix(tensors: Names, convert: _NameConversion) -> str:
    """The prefix of the model's names in the checkpoint: the one without which most of them are known to the model."""
    candidates: Counter[str] = Counter({"": 1})
    names = [clean_name(name) for name, tensor in tensors.items() if len(tensor.shape) > 1]
    for name in names:
        segments = name.split(".")
        for depth in range(1, min(len(segments), _LEVELS + 1)):
            candidates[".".join(segments[:depth]) + "."] += 1
    likely = [prefix for prefix, count in candidates.most_common(32) if count * 2 > len(names) or not prefix]
    sample = names[:: max(1, len(names) // 200)]

    def found(prefix: str) -> int:
        return sum(convert(_without(name, prefix))[0] in convert.known for name in sample)

    return max(sorted(likely, key=len), key=found)


def _without(name: str, prefix: str) -> str:
    return clean_name(name).removeprefix(prefix)


class _NameConversion:
    """Converts a checkpoint's names to those of the model, as transformers does for its own models.

    Experts that it merges are known by `MergeModulelist` along dimension 0 and, for gate and up, `Concatenate` along dimension 1.
    Tensors that it converts in another way keep the name that they have in the file.

    Args:
        model: The model.
        known: Names of its parameters and buffers.
    """

    def __init__(self, model: nn.Module, known: Set[str]) -> None:
        self.known = known
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
        except (ImportError, AttributeError, TypeError):  # before version 5, transformers had no such rules
            self._renamings, self._converters = [], []

    def __call__(self, name: str) -> tuple[str, tuple[int, int] | None]:
        """The parameter that a tensor belongs to and, if it is a part of it, (source, expert)."""
        if self._with_base(name) in self.known:
            return self._with_base(name), None
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
                return self._with_base(target), (list(rule.source_patterns).index(source), index)
            return name, None
        return self._with_base(name), None

    def _with_base(self, name: str) -> str:
        """The name with or without the prefix of the base model, whichever the model has."""
        if name in self.known or not self._base:
            return name
        for other in (name.removeprefix(f"{self._base}."), f"{self._base}.{name}"):
            if other in self.known:
                return other
        return name


def _expert(name: str, pattern: str) -> int | None:
    """The number that stands for the ``*`` of a pattern."""
    before, star, after = pattern.partition("*")
    at = name.rfind(before)
    rest = name[at + len(before) :] if star and at >= 0 else ""
    number = rest.removesuffix(after) if rest.endswith(after) else ""
    return int(number) if number.isdigit() and len(number) < 8 else None
