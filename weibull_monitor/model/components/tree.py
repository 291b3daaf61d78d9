"""The tree of matrices: where each matrix of a model stands, told from the modules above it. Reads no weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from weibull_monitor.model.components.names import ADAPTER, Place, clean_name, kind_by_name, place_by_name

Chain = tuple[tuple[str, nn.Module], ...]
"""(name, module) from the outermost module below the root down to some module."""

_TRANSPARENT: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_RECURRENT: Final = ("A_log", "dt_bias", "time_decay", "forget_gate", "rg_lru")
"""Parameters and modules that only state-space models and linear attention own, whatever they are called."""


@dataclass(frozen=True)
class Leaf:
    """A stored parameter with two dimensions or more, and where it stands.

    Attributes:
        parameter: Its name in ``model.named_parameters()``.
        name: That name without what wrappers add.
        tensor: The parameter.
        owner: The module that holds it.
        attribute: What the owner calls it.
        paths: Paths that stand for the matrix, outermost first: the module that holds it, and those above that hold nothing
            else. BERT's ``attention.output.dense`` is the ``output`` of an attention as well.
        above: The modules above the first of these paths, outermost first.
        place: What kind of module it stands in.
        unit: Path of that module; matrices of one unit are siblings.
        unit_module: That module.
    """

    parameter: str
    name: str
    tensor: Tensor
    owner: nn.Module
    attribute: str
    paths: tuple[str, ...]
    above: Chain
    place: Place
    unit: str
    unit_module: nn.Module


def leaves(model: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[Leaf]:
    """Where every one of ``parameters`` (by its name in ``model.named_parameters()``) stands."""
    modules = dict(model.named_modules())
    peft = any(name.endswith("base_layer") or ".lora_" in name for name in modules)
    names = {parameter: clean_name(parameter, peft) for parameter in parameters}
    held: Counter[str] = Counter()  # matrices at or below each path
    for name in names.values():
        if not re.search(ADAPTER, name):
            segments = name.split(".")
            held.update(".".join(segments[:depth]) for depth in range(len(segments)))
    known: dict[tuple[str, int], tuple[Place, str, nn.Module]] = {}
    chains: dict[str, tuple[Chain, str]] = {}
    for parameter, tensor in parameters.items():
        owner_path, _, attribute = parameter.rpartition(".")
        name = names[parameter]
        if owner_path not in chains:
            chains[owner_path] = _chain(owner_path, modules, peft)
        chain, clean_owner = chains[owner_path]
        stands = len(chain) if attribute == "weight" else len(chain) + 1  # depth of what stands for the matrix
        paths = [clean_owner if stands == len(chain) else name]
        while stands > 1 and held[parent := paths[-1].rpartition(".")[0]] == 1 and not _is_place(chain[stands - 2]):
            paths.append(parent)
            stands -= 1
        key = (clean_owner, stands)
        if key not in known:
            known[key] = _place(model, chain, stands)
        place, unit, module = known[key]
        yield Leaf(
            parameter=parameter,
            name=name,
            tensor=tensor,
            owner=modules[owner_path],
            attribute=attribute,
            paths=tuple(reversed(paths)),
            above=chain[: stands - 1],
            place=place,
            unit=unit,
            unit_module=module,
        )


def _chain(owner_path: str, modules: Mapping[str, nn.Module], peft: bool) -> tuple[Chain, str]:
    """The modules from below the root down to the owner, without wrappers, and the owner's clean path."""
    raw = owner_path.split(".") if owner_path else []
    chain: list[tuple[str, nn.Module]] = []
    before = ""
    for depth in range(1, len(raw) + 1):
        path = ".".join(raw[:depth])
        clean = clean_name(path + ".weight", peft).rpartition(".")[0]
        if clean in ("", before):  # a wrapper: what it wraps stands in its place
            if chain:
                chain[-1] = (chain[-1][0], modules[path])
        elif clean.startswith(before + ".") or not before:
            chain.append((clean.rpartition(".")[2], modules[path]))
        else:  # a prefix that turned out to be a wrapper's
            chain = [(clean, modules[path])]
        before = clean
    return tuple(chain), before


def _place(model: nn.Module, chain: Chain, stands: int) -> tuple[Place, str, nn.Module]:
    """The innermost telling module above a matrix that stands at depth ``stands`` of its chain."""
    names = [name for name, _ in chain]
    for depth in range(len(chain), max(stands - 1, 0), -1):  # what stands for the matrix tells little of its place
        name, module = chain[depth - 1]
        place = place_by_name(name, type(module).__name__)
        if place in ("norm", "indexer", "mixer") or (place == "router" and _routes(chain, depth, model)):
            return place, ".".join(names[:depth]), module
    ffn: tuple[Place, str, nn.Module] | None = None
    for depth in range(stands - 1, 0, -1):
        name, module = chain[depth - 1]
        path = ".".join(names[:depth])
        place = place_of(name, module)
        if place is None and name.isdigit() and depth > 1:  # an element of a list called after what it lists
            place = place_by_name(names[depth - 2], type(module).__name__)
        if place == "router" and not _routes(chain, depth, model):
            place = None
        if place == "outside" and ffn is not None and _holds_attention(module):
            return ffn  # a head with attention of its own is a block
        if ffn is not None and place == "attention" and ffn[1].endswith("experts"):
            return place, path, module  # a mixture of attentions: its experts are queries and outputs
        if ffn is not None and place == "ffn" and _one_feed_forward(ffn[1], module):
            ffn = (place, path, module)
        if ffn is not None and place in ("attention", "ffn"):
            continue
        if place == "ffn":
            ffn = (place, path, module)
        elif place is not None:
            return place, path, module
        elif is_block(name, module):
            return ffn or ("block", path, module)
    if ffn is not None:
        depth = ffn[1].count(".")
        parent = chain[depth - 1][1] if depth else model
        in_block = ffn[1].rpartition(".")[2].isdigit() or _holds_attention(parent) or is_block("", model)
        return ffn if in_block else ("outside", ffn[1], ffn[2])
    root = place_of("", model)  # a part of a model may be looked at alone
    if root in ("attention", "ffn"):
        return root, "", model
    return ("block", "", model) if is_block("", model) else ("anywhere", "", model)


def place_of(name: str, module: nn.Module) -> Place | None:
    """The place that a module is: by what it is and owns, else by what it is called."""
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if any(hasattr(module, parameter) for parameter in _RECURRENT):
        return "mixer"
    place = place_by_name(name, type(module).__name__)
    if place in (None, "outside") and not isinstance(module, _TRANSPARENT) and _makes_keys_and_values(module):
        return "attention"
    return place


def _makes_keys_and_values(module: nn.Module) -> bool:
    found = {kind_by_name(name, "attention") for name, _ in module.named_children()}
    return {"attn_k", "attn_v"} <= found


def _is_place(link: tuple[str, nn.Module]) -> bool:
    """Whether a module is an attention or a mixer of its own, even if it holds a single matrix."""
    return place_of(*link) in ("attention", "mixer") and not type(link[1]).__name__.endswith("Layer")


def is_block(name: str, module: nn.Module) -> bool:
    """Whether a module is a whole block: an element of a list, or called a layer, a block or a transition."""
    if isinstance(module, _TRANSPARENT):
        return isinstance(module, nn.ModuleDict) and name.isdigit()
    return name.isdigit() or type(module).__name__.endswith(("Layer", "Block", "Transition"))


def _one_feed_forward(inner: str, outer: nn.Module) -> bool:
    """Whether a feed-forward module is the inner part of another, and not one of its experts or of a list."""
    if isinstance(outer, _TRANSPARENT) or inner.rpartition(".")[2].isdigit():
        return False
    return not any(re.search("expert|moe|router", name) for name, _ in outer.named_children())


def _routes(chain: Chain, depth: int, model: nn.Module) -> bool:
    """Whether what is called a gate or a router decides among experts: a class that says so, or experts beside it."""
    name, module = chain[depth - 1]
    if "router" in name.lower() or "rout" in type(module).__name__.lower() or "topk" in type(module).__name__.lower():
        return True
    parent = chain[depth - 2][1] if depth > 1 else model
    return any("expert" in child.lower() for child, _ in parent.named_children())


def _holds_attention(module: nn.Module) -> bool:
    return any(place_of(name, child) in ("attention", "mixer") for name, child in module.named_children())
