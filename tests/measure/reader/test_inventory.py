"""Tables of ranks that own different modules, put together."""

from __future__ import annotations

import torch
from torch import nn

from weibull_monitor.measure.reader.inventory import Inventory, inventory_of, merged
from weibull_monitor.model.components import Skipped, discover
from weibull_monitor.model.sharding import local_parameters


def table(model: nn.Module) -> Inventory:
    return inventory_of(model, local_parameters(model), discover)


def test_stages_are_put_one_after_the_other_and_what_both_have_is_there_once() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32)
    first = table(nn.ModuleDict({"layers": nn.ModuleDict({"0": layer}), "shared": nn.Linear(4, 4)}))
    second = table(nn.ModuleDict({"layers": nn.ModuleDict({"1": layer, "2": layer}), "shared": nn.Linear(4, 4)}))
    both = merged([first, second])
    names = [c.name for c in both.discovery.components]
    assert len(names) == len(set(names))
    assert {name.split(".")[1] for name in names if name.startswith("layers")} == {"0", "1"}  # 2 is tied to 1
    one = sum(p.numel() for p in layer.parameters())
    assert both.discovery.elements == 2 * one + 20
    assert both.parameters.count("shared.weight") == 1
    assert sum(attention.blocks for attention in both.attention) == 2
    assert merged([first]) is first


def test_what_ranks_have_alike_is_counted_once() -> None:
    whole = table(nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.Linear(8, 8)}))
    part = table(nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)}))
    assert [str(a) for a in merged([whole, part]).attention] == [str(a) for a in whole.attention]


def test_a_name_that_means_two_things_and_what_one_rank_cannot_read_are_left_out() -> None:
    first = table(nn.ModuleDict({"x": nn.Linear(8, 8), "y": nn.Linear(8, 8)}))
    other = table(nn.ModuleDict({"x": nn.Linear(8, 9), "y": nn.Linear(8, 8)}))
    found = merged([first, other]).discovery
    assert [c.name for c in found.components] == ["y.weight"]
    assert (
        "ranks have different matrices of this name (other [8, 8] float32; other [9, 8] float32)"
        in found.skipped[0].reason
    )

    lame = table(nn.ModuleDict({"y": nn.Linear(8, 8)}))
    cannot = Inventory(
        discovery=type(found)((), (Skipped("y.weight", "it is on disk", 64),)), attention=(), sizes=lame.sizes
    )
    found = merged([first, cannot]).discovery
    assert [c.name for c in found.components] == ["x.weight"]
    assert torch.tensor([s.name == "y.weight" for s in found.skipped]).any()
