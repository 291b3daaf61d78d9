"""Finds out what there is to measure in a checkpoint: its components, and where the elements of each are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import nn

from weibull_monitor.checkpoint.buffers import mark_buffers
from weibull_monitor.checkpoint.formats.tensors import Contents, StoredTensor
from weibull_monitor.checkpoint.match import match_model
from weibull_monitor.checkpoint.quantised import mark_quantised
from weibull_monitor.checkpoint.skeleton import placeable, skeleton
from weibull_monitor.checkpoint.stream import MAX_SCATTERED
from weibull_monitor.errors import counted, visible
from weibull_monitor.model.components import AttentionType, Component, Discovery, Skipped, attention_types
from weibull_monitor.model.components.names import clean_name
from weibull_monitor.model.components.table import KIND_ORDER

Find = Callable[[nn.Module], Discovery]


@dataclass(frozen=True)
class CheckpointLayout:
    """What is measured in a checkpoint.

    Attributes:
        discovery: Its components, and what cannot be measured.
        stored: Where the elements of each component's parameter are, by the parameter's name, in the order of the files.
        attention: The kinds of attention of the model.
        notes: Remarks for the user on how the matrices were recognised.
        guessed: The parameters that are recognised by their names alone.
    """

    discovery: Discovery
    stored: Mapping[str, StoredTensor]
    attention: tuple[AttentionType, ...]
    notes: tuple[str, ...]
    guessed: frozenset[str] = frozenset()


def lay_out(contents: Contents, model: nn.Module | None, find: Find) -> CheckpointLayout:
    """Finds out what the tensors of a checkpoint are.

    Args:
        contents: Its tables.
        model: The model that its configuration describes, on the meta device; None without a configuration.
        find: Finds the components of a model.
    """
    tensors = {name: _readable(tensor) for name, tensor in mark_quantised(contents.tensors).items()}
    if model is None:
        return _by_names(tensors, find)
    mapped = match_model(tensors, model)
    if not any(len(tensor.shape) > 1 for tensor in mapped.parameters.values()):
        laid = _by_names(tensors, find)
        note = f"its tensors are not those of {type(model).__name__}, which its configuration describes"
        return replace(laid, notes=(note, *laid.notes))
    # Components have the dtype of the file, which says how values are counted, not that of the configuration.
    for name, parameter in model.named_parameters():
        dtype = mapped.parameters[name].dtype if name in mapped.parameters else None
        if dtype is not None and dtype != parameter.dtype:
            parameter.data = torch.empty(parameter.shape, dtype=dtype, device=parameter.device)
    found = find(model)
    here = {name: tensor for name, tensor in mapped.parameters.items() if not tensor.problem}
    skipped = [Skipped(clean_name(n), t.problem, t.numel) for n, t in mapped.parameters.items() if t.problem]
    # A matrix whose quantised form is in the file is named as quantised, not as missing.
    packed = {name.rpartition(".")[0] for name, tensor in mapped.left.items() if tensor.problem}
    sizes = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
    lost = [n for n in mapped.missing if n in sizes and n.rpartition(".")[0] not in packed]
    skipped += [Skipped(clean_name(n), "it is not in the checkpoint", sizes[n].numel()) for n in lost]
    notes = []
    discovery = replace(
        found,
        components=tuple(c for c in found.components if c.parameter in here),
        skipped=(*found.skipped, *skipped),
    )
    # Tensors that the model does not have, such as a second head, are measured by their names.
    left = {name: tensor for name, tensor in mapped.left.items() if len(tensor.shape) > 1 or tensor.problem}
    left = mark_buffers(left, getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    guessed: frozenset[str] = frozenset()
    if left:
        rest = _by_names(left, find)
        if rest.discovery.components:
            stored = [c for c in rest.discovery.components if c.part is None]
            notes.append(
                f"{len(stored)} matrices ({stored[0].name}, …) are not those of {type(model).__name__}: they are recognised "
                "by their names"
                if len(stored) > 1
                else f"{stored[0].name} is not of {type(model).__name__}: it is recognised by its name"
            )
        discovery = replace(
            discovery,
            components=(*discovery.components, *rest.discovery.components),
            skipped=(*discovery.skipped, *rest.discovery.skipped),
            elements=discovery.elements + rest.discovery.elements,
        )
        here |= rest.stored
        guessed = rest.guessed
    attention = attention_types(
        model, [c for c in discovery.components if c.parameter in mapped.parameters], discovery.attention
    )
    return CheckpointLayout(discovery, here, attention, tuple(notes), guessed)


def _by_names(tensors: Mapping[str, StoredTensor], find: Find) -> CheckpointLayout:
    """The layout without a model, from names and shapes."""
    tensors, same = _distinct(mark_buffers(tensors))
    fine = {n: t for n, t in tensors.items() if not t.problem and t.dtype is not None and placeable(n)}
    skipped = [
        Skipped(visible(n), t.problem or "its name is not a path of modules", t.numel)
        for n, t in tensors.items()
        if n not in fine
    ]
    model = skeleton({n: (t.shape, t.dtype) for n, t in fine.items() if t.dtype is not None})
    found = find(model)
    discovery = replace(
        found,
        components=_ordered(found.components),
        skipped=(*found.skipped, *skipped),
        elements=found.elements + sum(s.numel for s in skipped),
    )
    notes = ["matrices are recognised by names and shapes"]
    if same:
        notes.append(
            f"{counted(len(same), 'tensor is', 'tensors are')} stored under two names "
            f"({same[0]}{', …' * (len(same) > 1)}) and measured once"
        )
    attention = attention_types(model, discovery.components, discovery.attention)
    return CheckpointLayout(
        discovery, fine, attention, tuple(notes), frozenset(c.parameter for c in discovery.components)
    )


def without(layout: CheckpointLayout, parameters: Set[str], reason: str) -> CheckpointLayout:
    """The layout without the components of some parameters, which are named as skipped.

    Args:
        layout: The layout.
        parameters: Names of the parameters.
        reason: Why they are not measured.
    """
    if not parameters:
        return layout
    found = layout.discovery
    gone = [
        Skipped(clean_name(name), reason, layout.stored[name].numel) for name in layout.stored if name in parameters
    ]
    discovery = replace(
        found,
        components=tuple(c for c in found.components if c.parameter not in parameters),
        skipped=(*found.skipped, *gone),
    )
    return replace(layout, discovery=discovery)


def _ordered(components: Sequence[Component]) -> tuple[Component, ...]:
    """Components in the order of a model (embeddings, blocks, the rest); files are often in alphabetical order."""
    stored = {c.parameter: c for c in components if c.part is None}
    kinds = {kind: n for n, kind in enumerate(KIND_ORDER)}

    def place(component: Component) -> tuple[int, str, int, bool, int, int]:
        c = stored.get(component.parameter, component)
        outside = c.block is None
        part = 0 if outside and c.kind == "embedding" else 2 if outside else 1
        return part, c.tower, c.block or 0, c.cross, kinds[c.kind], c.expert or 0

    return tuple(sorted(components, key=place))


def _readable(tensor: StoredTensor) -> StoredTensor:
    """The tensor; with a problem if its elements are scattered over more of the file than is read at once."""
    if tensor.problem or tensor.dtype is None:
        return tensor
    scattered = [p for p in tensor.pieces if p.strides is not None and p.extent * tensor.dtype.itemsize > MAX_SCATTERED]
    if not scattered:
        return tensor
    megabytes = MAX_SCATTERED >> 20
    return replace(tensor, problem=f"it is a view of more than {megabytes} MiB whose elements do not lie row by row")


def _distinct(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors without those that share their elements with an earlier one, and the names of the latter."""
    first: dict[object, str] = {}
    out: dict[str, StoredTensor] = {}
    same = []
    for name, tensor in tensors.items():
        key = (tensor.pieces, tensor.dtype)
        if tensor.pieces and tensor.numel and first.setdefault(key, name) != name:
            same.append(name)
        else:
            out[name] = tensor
    return out, same
