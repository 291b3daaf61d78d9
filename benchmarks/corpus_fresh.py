"""The newest held-out trainings: families and faults that nobody who writes rules has seen, with settings drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import corpus_fresh_text as text
from corpus_case import Case
from corpus_drawn import drawn
from corpus_evaluated_cases import ALSO
from corpus_families import Task
from corpus_fresh_own import OWN
from corpus_fresh_senses import SENSES
from corpus_fresh_tables import TABLES
from corpus_fresh_tasks import TASKS

MADE: Final[dict[str, Callable[[], Task]]] = SENSES | OWN | TASKS | TABLES
"""The families that are not rows of a table."""
FRESH: Final[tuple[str, ...]] = (*text.DECODERS, *text.ENCODERS, *text.SEQ2SEQ, *text.VISION, *MADE)
"""The names of the families."""
AGAIN: Final = 8300
"""Seed of the trainings that are evaluated only."""
KNOWN: Final = (
    *ALSO,
    "half of the values noise",
    "η × 8 for a block",
    "adapter merged with α × 8",
    "λ_wd × 10 for a group",
    "second moment × 0.001",
    "β₂ is 0.1",
    "rows zeroed",
    "momentum × 100",
    "η × 30 for all",
)
"""Faults that were in the corpus before and strike these families, too."""
BARE: Final = frozenset(
    (  # noqa: SIM905
        "falcon_mamba bit hgnet mobilenet_v1 mobilenet_v2 textnet palm palm_modular weight_norm spectral_norm s4d gmlp gru "
        "lstm_brackets wavenet convmixer vgg vae hinge_gan flow_matching realnvp heat siren fourier_operator gin dlrm "
        "skipgram dqn nbeats sparse_autoencoder"
    ).split()
)
"""Families whose matrices have no kinds by their names, or are computed from others; most faults find nothing in them."""
NEEDS: Final[dict[str, dict[str, Any]]] = {
    **{family: {"dtype": "float32"} for family in (*text.VISION, *SENSES, *TASKS, *TABLES)},  # their inputs are
    **{family: {"dropout": True, "dtype": "float32"} for family in ("hgnet", "textnet", "dpt", "convmixer", "vgg")},
    "mobilenet_v1": {"dropout": True, "dtype": "float32", "batch": 8},  # its last maps have one pixel
    "mobilenet_v2": {"dropout": True, "dtype": "float32", "batch": 8, "event": ""},
    "hinge_gan": {"dropout": True, "dtype": "float32"},  # spectral norm is estimated in training mode only
    "spectral_norm": {"dropout": True},
    # What would be frozen or replaced is all that they have, or is used by itself.
    **{family: {"event": ""} for family in ("jamba", "nllb_moe", "wavenet")},
    "skipgram": {"dtype": "float32", "event": "", "optimizer": "adamw", "eta": 2e-3},  # Muon has nothing to leave out
    **{family: {"dtype": "float32", "event": "", "batch": 8} for family in ("byol", "simclr")},  # they compare pictures
}
"""Settings that a family cannot do without, as fields of `Case`; batch norm must see its batches."""


def fresh() -> list[Case]:
    """The healthy trainings, two for each family, and 85 that four faults strike each."""
    return _drawn(8100, 2 * len(FRESH), 85)


def again() -> list[Case]:
    """The families with other settings: 72 healthy trainings, and 14 that four faults strike each."""
    return _drawn(AGAIN, 72, 14)


def _drawn(seed: int, healthy: int, faulty: int) -> list[Case]:
    from corpus_fresh_faults import FRESH_FAULTS

    struck = [family for family in FRESH if family not in BARE]
    cases = [
        *drawn(FRESH, seed=seed, number=healthy),
        *drawn(struck, seed=seed + 100, number=faulty, faults=(*FRESH_FAULTS, *KNOWN), each=4),
    ]
    return [replace(case, **NEEDS.get(case.family, {})) for case in cases]
