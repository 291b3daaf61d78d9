"""What the ranks agree on before the first sample: who counts which elements, so that each is counted exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from weibull_monitor.model.sharding.parameter import LocalParameter
from weibull_monitor.model.sharding.ranks import Ranks

NOWHERE = torch.iinfo(torch.int64).max
"""Stands for a parameter that a rank does not have."""


@dataclass(frozen=True)
class Share:
    """The part of its local tensor that a rank counts: rows of a `Grid`, elements of a `Flat`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Agreement:
    """Who counts what.

    Attributes:
        shares: What this rank counts of each parameter; what it does not count is absent.
        lowest: The lowest global rank that has each parameter: it says what the parameter was stepped with.
        different: Whole tensors whose values are not those of the other ranks; the lowest rank's are counted.
    """

    shares: Mapping[str, Share]
    lowest: Mapping[str, int]
    different: tuple[str, ...]


def alone(held: Iterable[LocalParameter]) -> Agreement:
    """The agreement of a single rank, which counts all that it has."""
    mine = [h for h in held if not h.problem]
    return Agreement({h.name: Share(0, h.layout.units) for h in mine}, dict.fromkeys((h.name for h in mine), 0), ())


def agree(
    names: Sequence[str], held: Mapping[str, LocalParameter], holders: Sequence[tuple[int, ...]], ranks: Ranks
) -> Agreement:
    """Divides the elements of all parameters among the ranks: one collective, the same on every rank.

    A sharded parameter is counted by the ranks of one copy. Where several of them hold the same elements (replicated dimensions
    of a mesh), each counts some of them. A parameter that is whole on every rank is divided in the same way.

    Args:
        names: Every parameter that is measured on any rank, in one order everywhere.
        held: What this rank holds.
        holders: For each different table of parameters the global ranks that have it.
        ranks: The ranks.
    """
    # One column per parameter; the minimum over the ranks gives the lowest rank that has it, the lowest copy of it, and the
    # lowest and (negated) the highest fingerprint of its values.
    votes = torch.full((4, len(names)), NOWHERE, dtype=torch.int64, device="cpu")
    for place, name in enumerate(names):
        if (here := held.get(name)) is not None:
            fingerprint = _fingerprint(here) if here.copy is None else 0
            votes[:, place] = torch.tensor(
                [ranks.me, here.copy if here.copy is not None else ranks.me, fingerprint, -fingerprint], device="cpu"
            )
    lowest, copy, low, high = (row.tolist() for row in ranks.minimum(votes))
    group_of = {rank: group for group in holders for rank in group}
    counted: dict[tuple[int, ...], list[LocalParameter]] = {}
    different = []
    for place, name in enumerate(names):
        here = held.get(name)
        if here is None:
            continue
        if here.copy is not None:  # sharded: the lowest copy is counted, by all that hold parts of it
            peers = here.peers or ()
            if here.copy != copy[place]:
                continue
        else:  # whole: by the ranks with the same table as the lowest one, or by that alone if the values differ
            peers = group_of[lowest[place]]
            if low[place] != -high[place]:
                different.append(name)
                peers = (lowest[place],)
        if ranks.me in peers and not here.problem:
            counted.setdefault(peers, []).append(here)
    shares: dict[str, Share] = {}
    for peers, members in counted.items():
        shares |= _divided(members, peers.index(ranks.me), len(peers))
    return Agreement(shares, dict(zip(names, lowest, strict=True)), tuple(different))


def _divided(members: Sequence[LocalParameter], place: int, count: int) -> dict[str, Share]:
    """What one of ``count`` ranks that hold the same counts of each parameter: equally many elements per rank."""
    sizes = [math.prod(h.layout.local_shape) for h in members]
    total = sum(sizes)
    out, before = {}, 0
    for h, size in zip(members, sizes, strict=True):
        units = h.layout.units
        if units:
            each = size // units
            start, stop = (_boundary(i, count, total, before, each, units) for i in (place, place + 1))
            if start < stop:
                out[h.name] = Share(start, stop)
        before += size
    return out


def _boundary(place: int, count: int, total: int, before: int, each: int, units: int) -> int:
    """The unit of a parameter, ``before`` elements after the first, nearest to the end of the first ``place`` shares of all.

    >>> _boundary(1, 2, 100, 60, 10, 4), _boundary(1, 2, 100, 20, 10, 8), _boundary(1, 2, 100, 0, 10, 2)
    (0, 3, 2)
    """
    return min(max((place * total // count - before + each // 2) // each, 0), units)


def _fingerprint(held: LocalParameter) -> int:
    """A number that depends on the values of a tensor: on one vector from its middle. 0 without values."""
    try:
        tensor = held.read()
        if tensor.is_meta or not tensor.numel() or held.problem or not tensor.is_floating_point():
            return 0
        while tensor.dim() > 1:
            tensor = tensor[len(tensor) // 2]
        return int(tensor.double().view(torch.int64).sum()) // 4  # room for the sign
    except Exception:  # whatever it is, the other ranks wait for the vote; reading the values will say what is wrong
        return 0
        return 0
