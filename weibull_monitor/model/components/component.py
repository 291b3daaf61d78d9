"""The values that describe a component: one logical weight matrix, its kind and its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from weibull_monitor.model.components.part import Part

if TYPE_CHECKING:
    import torch

    from weibull_monitor.model.dataflow.reading import AttentionUse

    Dtype = torch.dtype
else:
    Dtype = Any

ComponentClass = Literal["selection", "transmission", "mixed", "none"]
Evidence = Literal["use", "name", "you"]

CLASS_OF_KIND: Final[dict[str, ComponentClass]] = {
    # W_q and W_k: k leaves the band; more specialised layers move further.
    "attn_q": "selection",
    "attn_k": "selection",
    "attn_q_b": "selection",
    # Attention output and feed-forward: k stays in a narrow band.
    "attn_o": "transmission",
    "ffn_gate": "transmission",
    "ffn_up": "transmission",
    "ffn_down": "transmission",
    "ffn_gate_up": "transmission",
    "ffn_in": "transmission",
    "ffn_out": "transmission",
    # Fused storage that holds both.
    "attn_qkv": "mixed",
    "attn_kv": "mixed",
    "attn_qk": "mixed",
    "attn_kv_b": "mixed",
    # Neither of the two.
    "attn_v": "none",
    "attn_q_a": "none",
    "attn_kv_a": "none",
    "attn_gate": "none",
    "router": "none",
    "mixer": "none",
    "embedding": "none",
    "lm_head": "none",
    "adapter_a": "none",
    "adapter_b": "none",
    "adapter": "none",
    "other": "none",
}
"""Every kind and its class: T. Ding, arXiv:2605.18898 (2026), and the kinds that it does not name."""


DTYPES: Final[dict[str, float]] = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e4m3fn": 2.0**-3,
    "float8_e4m3fnuz": 2.0**-3,
    "float8_e5m2": 2.0**-2,
    "float8_e5m2fnuz": 2.0**-3,
}
"""The dtypes that can be measured, by name, and the distance between 1 and the next number, as `torch.finfo` has it."""


@dataclass(frozen=True)
class Component:
    """One logical weight matrix of a model. Holds no weights.

    Attributes:
        name: The parameter's path without the prefixes of wrappers; a part of a stored parameter has a suffix in brackets.
        kind: One of `CLASS_OF_KIND`.
        block: Index of the transformer block, or None outside of blocks.
        expert: Index of the expert, or None.
        cross: Whether it belongs to cross-attention.
        shape: Shape of the matrix.
        dtype: Dtype of its storage.
        trainable: Whether the parameter required a gradient when it was sampled.
        parameter: The parameter's name in ``model.named_parameters()``, wrappers included; of a weight that a layer makes of
            parameters (`torch.nn.utils.parametrize`), the path of the layer and the name of the weight.
        part: The elements of that parameter that belong to it; None for all of them.
        tower: Path of the list of blocks that it belongs to, such as ``vision_tower.encoder.layers``; empty outside of blocks.
        why: For the kind ``other``: why it is not one of the named kinds.
        evidence: What its kind rests on: ``use`` (what it does in a forward pass), ``name`` (its name, and the modules and
            matrices beside it) or ``you`` (the option ``kinds``).
        because: For the evidence ``use``: what it does, in words.
    """

    name: str
    kind: str
    block: int | None
    expert: int | None
    cross: bool
    shape: tuple[int, ...]
    dtype: Dtype
    trainable: bool
    parameter: str
    part: Part | None = None
    tower: str = ""
    why: str = ""
    evidence: Evidence = "name"
    because: str = field(default="", compare=False)

    def __eq__(self, other: object) -> bool:
        return self._compared() == other._compared() if isinstance(other, Component) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compared())

    def _compared(self) -> tuple[Any, ...]:
        held = self.__dict__ | {"dtype": self.dtype_name}
        return tuple(held[name] for name in _COMPARED)

    @property
    def dtype_name(self) -> str:
        """The name of the dtype, such as ``bfloat16``."""
        return str(self.__dict__["dtype"]).removeprefix("torch.")

    @property
    def component_class(self) -> ComponentClass:
        """``selection``, ``transmission``, ``mixed`` or ``none``."""
        return CLASS_OF_KIND[self.kind]

    @property
    def label(self) -> str:
        """The kind as metric keys spell it: ``cross_attn_q`` for the ``attn_q`` of a cross-attention."""
        return f"cross_{self.kind}" if self.cross else self.kind

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


_COMPARED: Final = tuple(f.name for f in fields(Component) if f.compare)


class _DtypeByName:
    """The attribute `Component.dtype`. Components of a history are made with a name: it becomes a dtype when one is asked for."""

    def __get__(self, component: Any, owner: type) -> Any:
        if component is None:
            return self
        held = component.__dict__["dtype"]
        if isinstance(held, str):
            import torch  # not at the top: who reads a history does not wait for torch

            held = component.__dict__["dtype"] = getattr(torch, held)
        return held

    def __set__(self, component: Any, value: Any) -> None:
        component.__dict__["dtype"] = value


Component.dtype = _DtypeByName()  # type: ignore[assignment]


@dataclass(frozen=True)
class Skipped:
    """A matrix that is not measured, and why."""

    name: str
    reason: str
    numel: int


@dataclass(frozen=True)
class Discovery:
    """The matrices of a model: those that are measured and those that are not.

    Attributes:
        components: The matrices that are measured; the parts of a parameter follow the parameter itself.
        skipped: The matrices that cannot be measured.
        elements: Number of elements of all parameters, each counted once.
        vectors: Number of elements of parameters with fewer than two dimensions.
        attention: What a forward pass says about the attention that a parameter belongs to, by the parameter's name.
        problem: Why no forward pass could be followed; empty if one was, or if there were no inputs for one.
    """

    components: tuple[Component, ...]
    skipped: tuple[Skipped, ...]
    elements: int = 0
    vectors: int = 0
    attention: Mapping[str, AttentionUse] = field(default_factory=dict)
    problem: str = ""
