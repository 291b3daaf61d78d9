"""Discovery: walks a model and finds out what every weight matrix is. Reads no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor, nn

from weibull_monitor.errors import ConfigurationError
from weibull_monitor.model.components.blocks import blocks_of, expert_of
from weibull_monitor.model.components.component import CLASS_OF_KIND, Component, Discovery, Skipped
from weibull_monitor.model.components.heads import Heads, heads_of
from weibull_monitor.model.components.identify import is_cross
from weibull_monitor.model.components.identify import kinds as kinds_of
from weibull_monitor.model.components.names import clean_name
from weibull_monitor.model.components.split import fragments
from weibull_monitor.model.components.storage import packed_buffers, storage_problem, unreadable
from weibull_monitor.model.components.tree import Leaf, leaves
from weibull_monitor.model.sharding import LocalParameter, local_parameters

Resolution = Literal["parameter", "matrix", "head"]


def discover_components(
    model: nn.Module,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    resolution: Resolution = "matrix",
) -> tuple[Component, ...]:
    """Every weight matrix of a model that can be measured, in the order of ``model.named_parameters()``.

    Args:
        model: Any module. Wrappers (DDP, `torch.compile`, PEFT, activation checkpointing) are looked through.
        kinds: Regular expressions on clean parameter names (``re.search``), and the kind of the matrices that they match. They
            outweigh everything that is recognised.
        include: One or several regular expressions; only names that one of them matches are kept.
        exclude: One or several regular expressions; names that one of them matches are left out.
        resolution: ``matrix``: every stored matrix, and the parts of fused ones (q, k and v; gate and up; experts).
            ``head``: also every attention head of q, k, v and o. ``parameter``: stored matrices only.

    Returns:
        One `Component` per matrix. A matrix that is not recognised has the kind ``other`` and a reason. A parameter that
        several modules share occurs once. A part follows its parameter, and has its name with a suffix in brackets.

    Raises:
        ConfigurationError: For an unknown kind or an invalid pattern.

    >>> from torch import nn
    >>> layer = nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(64, 64)})})
    >>> component = discover_components(nn.ModuleDict({"layers": nn.ModuleList([layer])}))[0]
    >>> component.name, component.kind, component.component_class, component.block
    ('layers.0.self_attn.q_proj.weight', 'attn_q', 'selection', 0)
    """
    return discover(model, kinds, include, exclude, resolution).components


def discover(
    model: nn.Module,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    resolution: Resolution = "matrix",
) -> Discovery:
    """Like `discover_components`, but also returns the matrices that cannot be measured, each with the reason."""
    if resolution not in get_args(Resolution):
        raise ConfigurationError(f"resolution is {resolution!r}; it is one of {', '.join(get_args(Resolution))}")
    overrides = [(_compiled(pattern), _known(kind)) for pattern, kind in (kinds or {}).items()]
    kept, left_out = _patterns(include), _patterns(exclude)

    def wanted(name: str) -> bool:
        return (not kept or any(p.search(name) for p in kept)) and not any(p.search(name) for p in left_out)

    matrices, skipped, elements, vectors = _sort_parameters(model)
    found = list(leaves(model, matrices))
    identified = [
        (next((kind for pattern, kind in overrides if pattern.search(leaf.name)), ""), *kind)
        for leaf, kind in zip(found, kinds_of(found, _output_embeddings(model)), strict=True)
    ]
    siblings: dict[str, dict[str, Leaf]] = {}
    for leaf, (override, kind, _) in zip(found, identified, strict=True):
        siblings.setdefault(leaf.unit, {})[override or kind] = leaf
    heads: dict[str, Heads | None] = {}
    components: list[Component] = []
    for leaf, (override, kind, why), (block, tower) in zip(found, identified, blocks_of(found), strict=True):
        kind = override or kind
        beside = siblings[leaf.unit]
        whole = Component(
            name=leaf.name,
            kind=kind,
            block=block,
            expert=expert_of(leaf.name),
            cross=kind.startswith("attn_") and is_cross(leaf, beside),
            shape=tuple(leaf.tensor.shape),
            dtype=leaf.tensor.dtype,
            trainable=leaf.tensor.requires_grad,
            parameter=leaf.parameter,
            tower=tower,
            why="" if override else why,
        )
        if wanted(whole.name):
            components.append(whole)
        if resolution == "parameter":
            continue
        if kind.startswith("attn_") and leaf.unit not in heads:
            heads[leaf.unit] = heads_of(leaf.unit_module, _configs(model, leaf))
        for fragment in fragments(leaf, kind, beside, heads.get(leaf.unit), resolution):
            name = f"{leaf.name}[{fragment.part.label}]"
            if wanted(name):
                part_kind = next((k for p, k in overrides if p.search(name) and not p.search(leaf.name)), fragment.kind)
                expert = whole.expert if fragment.expert is None else fragment.expert
                components.append(
                    replace(whole, name=name, kind=part_kind, expert=expert, shape=fragment.shape, part=fragment.part)
                )
    return Discovery(tuple(components), tuple(skipped), elements, vectors)


def _sort_parameters(model: nn.Module) -> tuple[dict[str, Tensor], list[Skipped], int, int]:
    """The matrices by name, those that cannot be measured, and how many elements all parameters and all vectors have."""
    matrices: dict[str, Tensor] = {}
    skipped: list[Skipped] = []
    elements = vectors = 0
    for parameter, held in local_parameters(model).items():
        numel, matrix = math.prod(held.shape), len(held.shape) > 1
        elements += held.elements
        if problem := _problem(held):
            skipped.append(Skipped(clean_name(parameter), problem, held.elements))
        elif matrix and numel:
            matrices[parameter] = held.standin
            vectors += max(held.elements - numel, 0)  # the scales that `weight_norm` has beside a matrix
        else:
            vectors += held.elements
    for name, reason, numel in packed_buffers(model):
        elements += numel
        skipped.append(Skipped(clean_name(name), reason, numel))
    return matrices, skipped, elements, vectors


def _problem(held: LocalParameter) -> str:
    """Why a parameter cannot be measured; empty if it can."""
    if held.problem:
        return held.problem
    try:
        return storage_problem(held.stored) or (unreadable(held.standin) if len(held.shape) > 1 else "")
    except Exception as error:  # a tensor of another library may refuse any question
        return f"its class cannot be read ({type(error).__name__}: {error})"


def _configs(model: nn.Module, leaf: Leaf) -> list[object]:
    """The configurations of the modules above a matrix, nearest first."""
    modules = [leaf.unit_module, *(module for _, module in reversed(leaf.above)), model]
    return [module.config for module in modules if hasattr(module, "config")]


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    """The module that makes the logits, if the model says which it is."""
    get = getattr(model, "get_output_embeddings", None)
    try:
        return get() if callable(get) else None
    except (AttributeError, NotImplementedError, TypeError):
        return None  # only some subclasses implement it


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"{pattern!r} is not a regular expression: {error}") from error


def _patterns(patterns: str | Iterable[str] | None) -> list[re.Pattern[str]]:
    return [_compiled(p) for p in ([patterns] if isinstance(patterns, str) else patterns or ())]


def _known(kind: str) -> str:
    if kind not in CLASS_OF_KIND:
        raise ConfigurationError(f"{kind!r} is not a kind; the kinds are {', '.join(CLASS_OF_KIND)}")
    return kind
