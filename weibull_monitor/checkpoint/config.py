"""Configurations of models, which cannot be trusted: read within bounds, and left with the settings that shape a model.

A ``config.json`` can name attention kernels and backbones to download, code to run, and models of any size. `read_config` looks
at its size and its counts. `cleaned` keeps the settings that its class of transformers has, without those that could make
transformers fetch or run something. The model is built in a process with limits (`weibull_monitor.checkpoint.child`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any, Final

from weibull_monitor.checkpoint.formats.files import read_json
from weibull_monitor.checkpoint.formats.tensors import StoredTensor
from weibull_monitor.errors import CheckpointError, ConfigurationError

MAX_CONFIG: Final = 1 << 20
"""Most bytes that a configuration may have."""
MAX_REPEATED: Final = 2_000
"""Most layers, experts, codebooks and so on that a configuration may ask for, if no tensors say how many there are."""
MAX_ENTRIES: Final = 100_000
"""Most values that a configuration may have."""
_REPEATED: Final = re.compile(
    r"(?i)(?:layers?|blocks?|depths?|stages?|experts?|codebooks?|labels|branch(?:es)?|modules|repeats?|towers?|levels?)$"
)
_FETCHES: Final = re.compile(
    r"(?i)^__|^auto_map$|use_pretrained|pretrained_(?!window)|implementation|trust_remote|name_or_path|kernel_config"
    r"|custom_pipelines|revision|commit_hash|^_(?:auto|from|configuration)"
)
"""Settings that name code, files or addresses, or choose the code that runs."""
_BACKBONE: Final = ("backbone", "backbone_config", "use_pretrained_backbone")
_WORD: Final = re.compile(r"[\w .+-]{0,80}")
"""What a setting may say in words: an activation or a dtype, but not a path or an address."""


def read_config(path: Path, tensors: Mapping[str, StoredTensor] | None = None) -> dict[str, Any]:
    """The settings of a ``config.json``.

    Args:
        path: The file.
        tensors: The tensors of its checkpoint, which bound how many layers, experts and labels there can be.

    Raises:
        CheckpointError: If it cannot be read, or asks for more than there can be.
    """
    config = read_json(path, MAX_CONFIG)
    most = MAX_REPEATED if tensors is None else _most(tensors)
    stack: list[tuple[str, Any]] = [("", config)]
    entries = 0
    while stack:
        name, value = stack.pop()
        entries += 1
        if entries > MAX_ENTRIES:
            raise CheckpointError(f"it has more than {MAX_ENTRIES:,} values")
        if isinstance(value, dict):
            stack += [(key, inner) for key, inner in value.items() if not _FETCHES.search(key)]
        elif isinstance(value, list):
            if len(value) > max(1000, 4 * most):
                raise CheckpointError(f"{name[:40]} has {len(value):,} entries")
            stack += [(name, entry) for entry in value]
        elif isinstance(value, (int, float)) and value > most and _REPEATED.search(name):
            why = "more than any model has" if tensors is None else "more than its tensors can make up"
            raise CheckpointError(f"{name[:40]} is {json.dumps(value)[:40]}, {why}")
    return config


def _most(tensors: Mapping[str, StoredTensor]) -> int:
    """A bound on what a model repeats. Each layer has a tensor; experts and labels may share one, which is then as long."""
    longest = max((max(tensor.shape, default=0) for tensor in tensors.values()), default=0)
    return max(64, len(tensors), min(longest, 1_000_000))


def cleaned(values: Mapping[str, Any], mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape a model, of those that a configuration has.

    Args:
        values: The settings.
        mapping: The classes of configurations by model type: ``CONFIG_MAPPING`` of transformers.

    Raises:
        ConfigurationError: If it does not say which model type it is for, or names an unknown one.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in mapping:
        if kind is None:
            raise ConfigurationError("it names no model_type, and neither its architectures nor the tensors tell one")
        raise ConfigurationError(f"its model_type is {str(kind)[:60]!r}, which transformers does not have")
    return _kept(values, mapping[kind], mapping) | {"model_type": kind}


def with_model_type(values: Mapping[str, Any], names: Iterable[str], mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with a model type. Where an old configuration has none, it is taken from the architectures or the tensors.

    Args:
        values: The settings.
        names: Names of the tensors of the checkpoint, whose first word is often the type: ``bert.encoder.layer…``.
        mapping: The classes of configurations by model type.

    >>> with_model_type({"architectures": ["GPT2LMHeadModel"]}, (), {"gpt2": None, "gpt": None})["model_type"]
    'gpt2'
    >>> with_model_type({}, ["bert.encoder.weight", "bert.pooler.weight", "cls.bias"], {"bert": None})["model_type"]
    'bert'
    """
    if values.get("model_type") is not None:
        return values
    architectures = values.get("architectures")
    told = [name.lower() for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    plain = {kind.replace("-", "").replace("_", ""): kind for kind in mapping}
    by_class = [kind for kind in plain if any(name.startswith(kind) for name in told)]
    if by_class:
        return {**values, "model_type": plain[max(by_class, key=len)]}
    words = Counter(name.partition(".")[0] for name in names)
    word, count = words.most_common(1)[0] if words else ("", 0)
    if word in mapping and 2 * count > words.total():
        return {**values, "model_type": word}
    return values


def _kept(values: Mapping[str, Any], config_class: Any, mapping: Mapping[str, Any]) -> dict[str, Any]:
    known = _settings_of(config_class)
    out: dict[str, Any] = {}
    for key, value in values.items():
        if _FETCHES.search(key) or key not in known:
            continue
        if key == "id2label" and isinstance(value, dict):  # only the number of labels matters
            out[key] = {str(n): str(n) for n in range(len(value))}
        elif key == "architectures":
            out[key] = [name for name in value if _is_word(name)] if isinstance(value, list) else None
        elif isinstance(value, dict):
            out[key] = _inner(key, value, config_class, mapping)
        elif _is_plain(value):
            out[key] = value
    if not known.isdisjoint(_BACKBONE):  # some classes fetch one by default
        out["use_pretrained_backbone"] = False
    return out


def _inner(key: str, value: dict[str, Any], config_class: Any, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A table among the settings: a configuration of a part of the model, or plain values."""
    kind = value.get("model_type")
    parts = getattr(config_class, "sub_configs", None)
    spec = parts.get(key) if isinstance(parts, Mapping) else None
    part: Any = getattr(spec, "config_class", spec)
    if hasattr(part, "model_type"):  # a class of its own, whatever the table says
        return _kept(value, part, mapping)
    if isinstance(kind, str) and kind in mapping:
        return _kept(value, mapping[kind], mapping)
    return _plain(value)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if _FETCHES.search(key):
            continue
        if isinstance(inner, dict):
            out[key] = _plain(inner)
        elif _is_plain(inner):
            out[key] = inner
    return out


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(_is_word(key) and _is_plain(entry) for key, entry in value.items())
    return _is_word(value) if isinstance(value, str) else True


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _settings_of(config_class: Any) -> set[str]:
    """The names that a class of configurations has or mentions: its fields, other names for them, names of earlier versions."""
    known = {"model_type", "architectures"}
    mentioned: set[str] = set()
    for base in config_class.__mro__:
        other_names = vars(base).get("attribute_map", {})
        known |= {*getattr(base, "__annotations__", ()), *other_names, *other_names.values()}
        for function in vars(base).values():
            code = getattr(function, "__code__", None) or getattr(
                getattr(function, "__wrapped__", None), "__code__", None
            )
            if isinstance(code, CodeType):
                known |= set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
                mentioned |= set(_words_in(code))
    known |= {name for name in mentioned if not name.startswith("_")}
    return {name for name in known if not callable(getattr(config_class, name, None))}  # none hides a method


def _words_in(code: CodeType) -> Iterator[str]:
    """The names of the attributes that code uses, and the words in it."""
    yield from code.co_names
    stack: list[object] = [code.co_consts]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (tuple, frozenset)):
            stack += value
        elif isinstance(value, CodeType):
            stack.append(value.co_consts)
