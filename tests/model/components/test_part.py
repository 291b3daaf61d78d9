import pytest
import torch
from torch import nn

from weibull_monitor.model.components import Part, discover_components


def test_parts_are_views_of_parameters_with_any_strides() -> None:
    part = Part("k", (2, 3, 2, 4), ((0, 2), (1, 2), (0, 2), (0, 4)))
    stored = torch.arange(48.0).reshape(12, 4)
    expected = torch.cat([stored[2:4], stored[8:10]])
    for tensor in (stored, stored.t().contiguous().t()):
        selected = part.select(tensor)
        assert torch.equal(selected.reshape(4, 4), expected)
        assert selected.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    assert part.numel == 16


def test_a_shard_is_refused_with_what_to_do() -> None:
    part = Part("q", (6, 4), ((0, 2), (0, 4)))
    with pytest.raises(ValueError, match=r"\[q\] is a part of a parameter of 24 elements .* not a shard"):
        part.select(torch.zeros(3, 4))


@pytest.mark.parametrize("resolution", ["matrix", "head"])
def test_parts_tile_what_they_are_pieces_of(resolution: str) -> None:
    from tiny_models import CAUSAL, causal

    for name in CAUSAL:
        model = causal(name)
        parameters = dict(model.named_parameters())
        components = discover_components(model, resolution=resolution)  # type: ignore[arg-type]
        pieces: dict[tuple[str, str], list[Part]] = {}
        for component in components:
            if component.part is not None:
                pieces.setdefault((component.parameter, component.part.within), []).append(component.part)
                assert component.numel == component.part.numel
        assert pieces
        for (parameter, within), parts in pieces.items():
            marks = torch.zeros_like(parameters[parameter])
            for part in parts:
                part.select(marks).add_(1.0)
            if within:
                outer = next(p for p in pieces[parameter, ""] if p.label == within)
                assert outer.select(marks).eq(1).all(), (name, parameter, within)
                assert marks.sum() == outer.numel
            else:
                assert marks.eq(1).all(), (name, parameter)


def test_a_layout_that_is_not_known_is_not_split() -> None:
    attention = nn.ModuleDict({"query_key_value": nn.Linear(8, 24), "dense": nn.Linear(8, 8)})  # how many heads?
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"attention": attention})])})
    assert [c.kind for c in discover_components(model)] == ["attn_qkv", "attn_o"]
