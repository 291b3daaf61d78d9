"""The values that describe a component: one logical weight matrix, its kind and its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import torch

from weibull_monitor.model.components.part import Part
from weibull_monitor.model.dataflow.reading import AttentionUse

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
    dtype: torch.dtype
    trainable: bool
    parameter: str
    part: Part | None = None
    tower: str = ""
    why: str = ""
    evidence: Evidence = "name"
    because: str = field(default="", compare=False)

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
