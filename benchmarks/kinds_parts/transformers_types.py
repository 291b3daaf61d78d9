"""Every model type of the installed transformers, small, with labels from the source of its modules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from kinds_parts import by_source
from kinds_parts.codebases import Case
from kinds_parts.judge import Label

BY_CLASS: Final = (
    # Blocks in the manner of BERT: a class for each step. Read in their code.
    (r"(?:Self|Attention)Output$|SelfAttentionOutput$", r"^dense$", "attn_o"),
    (r"Intermediate$", r"^dense$", "ffn_in"),
    (r"(?<!Self)(?<!Attention)Output$", r"^dense$", "ffn_out"),
)
ATTENTION: Final = ("attn_q", "attn_k", "attn_v", "attn_o")
NOT_THESE: Final = re.compile(
    r"(?i)pool|classif|(?<!multi)head|embed|adapter|projector|merger|router|gate$|delta_?net|mamba|recurrent|conv\w*module"
)
"""Classes of which the source says ``in``, ``out`` and so on, but which are not blocks of a transformer."""


def cases(types: Sequence[str]) -> Iterator[Case | str]:
    """A case for each model type, or a line that says why there is none."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import wild_models

    from weibull_monitor.model.dataflow import example_inputs_of
    from weibull_monitor.model.meta_device import model_types

    for model_type in types or model_types():
        try:
            model = wild_models.small(model_type).eval()
            inputs: Any = example_inputs_of(model)
            label = labelling(model)
        except Exception as error:
            yield f"{model_type}: not built: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
            continue
        yield Case(model_type, model, inputs, label)


def labelling(model: nn.Module) -> Any:
    """The labels of a model's parameters by the source of the modules that hold them."""
    said: dict[str, set[str]] = {}
    cache: dict[tuple[Any, ...], dict[str, set[str]]] = {}
    for path, module in model.named_modules():
        key = (type(module), tuple(sorted((n, type(m).__name__) for n, m in module.named_children())))
        if key not in cache:
            cache[key] = _of_class(module)
        for attribute, kinds in cache[key].items():
            at = f"{path}.{attribute}" if path else attribute
            below = getattr(module, attribute, None)
            if isinstance(below, nn.modules.conv._ConvNd) and max(below.kernel_size) > 1 and not kinds & set(ATTENTION):
                continue  # a convolution over time or space, of which the source says in and out too
            said[at] = kinds
            said[f"{at}.weight"] = kinds

    def label(name: str, tensor: Tensor) -> Label | None:
        kinds = said.get(name)
        if not kinds:
            return None
        also = {"attn_kv_a", "attn_kv_b"} if {"attn_k", "attn_v"} <= kinds else set()
        return Label((*sorted(kinds), *sorted(also)))

    return label


def _of_class(module: nn.Module) -> dict[str, set[str]]:
    cls = type(module)
    if cls.__module__.startswith("torch."):
        return {}
    found = by_source.labels(module)
    for pattern, attribute, kind in BY_CLASS:
        for name, _ in module.named_children():
            if re.search(pattern, cls.__name__) and re.search(attribute, name):
                found[name] = {kind}
    if NOT_THESE.search(cls.__name__):
        return {n: k for n, k in found.items() if k & {"attn_q", "attn_k", "attn_v"}}
    return found
