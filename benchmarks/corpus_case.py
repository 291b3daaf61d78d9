"""One training of the corpus."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        name: What is special about it; with the family it names its folder.
        family: Of `corpus_families`.
        optimizer: Of `corpus_optimizers`.
        schedule: Course of η, as `corpus_optimizers.rate` has it.
        eta: Highest η.
        weight_decay: λ_wd.
        layout: Of parameter groups, as `corpus_optimizers` has them.
        dtype: Of the weights.
        event: What ordinary thing happens, of those that `corpus_events` lists; empty for none.
        clip: Largest gradient norm; 0 for any.
        warmup: Steps of rising η.
        steps: Optimizer steps.
        batch: Sequences of a batch.
        dropout: Whether the model's dropout is on.
        strikes: Step after which the faulty branches leave; 0 for a training without.
        faults: Faults of the branches.
    """

    name: str
    family: str
    optimizer: str = "adamw"
    schedule: str = "cosine"
    eta: float = 2e-3
    weight_decay: float = 0.1
    layout: str = "by dimension"
    dtype: str = "float32"
    event: str = ""
    clip: float = 1.0
    warmup: int = 30
    steps: int = 300
    batch: int = 8
    dropout: bool = False
    strikes: int = 0
    faults: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.family}--{self.name}".replace(" ", "-").replace(",", "")

    @property
    def seed(self) -> int:
        return zlib.crc32(self.folder.encode()) % 100_000
