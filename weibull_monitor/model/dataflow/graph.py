"""What happened in a forward pass, as a graph of events, each of which made the elements of one or several tensors.

Every element of an intermediate tensor carries one integer, its *code*: the event that made it (the upper bits) and where in
that event it came from (the lower `LOW_BITS`). For a product with a weight matrix the lower part is the place, in the flat
parameter, of the first element of the row that made it; views, splits and permutations move codes as they move elements, so that
the rows of q, k and v can be read off where they meet in an attention, however they are stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

LOW_BITS: Final = 40
LOW_MASK: Final = (1 << LOW_BITS) - 1
UNTRACKED: Final = -1
"""The code of elements that do not depend on any weight, such as position ids and masks."""


@dataclass(eq=False)
class Event:
    """Something that made elements.

    Attributes:
        id: Its number.
        type: ``input`` (of the model),
            ``product``, ``embedding``, ``parameter`` (a parameter that takes part as it is), ``stream`` (a residual sum),
            ``scores``, ``attention``, ``gated``, ``weighted``, ``pair`` (every query plus every key) or ``mixed``.
        sources: The events that its operands came from.
        base: The event that it is a variant of; itself if it is none.
        flags: What was done to the elements of the base: ``act`` (a nonlinearity), ``norm``, ``stat`` (a mean or a norm of
            features), ``pool`` (a mean over positions), ``depthwise`` (a convolution channel by channel), ``expanded`` (the
            same in a hidden layer, or a running sum over positions), ``scaled`` (multiplied with something else), ``met``
            (multiplied with another product at each of several positions), ``self`` (multiplied with its own nonlinearity),
            ``sampled`` (taken from positions that another product chose).
        parameter: Number of the parameter, for products, embeddings and parameters.
        step: Distance in the flat parameter between the elements of one row.
        width: Number of elements of a row.
        places: For a product: where its rows begin in the flat parameter.
        summed: For a product: the axes of the parameter that it sums over.
        columns: For a product: the code of what each column was multiplied with, at one position.
        kernel: For a convolution: how many positions it reads.
        groups: For a convolution: in how many groups it keeps features apart.
        tokens: For a product: whether it sums over positions, not over features.
        first, second, third: Codes of the operands: q, k and v; gate and up; the two summands of a stream.
        also: For ``scores``: further scores that were added (relative positions).
        size: For ``scores``: the numbers of queries and keys.
        causal: For ``scores`` and ``attention``: whether later keys were hidden.
        channels: For ``scores``: whether channels meet in them, not positions.
    """

    id: int
    type: str
    sources: tuple[int, ...] = ()
    base: int = -1
    flags: frozenset[str] = frozenset()
    parameter: int = -1
    step: int = 1
    width: int = 0
    places: Tensor | None = None
    summed: tuple[int, ...] = ()
    columns: Tensor | None = None
    kernel: int = 1
    groups: int = 1
    tokens: bool = False
    first: Tensor | None = None
    second: Tensor | None = None
    third: Tensor | None = None
    also: list[int] = field(default_factory=list)
    channels: bool = False
    causal: bool = False
    size: tuple[int, int] = (0, 0)


class Graph:
    """The events of one forward pass, in the order in which they happened.

    Attributes:
        events: All of them; an event's ``id`` is its index.
        added: Sums of two or more branches: (event, its summands).
        adapters: Pairs of (product of the second matrix of an adapter, event that it is added to).
        operands: Bases of ``gated`` and ``stream`` events, and the codes of the two tensors that were multiplied or added.
        merged: Numbers of the parameters whose product was added to another parameter: (second matrix of an adapter, first).
        scales: Bases of events that scaled something larger, and the bases of that.
        biases: Bases of events that were added to scores without being scores.
        routed: Bases of events whose largest elements were chosen.
        weighs: Bases of events with one number for each position that scaled something: the bases of that, and the codes.
        gates: Bases of events that were multiplied with the output of an attention, and the codes.
        joined: Attentions, and others that were added to their outputs.
        heads_mixed: Products that mixed the scores of heads.
        outputs: Events in what the model returned, or what a loss was made of.
        idle: Products of weights with zeros.
        hollow: Products of weights with nothing: of no position, as where no word is a picture.
        mixes: Events in which positions met otherwise than in an attention.
        depthwise: (parameter, event it was applied to) of convolutions channel by channel.
        imaginary: Bases of events that complex numbers were made of, and how far imaginary parts are from real ones.
        outer: Bases of events in which each of a few numbers met every feature: the event of the features.
        halves: The operation that first added two pieces of a product, and the piece that its sum stands for.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.added: list[tuple[int, tuple[int, ...]]] = []
        self.adapters: list[tuple[int, int]] = []
        self.operands: dict[int, tuple[Tensor, Tensor]] = {}
        self.merged: set[tuple[int, int]] = set()
        self.scales: dict[int, set[int]] = {}
        self.biases: set[int] = set()
        self.routed: set[int] = set()
        self.weighs: dict[int, tuple[set[int], list[Tensor]]] = {}
        self.gates: dict[int, list[Tensor]] = {}
        self.joined: dict[int, list[int]] = {}
        self.heads_mixed: list[int] = []
        self.outputs: set[int] = set()
        self.idle: set[int] = set()
        self.hollow: set[int] = set()
        self.mixes: list[int] = []
        self.depthwise: list[tuple[int, int]] = []
        self._derived: dict[tuple[int, frozenset[str]], int] = {}
        self.imaginary: dict[int, int] = {}
        self._constant: dict[int, bool] = {}
        self.outer: dict[int, int] = {}
        self.halves: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._sums: dict[tuple[int, int, int], int] = {}

    def new(self, type: str, sources: Iterable[int] = (), **details: object) -> Event:
        """A new event."""
        number = len(self.events)
        event = Event(number, type, tuple(dict.fromkeys(s for s in sources if s >= 0)), number, **details)  # type: ignore[arg-type]
        self.events.append(event)
        return event

    def derive(self, event: int, flag: str) -> int:
        """The variant of an event whose elements passed something that does not mix features."""
        if event < 0:
            return event
        before = self.events[event]
        if flag in before.flags:
            return event
        key = (before.base, before.flags | {flag})
        if key not in self._derived:
            made = Event(len(self.events), before.type, before.sources, before.base, key[1], before.parameter)
            base = self.events[before.base]
            made.step, made.width, made.columns = base.step, base.width, base.columns
            made.kernel, made.groups = base.kernel, base.groups
            made.tokens, made.places, made.summed = base.tokens, base.places, base.summed
            made.first, made.second, made.third, made.also = base.first, base.second, base.third, base.also
            self.events.append(made)
            self._derived[key] = made.id
        return self._derived[key]

    def bare(self, event: int, *flags: str) -> int:
        """The variant of an event with only these flags."""
        out = self.events[event].base
        for flag in flags:
            out = self.derive(out, flag)
        return out

    def first_hand(self, event: int) -> bool:
        """Whether an event depends on inputs of the model and on no other event."""
        return all(self.events[source].type == "input" for source in self.events[event].sources)

    def constant(self, event: int) -> bool:
        """Whether an event depends on parameters only, and on no input of the model."""
        base = self.base(event)
        if base.id not in self._constant:
            alone = base.type not in ("input", "embedding")
            self._constant[base.id] = alone and all(self.constant(source) for source in base.sources)
        return self._constant[base.id]

    def base(self, event: int) -> Event:
        """The event that an event is a variant of."""
        return self.events[self.events[event].base]


def event_of(codes: Tensor) -> Tensor:
    """The events of codes; negative where an element is not tracked."""
    return codes >> LOW_BITS


def coded(event: int, low: Tensor) -> Tensor:
    """Codes of one event."""
    return (low & LOW_MASK) | (event << LOW_BITS)


def compact(codes: Tensor) -> Tensor:
    """Codes without the dimensions along which they are the same element in memory, which keep size 1."""
    for dim, (size, stride) in enumerate(zip(codes.shape, codes.stride(), strict=True)):
        if stride == 0 and size > 1:
            codes = codes.narrow(dim, 0, 1)
    return codes


def events_in(codes: Tensor | None) -> list[int]:
    """The different events of some codes, without untracked elements."""
    if codes is None or codes.numel() == 0:
        return []
    few = compact(codes)
    alone = one_event(few)
    if alone is not None:
        return [alone] if alone >= 0 else []
    found = event_of(few).flatten()
    if found.numel() < 1 << 12:
        return [int(e) for e in torch.unique(found) if e >= 0]
    first = int(found.amin())  # counted, which takes a sixth of the time of a sort
    return [n + first for n in torch.bincount(found - first).nonzero().flatten().tolist() if n + first >= 0]


def one_event(codes: Tensor) -> int | None:
    """The event of all of some codes, negative if they are not tracked; None if there are several, or no codes."""
    if not codes.numel():
        return None
    low, high = (int(code) >> LOW_BITS for code in codes.aminmax())
    return low if low == high else None


def varies(codes: Tensor, dim: int) -> bool:
    """Whether the places of elements differ along a dimension, as features do and positions do not."""
    if codes.shape[dim] < 2 or codes.stride(dim) == 0:
        return False
    a, b = compact(codes.select(dim, 0)), compact(codes.select(dim, 1))
    if a.numel() == 0 or bool((a != b).any()):
        return a.numel() > 0
    last = compact(codes.select(dim, codes.shape[dim] - 1))  # a rotation of one feature gives the same one twice
    return bool(((a != last) & (event_of(a) == event_of(last))).any())


def copies(codes: Tensor, dim: int) -> bool:
    """Whether neighbours along a dimension are not different features of one event, but other positions or other streams."""
    few = compact(codes)
    if few.shape[dim] < 2:
        return True
    a, b = few.narrow(dim, 0, few.shape[dim] - 1), few.narrow(dim, 1, few.shape[dim] - 1)
    return not bool(((event_of(a) == event_of(b)) & (a != b)).any())


def folded(codes: Tensor) -> Tensor:
    """Large codes that are the same along a dimension, without taking memory for it."""
    for dim in range(codes.dim()):
        if codes.numel() > 4096 and codes.shape[dim] > 1 and codes.stride(dim) != 0:
            first = codes.narrow(dim, 0, 1)
            # The last position alone tells most that differ, before all are compared.
            last = codes.narrow(dim, codes.shape[dim] - 1, 1)
            if torch.equal(compact(first), compact(last)) and bool((codes == first).all()):
                codes = first.expand(codes.shape)
    few = compact(codes)
    return codes if few.numel() == codes.numel() else few.contiguous().expand(codes.shape)
