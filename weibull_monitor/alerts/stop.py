"""Whether to stop, agreed among all processes of a run: one that stopped alone would leave the others waiting for ever."""

from __future__ import annotations

import torch

from weibull_monitor.model.sharding import Ranks


def agreed(decision: int) -> int:
    """What the main process has decided, on every process.

    A collective where `torch.distributed` is initialised with several processes: then every process has to call it at the same
    optimizer steps, as the sampled ones are. Alone, it returns what it is given.

    Args:
        decision: Of the main process; of others it does not count.
    """
    ranks = Ranks.of("auto")
    if ranks is None:
        return decision
    return int(ranks.sum_(torch.tensor([decision if ranks.is_main else 0], device=ranks.device)).item())
