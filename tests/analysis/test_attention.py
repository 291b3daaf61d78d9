from __future__ import annotations

import pytest
from monitor.test_parts import mixtral
from published_like import llama, neox
from tiny_models import causal
from torch import nn

from weibull_monitor.analysis import Attention, attention_of
from weibull_monitor.model.components import attention_types, discover_components


def of(model: nn.Module, recorded: bool = True) -> Attention | None:
    found = discover_components(model)
    return attention_of(found, attention_types(model, found) if recorded else ())


def test_from_the_record() -> None:
    assert of(llama(8, 8)) == Attention("MHA", qk_norm=False)
    assert of(llama(8, 2)) == Attention("GQA", qk_norm=False)
    assert of(llama(8, 1)) == Attention("MQA", qk_norm=False)
    assert of(llama(8, 8, kind="olmo2")) == Attention("MHA", qk_norm=True)
    assert of(llama(8, 2, kind="qwen3")) == Attention("GQA", qk_norm=True)
    assert of(neox()) == Attention("MHA", fused=True, qk_norm=False)
    assert of(causal("phi3 unequal")) == Attention("GQA", fused=True, qk_norm=False)
    assert of(mixtral(4)) is not None


def test_from_sizes_alone() -> None:
    assert of(llama(8, 8), recorded=False) == Attention("MHA")
    assert of(llama(8, 2), recorded=False) == Attention("GQA")
    assert of(neox(), recorded=False) == Attention("MHA", fused=True)
    assert of(causal("phi3 unequal"), recorded=False) == Attention("GQA", fused=True)
    assert of(nn.Sequential(nn.Linear(8, 8)), recorded=False) is None


def test_sizes_say_what_the_record_does_not() -> None:
    """A model that nowhere says how many heads it has, but stores as many keys as queries."""
    found = discover_components(neox())
    unknown = {"tower": found[-1].tower, "sharing": "unknown", "cross": False, "qk_norm": False, "blocks": 3}
    towers = {c.tower for c in found if c.kind == "attn_o"}
    assert len(towers) == 1
    unknown["tower"] = towers.pop()
    assert attention_of(found, [unknown]) == Attention("MHA", fused=True, qk_norm=False)


def test_a_second_kind_of_attention_is_named() -> None:
    found = discover_components(llama(8, 2))
    tower = next(c.tower for c in found if c.kind == "attn_o")
    record = {"tower": tower, "cross": False, "qk_norm": False}
    many, few = {**record, "sharing": "GQA", "blocks": 30}, {**record, "sharing": "MHA", "blocks": 2}
    known = attention_of(found, [few, many])
    assert known is not None
    assert known.sharing == "GQA"
    assert known.differs.startswith("multi-head attention")


@pytest.mark.parametrize(
    ("attention", "like"),
    [
        (Attention("MHA", qk_norm=False), ("mha",)),
        (Attention("MHA", qk_norm=True), ("mha_qk_norm",)),
        (Attention("MHA"), ("mha", "mha_qk_norm")),
        (Attention("MHA", fused=True, qk_norm=False), ("fused",)),
        (Attention("MHA", fused=True), ("fused",)),
        (Attention("MHA", fused=True, qk_norm=True), ()),
        (Attention("GQA", qk_norm=True), ("gqa",)),
        (Attention("GQA", fused=True), ("gqa",)),
        (Attention("MQA"), ()),
        (Attention("MLA"), ()),
        (Attention("unknown"), ()),
    ],
)
def test_like_with_like(attention: Attention, like: tuple[str, ...]) -> None:
    assert attention.like == like
    assert bool(attention.reason) is not bool(like)
