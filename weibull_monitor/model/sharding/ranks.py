"""The ranks of a run: they find each other at the start, agree, and sum their counts at every sample."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from weibull_monitor.errors import ConfigurationError, say, text_of

JOIN_TIMEOUT = 300.0
"""Seconds that a new monitor waits for those of the other ranks: not all load their model equally fast."""

PATIENCE = 10.0
"""Seconds after which the log says for whom the monitor waits."""
_meetings: dict[tuple[int, ...], int] = {}
"""How many monitors this process has made with the ranks of each group: each meets its own."""

Item = TypeVar("Item")


class Ranks:
    """The ranks that measure a model together.

    All collectives use the training's own process group. They are called on the training thread right after the optimizer step,
    so they come in the same order on every rank and have the training's timeout. With a second communicator, two collectives
    could start in a different order on different ranks.

    Args:
        group: The process group.

    Attributes:
        rank: This rank in the group.
        size: Number of ranks in the group.
        members: Global ranks of the group, by their rank in it.
        me: This rank's global rank.
        broken: Whether a collective failed: no other may follow.
        device: Where tensors have to be for its collectives: the accelerator, unless they run on the host.
    """

    def __init__(self, group: Any) -> None:
        import torch.distributed as dist

        self._dist, self._group = dist, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.members = tuple(dist.get_process_group_ranks(group))
        self.me = self.members[self.rank]
        self.device = _device(group)
        self.broken = False

    @classmethod
    def of(cls, group: Any | Literal["auto"] | None) -> Ranks | None:
        """The ranks of a process group; of all processes with ``"auto"``. None for one process, or for ``None``."""
        if group is None:
            return None
        dist = sys.modules.get("torch.distributed")
        if dist is None or not dist.is_available() or not dist.is_initialized():
            return None
        ranks = cls(dist.group.WORLD if group == "auto" else group)
        return ranks if ranks.size > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    @contextmanager
    def joining(self, timeout: float) -> Iterator[None]:
        """Sets up what is this rank's own within the context, and at its end waits until every rank has.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            ConfigurationError: If some ranks do not come, or one of them reports that its own setting-up has failed.
        """
        meeting = _meetings.get(self.members, 0) + 1
        _meetings[self.members] = meeting
        store = self._dist.distributed_c10d._get_default_store()
        key = f"weibull_monitor/{hashlib.sha1(repr(self.members).encode()).hexdigest()[:12]}/{meeting}"
        try:
            yield
        except Exception as error:
            store.set(f"{key}/problem", f"rank {self.rank}: {text_of(error)}")
            store.set(f"{key}/complete", "no")
            raise
        store.set(f"{key}/{self.rank}", "here")
        if store.add(f"{key}/count", 1) == self.size:
            store.set(f"{key}/complete", "yes")
        patience = min(PATIENCE, timeout)
        if not _came(store, key, patience):
            say(logging.WARNING, f"weibull_monitor: waiting for the monitor of {_some(self._missing(store, key))}")
            if not _came(store, key, timeout - patience):
                missing = self._missing(store, key)
                store.set(
                    f"{key}/{self.rank}", "gone"
                )  # so that the next attempt is a meeting of the same number everywhere
                store.add(f"{key}/count", -1)
                _meetings[self.members] = meeting - 1
                raise ConfigurationError(
                    f"weibull_monitor was made on rank {self.rank}, but within {timeout:g} s not on {_some(missing)} of "
                    f"{self.size}. Every process has to take part: each measures what it holds, and the main one writes. If you "
                    "use a WeibullCallback, pass it to the Trainer on every process, without a condition on the rank. If you "
                    "make a WeibullMonitor yourself, make it on every rank, or pass process_group=None to measure on this rank "
                    "alone."
                )
        if store.get(f"{key}/complete") == b"no":
            problem = store.get(f"{key}/problem").decode()
            raise ConfigurationError(f"weibull_monitor could not be set up on {problem}")

    def _missing(self, store: Any, key: str) -> list[int]:
        ranks = (f"{key}/{rank}" for rank in range(self.size))
        return [rank for rank, name in enumerate(ranks) if not store.check([name]) or store.get(name) == b"gone"]

    def tables(self, mine: Item) -> tuple[list[Item], list[tuple[int, ...]]]:
        """The different objects that the ranks have, each once, and the global ranks that have it.

        One small collective if all ranks have the same; two more for each different object if not.

        Args:
            mine: This rank's object: it can be pickled, and equal ones have equal `repr`.
        """
        digest = int.from_bytes(hashlib.sha1(repr(mine).encode()).digest()[:7], "big")
        # A sum, to which each rank contributes its own place: functions that gather are renamed from one torch to the next.
        everywhere = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        everywhere[self.rank] = digest
        self._dist.all_reduce(everywhere, group=self._group)
        holders: dict[int, list[int]] = {}
        for rank, value in enumerate(everywhere.tolist()):
            holders.setdefault(value, []).append(rank)
        if len(holders) == 1:
            return [mine], [self.members]
        found: list[Item] = []
        for value, ranks in holders.items():
            box: list[Any] = [mine if value == digest else None]
            self._dist.broadcast_object_list(box, src=self.members[ranks[0]], group=self._group, device=self.device)
            found.append(box[0])
        return found, [tuple(self.members[rank] for rank in ranks) for ranks in holders.values()]

    def minimum(self, values: Tensor) -> Tensor:
        """The lowest value of each element over the ranks, on the CPU."""
        values = values.to(self.device)
        self._dist.all_reduce(values, op=self._dist.ReduceOp.MIN, group=self._group)
        return values.cpu()

    def any(self, here: bool) -> bool:
        """Whether something is so on any rank; all ranks have to call this. It waits for the others."""
        return bool(self.sum_(torch.tensor([int(here)], device=self.device)).item())

    def sum_(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place and on every rank: one all-reduce.

        Raises:
            RuntimeError: If a rank is gone, or does not come within the timeout of the process group.
        """
        self.broken = True
        self._dist.all_reduce(values, group=self._group)
        self.broken = False
        return values


def _came(store: Any, key: str, timeout: float) -> bool:
    """Whether all ranks have come, or one has reported a problem, within some seconds."""
    try:
        store.wait([f"{key}/complete"], timedelta(seconds=max(timeout, 0.001)))
    except RuntimeError:
        return False
    return True


def _device(group: Any) -> torch.device:
    for kind in sorted(device.type for device in group._device_types):
        if kind != "cpu" and group._get_backend(torch.device(kind)).name() != "gloo":
            return torch.device(kind, torch.get_device_module(kind).current_device())
    return torch.device("cpu")


def _some(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) != 1 else ''} {shown}"
