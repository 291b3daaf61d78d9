"""Whether to stop, agreed among all processes of a run: one that stopped alone would leave the others waiting for ever."""

from __future__ import annotations

import torch


def agreed(decision: int) -> int:
    """What the main process has decided, on every process.

    A collective where `torch.distributed` is initialised with several processes: then every process has to call it at the same
    optimizer steps, as the sampled ones are. Alone, it returns what it is given.

    Args:
        decision: Of the main process; of others it does not count.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return decision
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    told = torch.tensor([decision], dtype=torch.int64, device=device)
    distributed.broadcast(told, src=0)
    return int(told.item())
