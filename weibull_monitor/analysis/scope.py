"""Whether the published models may be compared with a model at all: they are decoders with causal attention, from 70 M on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weibull_monitor.analysis.attention import Attention
from weibull_monitor.model.components import Component

MIN_PARAMETERS: Final = 10_000_000
"""Smaller models are not compared. The smallest published model has 70 million parameters."""
_CAUSAL: Final = re.compile(r"(ForCausalLM|LMHeadModel)$")
_NAMES: Final = {
    "encoder": "an encoder",
    "encoder-decoder": "an encoder and a decoder",
    "other": "no language model with a decoder alone",
}


def outside_of_published(model: Mapping[str, Any], components: Sequence[Component], attention: Attention | None) -> str:
    """Why a model is outside of what is published; empty if it may be compared.

    Args:
        model: What the history records of the model: ``class``, ``architecture``, ``parameters``.
        components: The components of its main tower.
        attention: The attention of the main tower; None if there is none.

    >>> outside_of_published({"class": "BertModel", "architecture": "encoder"}, (), Attention("MHA"))
    'published models are decoders with causal attention, and BertModel is an encoder'
    """
    name = str(model.get("class") or "this model")
    published = "published models are decoders with causal attention"
    if components and all(c.kind.startswith("adapter") for c in components):
        return f"{published}, and these are adapters alone"
    architecture = model.get("architecture")
    if architecture is None and _CAUSAL.search(name):  # recorded before the history had the architecture
        architecture = "decoder"
    if architecture in _NAMES:
        return f"{published}, and {name} is {_NAMES[architecture]}"
    if any(c.cross for c in components):
        return f"{published}, and {name} has cross-attention"
    if attention is None:
        return f"{published}, and no self-attention was found in {name}"
    causal = attention.causal if attention.causal is not None else architecture == "decoder" or None
    if causal is False:
        return f"{published}, and the attention of {name} is not causal"
    if causal is None:
        return f"{published}, and whether {name} is one is not known"
    parameters = model.get("parameters")
    if parameters is not None and parameters < MIN_PARAMETERS:
        return f"published models have 70 million parameters or more, and {name} has {parameters:,}"
    return ""
