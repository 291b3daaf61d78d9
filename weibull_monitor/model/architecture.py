"""Whether a model is a decoder with causal attention, as its class says it: the published models are all of that kind."""

from __future__ import annotations

import math
import re
import sys
from typing import Any, Final, Literal

from torch import nn

Architecture = Literal["decoder", "encoder", "encoder-decoder", "other"]

_CAUSAL: Final = re.compile(r"(ForCausalLM|LMHeadModel)$")
WRAPPED: Final = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""The names that wrappers give to the module in them."""
_TASK: Final = re.compile(r"(ForCausalLM|LMHeadModel|Model|For[A-Z]\w*)$")


def architecture_of(model: nn.Module) -> Architecture | None:
    """The architecture of a model of transformers, from its class and configuration.

    A class belongs to a decoder if its file defines a class for causal language modelling and none for masked language
    modelling or another direction: ``GPT2Model`` is a decoder, and ``BertLMHeadModel`` is one only if its configuration says
    ``is_decoder``.

    Args:
        model: Any module. PEFT's and other wrappers are looked through by `innermost_model`.

    Returns:
        The architecture; ``other`` for models of images, sound and other inputs; None for a module that is not of
        transformers, whose class says nothing.

    >>> architecture_of(nn.Linear(2, 2)) is None
    True
    """
    model = innermost_model(model)
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return None
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    own = type(model)
    names = vars(sys.modules[own.__module__]).keys()
    family = _TASK.sub("", own.__name__)
    siblings = {name for name in names if name.startswith(family)}
    causal = any(_CAUSAL.search(name) for name in siblings)
    masked = any(name.endswith("ForMaskedLM") for name in siblings)
    if masked:
        return "decoder" if getattr(config, "is_decoder", False) else "encoder"
    if causal:
        return "decoder"
    return "other"


def innermost_model(model: nn.Module) -> nn.Module:
    """The model inside of wrappers that hold it as their only child (DDP, FSDP1, torch.compile), and of PEFT's."""
    for _ in range(5):
        inner = held_by(model)
        if inner is None:
            get = getattr(model, "get_base_model", None)
            inner = get() if callable(get) else None
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner
    return model


def held_by(model: nn.Module) -> nn.Module | None:
    """The only child of a module, if it has a name that wrappers such as DDP, FSDP1 and `torch.compile` give it."""
    if len(model._modules) != 1:
        return None
    return next((model._modules[name] for name in WRAPPED if name in model._modules), None)


def facts_of(model: nn.Module) -> dict[str, Any]:
    """What the history says of a model beside its matrices: class, type, architecture and the σ of its initialisation."""
    config: Any = getattr(innermost_model(model), "config", None)
    sigma = _initial_spread(config)
    return {
        "class": type(model).__name__,
        "model_type": getattr(config, "model_type", None),
        "architecture": architecture_of(model),
        "initializer_range": sigma,
    }


INITIAL: Final = ("initializer_range", "init_std", "initializer_std", "init_method_std")
"""Names of the standard deviation of the initialisation in configurations: most models, BART and OPT, Funnel, Megatron."""


def _initial_spread(config: Any) -> float | None:
    """The standard deviation that a configuration initialises matrices with; of several parts, if they agree."""
    parts = (config, *(getattr(config, name, None) for name in ("text_config", "vision_config", "audio_config")))
    given = [getattr(part, name, None) for part in parts for name in INITIAL]
    found = {float(sigma) for sigma in given if isinstance(sigma, (int, float)) and 0 < sigma < math.inf}
    return found.pop() if len(found) == 1 else None
