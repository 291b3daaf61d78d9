"""Modules whose names lie, with what each of their matrices is.

A `Lying` module hands every child and parameter that it is given a name that says something else, or nothing, and registers
them in any order. `truth` collects what each parameter is.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LIES = (
    *("q", "k", "v", "o", "qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "o_proj", "c_attn", "c_proj"),
    *("gate", "up", "down", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "fc1", "fc2", "c_fc", "mlp", "attn"),
    *("embed", "lm_head", "router", "norm", "bias_net", "dense", "linear", "proj", "out", "pooler", "conv1", "lora_A"),
    *("expert", "mixer", "indexer", "head", "wte", "x_attn", "self_attention", "feed_forward", "scores", "rotary"),
)

KINDS: dict[str, set[str]] = {
    "q": {"attn_q"},
    "k": {"attn_k"},
    "v": {"attn_v"},
    "o": {"attn_o"},
    "qk": {"attn_qk", "other"},  # one matrix that is both
    "kv": {"attn_kv", "other"},
    "q_a": {"attn_q_a"},
    "q_b": {"attn_q_b", "attn_q"},
    "kv_a": {"attn_kv_a"},
    "kv_b": {"attn_kv_b"},
    "attn_gate": {"attn_gate"},
    "gate": {"ffn_gate"},
    "up": {"ffn_up"},
    "down": {"ffn_down"},
    "in": {"ffn_in"},
    "ffn_out": {"ffn_out"},
    "emb": {"embedding"},
    "head": {"lm_head"},
    "router": {"router"},
    "lora_a": {"adapter_a", "adapter", "other"},
    "lora_b": {"adapter_b", "adapter", "other"},
    "mixer": {"mixer", "other"},
    "scan_q": {"mixer", "attn_q"},  # the parts of a linear attention
    "scan_k": {"mixer", "attn_k"},
    "scan_v": {"mixer", "attn_v"},
    "scan_o": {"mixer", "attn_o"},
    "rel": {"attn_k", "embedding", "other"},  # keys of relative positions
    "table": {"embedding", "other"},
    "through": {"attn_o", "other"},  # a second matrix after the output
    "either": {"ffn_gate", "ffn_up", "ffn_in"},  # one of two that are multiplied without an activation
    "router_like": {"router", "ffn_gate", "other"},  # one number for each token
    "over time": {"mixer", "ffn_in", "ffn_out", "other"},
    "maker": {"other", "embedding"},  # of weights
    "bottleneck": {"adapter_a", "adapter_b", "adapter", "ffn_in", "ffn_out", "other"},
    "last": {"other", "lm_head"},  # classes of a picture
    "scan_in": {"mixer", "other"},
    "scan_x": {"mixer", "other"},
    "scan_t": {"mixer", "other"},
    "scan_end": {"mixer", "other"},
    "scan_a": {"mixer", "other"},
    "scan_b": {"mixer", "other"},
    "scan_c": {"mixer", "other"},
    "scan_f": {"mixer", "other"},
    "scan_all": {"mixer", "other"},
    "head_gate": {"attn_gate", "router", "other"},
    "outs": {"ffn_down", "ffn_out", "other"},
    "middle": {"ffn_in", "ffn_out", "other"},
    "factor": {"ffn_in", "other", "adapter_a", "adapter_b"},
    "scale": {"other"},  # of a weight
    "both": {"ffn_in", "ffn_out", "other"},
    "receptance": {"ffn_gate", "other", "mixer"},
    "memory": {"other", "mixer", "router", "embedding", "ffn_in", "ffn_out"},  # of keys and values
    "q_a or q": {"attn_q_a", "attn_q", "other"},  # a chain of two that is one product
    "factor of q": {"attn_q", "attn_q_a", "attn_q_b", "other"},
    "wide": {"other", "embedding"},  # makes a stream of a narrow one
    "unread": {"ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out", "other"},
    "none": {"other"},  # squeeze-excite, position biases, modulations
    "any": {
        "other",
        "embedding",
        "mixer",
        "lm_head",
        "router",
        "adapter",
    },  # whatever, but none of attention or feed-forward
}
"""Kinds that are right for a role."""


@dataclass(frozen=True)
class Role:
    """What a parameter is: one role, or roles of index sets along one of its dimensions."""

    role: str = ""
    rows: tuple[tuple[str, tuple[int, ...]], ...] = ()
    dim: int = 0


class Names:
    """Draws names without meaning, from a seed."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.scheme = self.random.choice(("lies", "lies", "letters", "numbers"))

    def draw(self, taken: Any) -> str:
        while True:
            if self.scheme == "lies":
                name = self.random.choice(LIES)
            elif self.scheme == "letters":
                name = "".join(self.random.choices(string.ascii_lowercase, k=5))
            else:
                name = str(self.random.randrange(1000))
            if name not in taken and not hasattr(nn.Module, name):
                return name

    def order(self, *items: Any) -> list[Any]:
        """The items in any order."""
        return self.random.sample(items, len(items))


class Lying(nn.Module):
    """A module that registers what it is given under another name, in any order.

    ``self["q"]`` is what was put under the role ``q``, whatever it is called in the module.
    """

    def __init__(self, names: Names, **things: Any):
        super().__init__()
        self.names = names
        self.called: dict[str, str] = {}
        self.roles: dict[str, Role] = {}
        self.put(**things)

    def put(self, **things: Any) -> None:
        for role, thing in self.names.order(*things.items()):
            kind: Role | None = Role(role.rstrip("0123456789"))
            if isinstance(thing, tuple):
                thing, kind = thing
            name = self.called[role] = self.names.draw({*self._modules, *self._parameters, *self.__dict__})
            if isinstance(thing, nn.Parameter):
                self.register_parameter(name, thing)
            else:
                self.add_module(name, thing)
            if kind is not None and not isinstance(thing, Lying):
                self.roles[name] = kind

    def __getitem__(self, role: str) -> Any:
        return getattr(self, self.called[role])


def linear(into: int, out: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(into, out, bias=bias)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.1)


def fused(dim: int = 0, **rows: Any) -> Role:
    """A role by rows: ``fused(q=range(4), k=range(4, 8))``."""
    return Role(rows=tuple((role, tuple(int(i) for i in index)) for role, index in rows.items()), dim=dim)


def packed(names: Names, sizes: dict[str, int]) -> tuple[list[str], Role]:
    """Roles in any order, stored one after the other."""
    order = names.order(*sizes)
    start, rows = 0, {}
    for role in order:
        rows[role] = range(start, start + sizes[role])
        start += sizes[role]
    return order, fused(**rows)


def grid(shape: tuple[int, ...], axis: int, order: list[str], dim: int = 0) -> Role:
    """Rows seen in a shape, of which one axis tells the roles: (H, 3, d) with axis 1 for q, k and v of each head together."""
    numbers = torch.arange(int(torch.tensor(shape).prod())).view(shape)
    rows: dict[str, list[int]] = {}
    for i, role in enumerate(order):
        rows.setdefault(role, []).extend(numbers.select(axis, i).flatten().tolist())
    return fused(dim, **rows)


def truth(model: nn.Module) -> dict[str, Role]:
    """The role of each parameter with two dimensions or more, by name."""
    found: dict[str, Role] = {}
    for path, module in model.named_modules():
        for name, role in module.__dict__.get("roles", {}).items():
            at = f"{path}.{name}" if path else name
            if "." in name:
                found[at] = role
                continue
            thing = getattr(module, name)
            if isinstance(thing, nn.Parameter):
                found[at] = role
                continue
            for below, parameter in thing.named_parameters():
                if parameter.dim() > 1:
                    found[f"{at}.{below}"] = role
    return found


def select(shape: torch.Size, role: Role, index: tuple[int, ...]) -> set[int]:
    """The elements that rows stand for."""
    numbers = torch.arange(shape.numel()).view(shape)
    return set(numbers.index_select(role.dim, torch.tensor(index)).flatten().tolist())


def faults(model: nn.Module, components: Any, allowed: dict[str, set[str]] = KINDS) -> list[str]:
    """What components say wrongly of a model, one line each; empty if all is right."""
    wrong: list[str] = []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, role in truth(model).items():
        parameter = parameters.get(name)
        if parameter is not None and parameter.dim() < 2:
            continue
        mine = [
            c
            for c in components
            if c.parameter == name or (parameter is not None and parameters.get(c.parameter) is parameter)
        ]
        if not mine:
            wrong.append(f"{name} ({role.role}): not there")
        elif not role.rows:
            parts = {c.kind for c in mine if c.part is not None and "head" not in c.part.label and c.expert is None}
            if mine[0].kind not in allowed[role.role]:
                wrong.append(f"{name}: {mine[0].kind}, is {role.role} {mine[0].shape}")
            elif len(parts) > 1 and role.role != "kv_a":  # of which some rows are keys of positions
                wrong.append(f"{name}: cut in {sorted(parts)}, is {role.role} {mine[0].shape}")
        else:
            wrong += _parts(name, parameter, role, [c for c in mine if c.part is not None], mine[0].kind, allowed)
    return wrong


def _parts(name: str, parameter: Tensor, role: Role, parts: Any, whole: str, allowed: dict[str, set[str]]) -> list[str]:
    if not parts:
        return [f"{name}: {whole}, not split, is {[r for r, _ in role.rows]} {tuple(parameter.shape)}"]
    wrong = []
    numbers = torch.arange(parameter.numel()).view(parameter.shape)
    for part_role, index in role.rows:
        covered: set[int] = set()
        for part in parts:
            if part.kind in allowed[part_role]:
                covered |= set(part.part.select(numbers).flatten().tolist())
        expected = select(parameter.shape, role, index)
        others: set[int] = set()
        for other, rows in role.rows:
            if allowed[other] & allowed[part_role]:
                others |= select(parameter.shape, role, rows)
        if not expected <= covered or not covered <= others:
            kinds = [(part.kind, part.part.label, part.part.view, part.part.ranges) for part in parts][:6]
            wrong.append(f"{name}: rows of {part_role} are not right {tuple(parameter.shape)}: {kinds}")
    return wrong


Builder = Callable[[Names], tuple[nn.Module, Any]]
"""Makes a model and its example inputs."""
