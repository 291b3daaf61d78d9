"""Discovery: walks a model and finds out what every weight matrix is. Reads no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor, nn

from weibull_monitor.errors import ConfigurationError, text_of
from weibull_monitor.model.components.blocks import blocks_of, expert_of
from weibull_monitor.model.components.by_use import (
    ExampleInputs,
    Followed,
    follow_model,
    fragments_by_use,
    outweighs,
    second_witness,
    with_peers,
)
from weibull_monitor.model.components.component import CLASS_OF_KIND, Component, Discovery, Skipped
from weibull_monitor.model.components.heads import Heads, heads_of
from weibull_monitor.model.components.identify import is_cross
from weibull_monitor.model.components.identify import kinds as kinds_of
from weibull_monitor.model.components.names import clean_name
from weibull_monitor.model.components.split import Fragment, fragments
from weibull_monitor.model.components.storage import packed_buffers, storage_problem, unreadable
from weibull_monitor.model.components.tree import Leaf, leaves
from weibull_monitor.model.dataflow import Verdict
from weibull_monitor.model.sharding import LocalParameter, local_parameters

Resolution = Literal["parameter", "matrix", "head"]


def discover_components(
    model: nn.Module,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    resolution: Resolution = "matrix",
    example_inputs: ExampleInputs = None,
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
        example_inputs: Arguments of ``model.forward``, a tuple or a dictionary, to follow a forward pass with: what a matrix does
            there outweighs its name. The pass is followed without data, on a copy of the modules that has no weights. Default:
            what a model of transformers or Lightning says that it takes; False follows no pass.

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
    return discover(model, kinds, include, exclude, resolution, example_inputs).components


def discover(
    model: nn.Module,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    resolution: Resolution = "matrix",
    example_inputs: ExampleInputs = None,
    followed: Followed | None = None,
) -> Discovery:
    """Like `discover_components`, but also returns the matrices that cannot be measured, each with the reason.

    Args:
        model: See `discover_components`, as for the other arguments.
        followed: What a forward pass said, if one was followed already.
    """
    if resolution not in get_args(Resolution):
        raise ConfigurationError(f"resolution is {resolution!r}; it is one of {', '.join(get_args(Resolution))}")
    overrides = [(_compiled(pattern), _known(kind)) for pattern, kind in (kinds or {}).items()]
    kept, left_out = _patterns(include), _patterns(exclude)

    def wanted(name: str) -> bool:
        return (not kept or any(p.search(name) for p in kept)) and not any(p.search(name) for p in left_out)

    held = local_parameters(model)
    matrices, skipped, elements, vectors = _sort_parameters(model, held)
    found = list(leaves(model, matrices))
    followed = follow_model(model, held, example_inputs, resolution == "head") if followed is None else followed
    used = with_peers(found, followed.verdicts, followed.judged)
    named = second_witness(found, kinds_of(found, _output_embeddings(model)), followed, used)
    identified = [
        (next((kind for pattern, kind in overrides if pattern.search(leaf.name)), ""), *kind)
        for leaf, kind in zip(found, named, strict=True)
    ]
    identified = [
        (override, used[leaf.parameter].kind, used[leaf.parameter].why)
        if outweighs(leaf, kind, used.get(leaf.parameter))
        else (override, kind, why)
        for leaf, (override, kind, why) in zip(found, identified, strict=True)
    ]
    siblings: dict[str, dict[str, Leaf]] = {}
    for leaf, (override, kind, _) in zip(found, identified, strict=True):
        siblings.setdefault(leaf.unit, {})[override or kind] = leaf
    heads: dict[str, Heads | None] = {}
    components: list[Component] = []
    for leaf, (override, kind, why), (block, tower) in zip(found, identified, blocks_of(found), strict=True):
        kind = override or kind
        beside = siblings[leaf.unit]
        verdict = used.get(leaf.parameter)
        if verdict is not None and (override or not outweighs(leaf, kind, verdict)):
            verdict = None
        whole = Component(
            name=leaf.name,
            kind=kind,
            block=block,
            expert=expert_of(leaf.name),
            cross=kind.startswith("attn_") and (verdict.cross if verdict is not None else is_cross(leaf, beside)),
            shape=tuple(leaf.tensor.shape),
            dtype=leaf.tensor.dtype,
            trainable=leaf.tensor.requires_grad,
            parameter=leaf.parameter,
            tower=tower,
            why="" if override or kind != "other" else why,
            evidence="you" if override else "use" if verdict is not None else "name",
            because=verdict.why if verdict is not None else "",
        )
        if wanted(whole.name):
            components.append(whole)
        if resolution == "parameter":
            continue
        for fragment in _fragments(model, leaf, kind, verdict, beside, heads, resolution):
            name = f"{leaf.name}[{fragment.part.label}]"
            if wanted(name):
                given = next((k for p, k in overrides if p.search(name) and not p.search(leaf.name)), "")
                components.append(
                    replace(
                        whole,
                        name=name,
                        kind=given or fragment.kind,
                        expert=whole.expert if fragment.expert is None else fragment.expert,
                        shape=fragment.shape,
                        part=fragment.part,
                        evidence="you" if given else whole.evidence,
                    )
                )
    seen = {leaf.parameter: used[leaf.parameter].attention for leaf in found if leaf.parameter in used}
    attention = {parameter: one for parameter, one in seen.items() if one is not None}
    return Discovery(tuple(components), tuple(skipped), elements, vectors, attention, followed.problem)


def _fragments(
    model: nn.Module,
    leaf: Leaf,
    kind: str,
    verdict: Verdict | None,
    beside: Mapping[str, Leaf],
    heads: dict[str, Heads | None],
    resolution: Resolution,
) -> list[Fragment]:
    """The parts of a matrix, as a forward pass shows them; without one, from the table of layouts.

    Args:
        model: The model.
        leaf: The matrix.
        kind: Its kind.
        verdict: What the pass says about it; None if that does not count.
        beside: The matrices of the same unit, by kind.
        heads: The heads of each attention, by its path, as far as they were looked for.
        resolution: See `discover_components`.
    """
    if verdict is not None and (verdict.pieces or verdict.stacked or kind != "attn_o"):
        return fragments_by_use(leaf, verdict, resolution)
    if verdict is not None and verdict.attention is not None and verdict.attention.query_heads:
        count = verdict.attention.query_heads
        return fragments(leaf, kind, beside, Heads(count, count), resolution)
    if kind.startswith("attn_") and leaf.unit not in heads:
        heads[leaf.unit] = heads_of(leaf.unit_module, _configs(model, leaf))
    return fragments(leaf, kind, beside, heads.get(leaf.unit), resolution)


def _sort_parameters(
    model: nn.Module, held_parameters: Mapping[str, LocalParameter]
) -> tuple[dict[str, Tensor], list[Skipped], int, int]:
    """The matrices by name, those that cannot be measured, and how many elements all parameters and all vectors have."""
    matrices: dict[str, Tensor] = {}
    skipped: list[Skipped] = []
    elements = vectors = 0
    for parameter, held in held_parameters.items():
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
        return f"its class cannot be read ({type(error).__name__}: {text_of(error)})"


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
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{pattern!r} is not a regular expression: {error}") from error


def _patterns(patterns: str | Iterable[str] | None) -> list[re.Pattern[str]]:
    return [_compiled(p) for p in ([patterns] if isinstance(patterns, str) else patterns or ())]


def _known(kind: str) -> str:
    if kind not in CLASS_OF_KIND:
        raise ConfigurationError(f"{kind!r} is not a kind; the kinds are {', '.join(CLASS_OF_KIND)}")
    return kind
