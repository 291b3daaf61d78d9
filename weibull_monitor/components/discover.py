"""Discovery: walks a model and says of every weight matrix what it is. Reads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from weibull_monitor.components.component import CLASS_OF_KIND, Component, Discovery, Skipped
from weibull_monitor.components.identify import is_cross
from weibull_monitor.components.identify import kinds as kinds_of
from weibull_monitor.components.names import clean_name
from weibull_monitor.components.tree import Leaf, leaves
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.measure.fit import unsupported


def discover_components(
    model: nn.Module,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> tuple[Component, ...]:
    """Every weight matrix of a model that can be measured, in the order of ``model.named_parameters()``.

    Args:
        model: Any module; wrappers (DDP, `torch.compile`, PEFT, activation checkpointing) are seen through.
        kinds: Regular expressions on clean parameter names (``re.search``) and the kind of what they match; they come
            before everything that is recognised.
        include: One or several regular expressions; only names that one of them matches are kept.
        exclude: One or several regular expressions; names that one of them matches are left out.

    Returns:
        One `Component` a matrix. What is not recognised has the kind ``other``. A parameter that several modules share is
        there once.

    Raises:
        ConfigurationError: For an unknown kind or an invalid pattern.

    >>> from torch import nn
    >>> layer = nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(64, 64)})})
    >>> component = discover_components(nn.ModuleDict({"layers": nn.ModuleList([layer])}))[0]
    >>> component.name, component.kind, component.component_class, component.block
    ('layers.0.self_attn.q_proj.weight', 'attn_q', 'selection', 0)
    """
    return discover(model, kinds, include, exclude).components


def discover(
    model: nn.Module,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Discovery:
    """Like `discover_components`, with the matrices that cannot be measured and the reason for each."""
    overrides = [(_compiled(pattern), _known(kind)) for pattern, kind in (kinds or {}).items()]
    kept, left_out = _patterns(include), _patterns(exclude)
    wanted: dict[str, Tensor] = {}
    skipped: list[Skipped] = []
    for parameter, tensor in model.named_parameters():
        problem = _storage_problem(tensor) or (unsupported(tensor) if tensor.dim() > 1 and not tensor.is_meta else "")
        if problem:
            skipped.append(Skipped(clean_name(parameter), problem, tensor.numel()))
        elif tensor.dim() > 1:
            wanted[parameter] = tensor
    found = list(leaves(model, wanted))
    siblings: dict[str, dict[str, Leaf]] = {}
    identified = kinds_of(found, _output_embeddings(model))
    for leaf, (kind, _) in zip(found, identified, strict=True):
        siblings.setdefault(leaf.unit, {})[kind] = leaf
    components: list[Component] = []
    for leaf, (kind, why) in zip(found, identified, strict=True):
        if (kept and not any(p.search(leaf.name) for p in kept)) or any(p.search(leaf.name) for p in left_out):
            continue
        override = next((kind for pattern, kind in overrides if pattern.search(leaf.name)), None)
        final = override or kind
        components.append(
            Component(
                name=leaf.name,
                kind=final,
                block=_first_index(leaf.name),
                expert=_index_after(leaf.name, "experts"),
                cross=final.startswith("attn_") and is_cross(leaf, siblings[leaf.unit]),
                shape=tuple(leaf.tensor.shape),
                dtype=leaf.tensor.dtype,
                trainable=leaf.tensor.requires_grad,
                parameter=leaf.parameter,
                why="" if override else why,
            )
        )
    return Discovery(tuple(components), tuple(skipped))


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    """The module that makes the logits, where a model says which it is."""
    get = getattr(model, "get_output_embeddings", None)
    try:
        return get() if callable(get) else None
    except (AttributeError, NotImplementedError, TypeError):
        return None  # a method that only some of its subclasses can answer


def _storage_problem(tensor: Tensor) -> str | None:
    """Why the values of a parameter are not all here as plain floats, or None."""
    if hasattr(tensor, "ds_tensor"):
        return "it is partitioned by DeepSpeed ZeRO-3"
    module = type(tensor).__module__
    if module.startswith("torch.distributed"):
        return "it is sharded (DTensor)"
    if module.startswith(("bitsandbytes", "torchao", "hqq", "gptqmodel", "awq")):
        return f"its storage is quantised ({module.partition('.')[0]} {type(tensor).__name__})"
    return None


def _first_index(name: str) -> int | None:
    return next((int(segment) for segment in name.split(".") if segment.isdigit()), None)


def _index_after(name: str, container: str) -> int | None:
    found = re.search(rf"(?:^|\.){container}\.(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


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
