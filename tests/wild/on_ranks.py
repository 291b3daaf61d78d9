"""The situations on several ranks; run on each of them by `ranks.launch`."""

from __future__ import annotations

import os
from pathlib import Path

os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "localhost", "WANDB_MODE": "disabled"}

import torch
import torch.distributed as dist

from .checked import check
from .hosts import HOSTS, bare
from .situations import SITUATIONS, Situation, Training


def data_parallel(situation: Situation, where: Path, watched: bool) -> tuple[Training, list[object]]:
    return bare(situation, where, watched, torch.nn.parallel.DistributedDataParallel)


def checked(directory: Path, host: str, names: list[str]) -> int:
    """The number of situations that were checked."""
    done = 0
    for situation in SITUATIONS:
        if situation.ranks and (situation.name in names or not names):
            check(situation, data_parallel if host == "bare" else HOSTS[host], directory / situation.name)
            dist.barrier()
            done += 1
    return done
