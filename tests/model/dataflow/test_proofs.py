"""Fused layouts, proved by their effect: rows called q are the query, since erasing them erases the query and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lying.attention import ATTENTION, HEADS, SIZE
from lying.base import Lying, Names
from lying.feed_forward import FEED_FORWARD, InAndOut
from lying.whole import Model, builders, ids
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weibull_monitor import Component, discover_components

builders()  # fills the tables of blocks
FUSED = (
    "FusedOneAfterTheOther",  # [q, k, v] of nanoGPT and Phi-3 in any order, so also [k, q, v]
    "FusedInEachHead",  # GPT-NeoX and BLOOM: each head's q, k, v
    "FusedInEachFeature",
    "FusedHeadsInside",
    "FusedGroups",  # Megatron's linear_qkv, InternLM2, torchtitan: each group's queries, its key, its value
    "FusedUnequal",  # litgpt, Phi-3 with grouped queries
    "FusedTransposed",  # GPT-2's Conv1D
    "FusedKeyValue",
    "FusedQueryKey",
    "QueryWithGate",  # Qwen3-Next
    "WithBlocks",  # PaLM
    "StackedParameter",
    "MatrixOfEachHead",
    "SlicesOfOne",  # F.linear on slices
    "InterleavedHeads",  # features outside, heads inside
    "ParallelInOne",  # with gate and up of a block
    "Interleaved3",  # row by row
    "RankAndHead",  # of two ranks
    "Padded",  # with rows that nobody uses
    "QueryGateKeyValue",  # all in one, with a gate
)
GATED = (
    "Gated",
    "PackedGate",
    "Glu",
    "Interleaved",
    "Unbound",
    "InAndOutOfOneMatrix",
    "AllExperts",
    "MaskedExperts",
    "SortedExperts",
    "KeyBeforeGate",
    "ClampedGate",
    "ByConvolution",
    "AccumulatedExperts",
    "GatheredExperts",
    "ExpertsInOneMatrix",
)
HEADED = ("FusedOneAfterTheOther", "FusedInEachHead", "FusedHeadsInside", "FusedGroups", "FusedTransposed")
PLACES = {"attn_q": 0, "attn_k": 1, "attn_v": 2}


class Attentions(TorchFunctionMode):
    """Notes the query, key and value of each attention, whichever way it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scores: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if func is F.scaled_dot_product_attention:
            self.seen.append(args[:3])
        elif name in ("matmul", "__matmul__") and args[0].dim() == args[1].dim() == 4:
            if self.scores is None:
                self.scores = (args[0], args[1].mT)
            else:
                self.seen.append((*self.scores, args[1]))
                self.scores = None
        return out


def attended(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad(), Attentions() as mode:
        model(ids())
    assert len(mode.seen) == 1
    return mode.seen[0]


def erased(model: nn.Module, components: list[Component], run: Callable[[], Any]) -> Any:
    """What a run gives while the values of components are zero."""
    parameters = dict(model.named_parameters())
    kept = {c.parameter: parameters[c.parameter].detach().clone() for c in components}
    with torch.no_grad():
        for c in components:
            whole = parameters[c.parameter].data
            (c.part.select(whole) if c.part else whole).zero_()
        try:
            return run()
        finally:
            for name, values in kept.items():
                parameters[name].copy_(values)


def one_block(attention: type[Lying], feed_forward: type[Lying], seed: int) -> tuple[nn.Module, tuple[Component, ...]]:
    torch.manual_seed(seed)
    model = Model(Names(seed), attention, feed_forward, blocks=1).eval()
    return model, discover_components(model, resolution="head", example_inputs=(ids(),))


def is_head(c: Component) -> bool:
    return c.part is not None and "head" in c.part.label


def leaves(components: tuple[Component, ...], kind: str) -> list[Component]:
    """The components of a kind, without heads."""
    return [c for c in components if c.kind == kind and not is_head(c)]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("layout", FUSED)
def test_rows_called_q_k_and_v_are_those(layout: str, seed: int) -> None:
    model, components = one_block(ATTENTION[layout], InAndOut, seed)
    before = attended(model)
    for kind, place in PLACES.items():
        mine = leaves(components, kind)
        assert mine, kind
        after = erased(model, mine, lambda: attended(model))
        for other in range(3):
            if other == place:
                assert not after[other].any(), f"{kind}: some of it is left"
            else:
                assert torch.equal(after[other], before[other]), f"erasing {kind} changes another"
    q, k, _ = erased(model, leaves(components, "attn_q"), lambda: attended(model))
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT
    assert not scores.any(), "the scores vanish"


@pytest.mark.parametrize("layout", HEADED)
def test_rows_called_a_head_are_that_head(layout: str) -> None:
    model, components = one_block(ATTENTION[layout], InAndOut, 3)
    before = attended(model)
    queries = [c for c in components if c.kind == "attn_q" and is_head(c)]
    assert len(queries) == HEADS
    seen = set()
    for c in queries:
        after = erased(model, [c], lambda: attended(model))
        gone = [h for h in range(HEADS) if not after[0][:, h].any()]
        assert len(gone) == 1
        kept = [h for h in range(HEADS) if h != gone[0]]
        assert torch.equal(after[0][:, kept], before[0][:, kept])
        seen.add(gone[0])
        assert c.numel == SIZE * before[0].new_zeros(40).numel()
    assert seen == set(range(HEADS))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("layout", GATED)
def test_rows_called_gate_and_up_are_those(layout: str, seed: int) -> None:
    """Without the gate, or without up, the block gives nothing; up comes in linearly, the gate does not."""
    model, components = one_block(ATTENTION["Sdpa"], FEED_FORWARD[layout], seed)
    block = model["blocks"][0]["f"]  # type: ignore[index]
    if layout == "Gated":
        block.act = F.silu
    x = torch.randn(2, 7, 40)

    def run() -> Tensor:
        with torch.no_grad():
            return block(x)  # type: ignore[no-any-return]

    before = run()
    assert before.abs().max() > 0
    kinds = {c.kind for c in components}
    if "ffn_in" in kinds:
        assert not erased(model, leaves(components, "ffn_in"), run).any()
        assert not erased(model, leaves(components, "ffn_out"), run).any()
        return
    for kind in ("ffn_gate", "ffn_up", "ffn_down"):
        mine = leaves(components, kind)
        assert mine, kind
        after = erased(model, mine, run)
        if not (layout == "Interleaved" and kind == "ffn_up"):  # there, 1 is added to up
            if layout == "Glu" and kind == "ffn_gate":  # a sigmoid of nothing lets half through
                after = after - _half(model, components, run)
            assert after.abs().max() < 1e-7
    for kind, linear in (("ffn_up", True), ("ffn_gate", False)):
        if layout == "Interleaved" and linear:
            continue
        mine = leaves(components, kind)
        assert torch.allclose(_times(model, mine, 2.0, run), 2 * before, atol=1e-6) == linear, kind


def _times(model: nn.Module, components: list[Component], factor: float, run: Callable[[], Any]) -> Any:
    parameters = dict(model.named_parameters())
    kept = {c.parameter: parameters[c.parameter].detach().clone() for c in components}
    with torch.no_grad():
        for c in components:
            whole = parameters[c.parameter].data
            (c.part.select(whole) if c.part else whole).mul_(factor)
        out = run()
        for name, values in kept.items():
            parameters[name].copy_(values)
    return out


def _half(model: nn.Module, components: tuple[Component, ...], run: Callable[[], Any]) -> Tensor:
    """What a sigmoid of nothing lets through: half of up."""
    gone = leaves(components, "ffn_gate")
    doubled = erased(model, gone, lambda: _times(model, leaves(components, "ffn_up"), 2.0, run))
    return doubled / 2  # type: ignore[no-any-return]
