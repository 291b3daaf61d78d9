"""Whether alerts ask for training to stop, and how the processes of a run agree on it."""

from __future__ import annotations

from enum import IntEnum

import torch

from weibull_monitor.model.sharding import Ranks


class StopRequest(IntEnum):
    """What alerts ask of training; true if training should stop.

    >>> bool(StopRequest.CONTINUE), bool(StopRequest.STOP), max(StopRequest.STOP, StopRequest.SAVE_AND_STOP).name
    (False, True, 'SAVE_AND_STOP')
    """

    CONTINUE = 0
    """No alert asks for a stop."""
    STOP = 1
    """Stop without a checkpoint: the weights hold Inf or NaN."""
    SAVE_AND_STOP = 2
    """Save a checkpoint, then stop."""


def agreed(request: StopRequest) -> StopRequest:
    """The request of the main process, on every process: one that stopped alone would leave the others waiting forever.

    Where `torch.distributed` is initialised with several processes this is a collective, and every process has to call it at
    the same optimizer steps. In a single process it returns its argument.

    Args:
        request: The request of this process; only that of the main process counts.
    """
    ranks = Ranks.of("auto")
    if ranks is None:
        return request
    mine = request if ranks.is_main else StopRequest.CONTINUE
    return StopRequest(int(ranks.sum_(torch.tensor([int(mine)], device=ranks.device)).item()))
