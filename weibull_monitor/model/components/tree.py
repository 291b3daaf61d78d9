"""The tree of matrices: the place of each matrix of a model, from the modules above it. Reads no weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from torch import Tensor, nn

from weibull_monitor.model.components.names import (
    ADAPTER,
    COPIED,
    GENERAL,
    ORIGINAL,
    PARAMETRIZATION,
    Place,
    clean_name,
    kind_by_name,
    place_by_name,
    telling,
)
from weibull_monitor.model.tuners import BASE, is_tuner, of_peft

Chain = tuple[tuple[str, nn.Module], ...]
"""(name, module) from the outermost module below the root down to some module."""

_TRANSPARENT: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
CHILDREN: Final = 256
"""How many children of a module are looked at, to say what it is."""
_RECURRENT: Final = ("A_log", "dt_bias", "time_decay", "forget_gate", "rg_lru")
"""Parameters and modules that only state-space models and linear attention have, whatever the module is called."""


@dataclass(frozen=True)
class Leaf:
    """A stored parameter with two dimensions or more, and its place in the model.

    Attributes:
        parameter: Its name in ``model.named_parameters()``.
        name: That name without the additions of wrappers.
        tensor: The parameter.
        owner: The module that holds it.
        attribute: Its name in the owner.
        paths: Paths that stand for the matrix, outermost first: of the module that holds it, and of those above that hold
            nothing else. BERT's ``attention.output.dense`` is also the ``output`` of an attention.
        above: The modules above the first of these paths, outermost first.
        place: The kind of module that it belongs to.
        unit: Path of that module; matrices of one unit are siblings.
        unit_module: That module.
        beside: Whether it lies beside the matrix that the module around both is named after.
        tuned: Whether it is an adapter's because a layer of PEFT holds it beside the layer that it wraps.
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
    beside: bool = False
    tuned: bool = False

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter's, by where it is or by its name."""
        return self.tuned or re.search(ADAPTER, self.name) is not None


def leaves(model: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[Leaf]:
    """The place of every one of ``parameters``, which are by their names in ``model.named_parameters()``."""
    modules = dict(model.named_modules())
    peft = any(name.endswith(BASE) or ".lora_" in name for name in modules)
    copied = any(name.endswith(".modules_to_save") for name in modules)
    names = {parameter: clean_name(parameter, peft) for parameter in parameters}
    # What a matrix is, is read off the name of the module that it is a copy of.
    places = {parameter: COPIED.sub("", name) if copied else name for parameter, name in names.items()}
    tuned = _tuned(parameters, modules)
    held: Counter[str] = Counter()  # matrices at or below each path; adapters do not count, they sit beside any matrix
    general: Counter[str] = Counter()  # matrices that are below a path by names that say little (``q_proj.linear``)
    for parameter, name in names.items():
        if (
            parameter not in tuned
            and not re.search(ADAPTER, name)
            and PARAMETRIZATION not in name
            and not (copied and ORIGINAL in name)
        ):
            segments = places[parameter].split(".")
            held.update(".".join(segments[:depth]) for depth in range(len(segments)))
            own = segments[:-1] if segments[-1] == "weight" else segments
            while own and own[-1] in GENERAL:
                own = own[:-1]
                general[".".join(own)] += 1
    known: dict[tuple[str, int], tuple[Place, str, nn.Module]] = {}
    chains: dict[str, tuple[Chain, str]] = {}
    for parameter, tensor in parameters.items():
        owner_path, _, attribute = parameter.rpartition(".")
        name = names[parameter]
        if owner_path not in chains:
            chains[owner_path] = _chain(owner_path, modules, peft, copied)
        chain, clean_owner = chains[owner_path]
        # The depth of what level for the matrix: its module, for a ``weight``; else the parameter's own name
        # (``in_proj_weight``). It moves up while the module above holds this matrix only, or names it.
        level = len(chain) if attribute == "weight" else len(chain) + 1
        paths = [clean_owner if level == len(chain) else places[parameter]]
        named = next((d for d, (n, _) in enumerate(chain, 1) if names_a_matrix(n) and held[_path(chain, d)] == 1), 0)
        while level > 1:
            parent, _, last = paths[-1].rpartition(".")
            if held[parent] == 1:
                moves = 0 < named < level or not _is_place(chain[level - 2])
            else:
                moves = last in GENERAL and general[parent] == 1 and _under_a_named(chain, level)
            if not moves:
                break
            paths.append(parent)
            level -= 1
        above = paths[-1].rpartition(".")[0]
        beside = level > 1 and general[above] == 1 and held[above] > 1 and _under_a_named(chain, level)
        beside = beside and not telling(paths[-1], "attention")
        key = (clean_owner, level)
        if key not in known:
            known[key] = _place(model, chain, level)
        place, unit, module = known[key]
        yield Leaf(
            parameter=parameter,
            name=name,
            tensor=tensor,
            owner=modules[owner_path],
            attribute=attribute,
            paths=tuple(reversed(paths)),
            above=chain[: level - 1],
            place=place,
            unit=unit,
            unit_module=module,
            beside=beside,
            tuned=parameter in tuned,
        )


def _tuned(parameters: Iterable[str], modules: Mapping[str, nn.Module]) -> set[str]:
    """The parameters that layers of PEFT hold themselves or beside the layers that they wrap."""
    classes = {cls for cls in {type(module) for module in modules.values()} if of_peft(cls)}
    layers = {path: is_tuner(module) for path, module in modules.items() if type(module) in classes}
    found = set()
    for parameter in parameters if layers else ():
        owner, _, _ = parameter.rpartition(".")
        segments = parameter.split(".")
        around = {".".join(segments[:n]): segments[n] for n in range(1, len(segments))}
        if owner in layers or any(layers.get(path) and below != BASE for path, below in around.items()):
            found.add(parameter)
    return found


def _path(chain: Chain, depth: int) -> str:
    return ".".join(name for name, _ in chain[:depth])


def _under_a_named(chain: Chain, level: int) -> bool:
    """Whether the module above a level is named after a matrix, or one above it and those between say little."""
    depth = level - 1
    while depth > 0 and chain[depth - 1][0] in GENERAL:
        depth -= 1
    return depth > 0 and names_a_matrix(chain[depth - 1][0])


def names_a_matrix(name: str) -> bool:
    """Whether the name of a module says which matrix it is, not where or that it is one.

    >>> names_a_matrix("q_proj"), names_a_matrix("c_attn"), names_a_matrix("self_attn"), names_a_matrix("linear")
    (True, True, False, False)
    """
    place = place_by_name(name, "")
    return (place in (None, "attention") and telling(name, "attention")) or (place is None and telling(name, "ffn"))


def _chain(owner_path: str, modules: Mapping[str, nn.Module], peft: bool, copied: bool) -> tuple[Chain, str]:
    """The modules from below the root down to the owner, without wrappers, and the owner's clean path."""
    raw = owner_path.split(".") if owner_path else []
    chain: list[tuple[str, nn.Module]] = []
    before = ""
    for depth in range(1, len(raw) + 1):
        path = ".".join(raw[:depth])
        clean = clean_name(path + ".weight", peft)
        clean = (COPIED.sub("", clean) if copied else clean).rpartition(".")[0]
        if clean in ("", before):  # a wrapper is replaced by the module in it
            if chain:
                chain[-1] = (chain[-1][0], modules[path])
        elif clean.startswith(before + ".") or not before:
            chain.append((clean.rpartition(".")[2], modules[path]))
        else:  # what came before was the prefix of a wrapper
            chain = [(clean, modules[path])]
        before = clean
    return tuple(chain), before


def _place(model: nn.Module, chain: Chain, level: int) -> tuple[Place, str, nn.Module]:
    """Place, path and module of the innermost module above a matrix that shows its place.

    Args:
        model: The root.
        chain: The modules from below the root to the owner of the matrix.
        level: Depth in the chain of what level for the matrix.
    """
    names = [name for name, _ in chain]
    # The names that stand for the matrix itself say what it is, not where; only these few places show there.
    for depth in range(len(chain), max(level - 1, 0), -1):
        name, module = chain[depth - 1]
        place = place_by_name(name, type(module).__name__)
        if place in ("norm", "indexer", "mixer") or (place == "router" and _routes(chain, depth, model)):
            return place, ".".join(names[:depth]), module
    # Upwards, until a module shows the place. A feed-forward module is only remembered: what is above it may be a larger
    # feed-forward module, an attention made of experts, or a head outside of the blocks.
    ffn: tuple[Place, str, nn.Module] | None = None
    for depth in range(level - 1, 0, -1):
        name, module = chain[depth - 1]
        path = ".".join(names[:depth])
        place = place_of(name, module)
        if place is None and name.isdigit() and depth > 1:  # an element of a list that is named after its elements
            place = place_by_name(names[depth - 2], type(module).__name__)
        if place == "router" and not _routes(chain, depth, model):
            place = None
        if place == "outside" and ffn is not None and _holds_attention(module):
            return ffn  # a head that has an attention of its own is a block
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
    # At the root: a feed-forward module outside of any block is a head or a projector, unless attention is beside it.
    if ffn is not None:
        depth = ffn[1].count(".")
        parent = chain[depth - 1][1] if depth else model
        in_block = ffn[1].rpartition(".")[2].isdigit() or _holds_attention(parent) or is_block("", model)
        return ffn if in_block else ("outside", ffn[1], ffn[2])
    root = place_of("", model)  # the model may itself be an attention or a feed-forward block
    if root in ("attention", "ffn"):
        return root, "", model
    return ("block", "", model) if is_block("", model) else ("anywhere", "", model)


def place_of(name: str, module: nn.Module) -> Place | None:
    """The place that a module is: by its class and what it holds, else by its name."""
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if any(hasattr(module, parameter) for parameter in _RECURRENT):
        return "mixer"
    place = place_by_name(name, type(module).__name__)
    if place in (None, "outside") and not isinstance(module, _TRANSPARENT) and _makes_keys_and_values(module):
        return "attention"
    return place


def _makes_keys_and_values(module: nn.Module) -> bool:
    found = {kind_by_name(name, "attention") for name, _ in children_of(module)}
    return {"attn_k", "attn_v"} <= found


def _is_place(link: tuple[str, nn.Module]) -> bool:
    """Whether a module is an attention or a mixer itself, even if it holds a single matrix."""
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
    return not any(re.search("expert|moe|router", name) for name, _ in children_of(outer))


def _routes(chain: Chain, depth: int, model: nn.Module) -> bool:
    """Whether a module named gate or router chooses among experts: its name or class says so, or experts are beside it."""
    name, module = chain[depth - 1]
    if "router" in name.lower() or "rout" in type(module).__name__.lower() or "topk" in type(module).__name__.lower():
        return True
    parent = chain[depth - 2][1] if depth > 1 else model
    return any("expert" in child.lower() for child, _ in children_of(parent))


def _holds_attention(module: nn.Module) -> bool:
    return any(place_of(name, child) in ("attention", "mixer") for name, child in children_of(module))


def children_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The first children of a module: all of any module of a model. With thousands, each would be asked about all others."""
    return islice(module.named_children(), CHILDREN)
