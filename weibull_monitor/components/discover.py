"""Discovery: walks a model and says of every weight matrix what it is. Reads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from weibull_monitor.components.component import CLASS_OF_KIND, Component, Discovery, Skipped
from weibull_monitor.components.names import ADAPTER, ATTENTION, CROSS, FEED_FORWARD, Context, clean_name, kind_by_name
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.storage import unsupported


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
    peft = any(name.endswith("base_layer") or ".lora_" in name for name, _ in model.named_modules())
    modules = dict(model.named_modules())
    components: list[Component] = []
    skipped: list[Skipped] = []
    for parameter, tensor in model.named_parameters():
        name = clean_name(parameter, peft)
        if tensor.dim() < 2 and _storage_problem(tensor) is None:
            continue
        if (kept and not any(p.search(name) for p in kept)) or any(p.search(name) for p in left_out):
            continue
        if problem := _storage_problem(tensor) or (unsupported(tensor) if not tensor.is_meta else ""):
            skipped.append(Skipped(name, problem, tensor.numel()))
            continue
        kind = next((kind for pattern, kind in overrides if pattern.search(name)), None)
        owner_path, _, attribute = parameter.rpartition(".")
        path = name.rpartition(".")[0] if attribute == "weight" else name
        above = list(_above(owner_path, modules))
        components.append(
            Component(
                name=name,
                kind=kind or _kind(path, modules[owner_path], above),
                block=_first_index(name),
                expert=_index_after(name, "experts"),
                cross=any(CROSS.search(word) for word in _words(above)),
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                trainable=tensor.requires_grad,
                parameter=parameter,
            )
        )
    return Discovery(tuple(components), tuple(skipped))


def _kind(path: str, owner: nn.Module, above: list[tuple[str, nn.Module]]) -> str:
    """The kind of a matrix from its owner's class, its place and its siblings."""
    if ADAPTER.search(path):
        return "adapter"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    kind = kind_by_name(path, _context(above))
    if kind in ("ffn_up", "ffn_down") and not _has_gate(above):
        return "ffn_in" if kind == "ffn_up" else "ffn_out"
    return kind or "other"


def _context(above: list[tuple[str, nn.Module]]) -> Context:
    """Whether the innermost telling module above is an attention or a feed-forward block."""
    for name, module in reversed(above):
        for word in (name, type(module).__name__):
            if ATTENTION.search(word):
                return "attention"
            if FEED_FORWARD.search(word):
                # The `output` of BERT's attention is named and classed after the attention that holds it.
                return "attention" if name == "output" and any(ATTENTION.search(n) for n, _ in above) else "ffn"
    return "any"


def _has_gate(above: list[tuple[str, nn.Module]]) -> bool:
    siblings = above[-2][1] if len(above) > 1 else None
    return siblings is not None and any(
        kind_by_name(name, "ffn") in ("ffn_gate", "ffn_gate_up") for name, _ in siblings.named_children()
    )


def _above(owner_path: str, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) from the outermost module below the root down to the owner itself."""
    segments = owner_path.split(".") if owner_path else []
    for depth in range(1, len(segments) + 1):
        yield segments[depth - 1], modules[".".join(segments[:depth])]


def _words(above: list[tuple[str, nn.Module]]) -> Iterator[str]:
    for name, module in above:
        yield name
        yield type(module).__name__


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
