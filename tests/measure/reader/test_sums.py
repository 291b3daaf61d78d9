"""Counts of the parts add up to the counts of the whole, integer by integer, and no element is read twice."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CAUSAL, LLAMA_LIKE, base, causal
from torch import Tensor, nn

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.choose import count_magnitudes
from weibull_monitor.measure.reader import sums as module
from weibull_monitor.measure.reader.sums import Sums, count_components
from weibull_monitor.model.components import Component, discover_components


def counted(model: nn.Module, components: tuple[Component, ...], **kwargs: int) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    parameters, sums = dict(model.named_parameters()), Sums(components)

    def pieces(component: Component) -> list[Tensor]:
        tensor = parameters[component.parameter]
        return [component.part.select(tensor) if component.part else tensor]

    read = {index: pieces(components[index]) for index in sums.read}
    for batch in sums.complete(count_components(read, **kwargs)):
        for index, row in zip(batch.indices, batch.counts, strict=True):
            assert components[index].name not in out
            out[components[index].name] = row
    assert set(out) == {c.name for c in components}
    return out


MODELS = {
    **{name: lambda name=name: causal(name) for name in CAUSAL},
    "experts": lambda: base("gpt_oss", **LLAMA_LIKE, head_dim=8, num_local_experts=3, num_experts_per_tok=1),
}


@pytest.mark.parametrize("resolution", ["matrix", "head"])
@pytest.mark.parametrize("name", MODELS)
def test_parts_add_up_to_the_whole(name: str, resolution: str) -> None:
    model = MODELS[name]()
    components = discover_components(model, resolution=resolution)  # type: ignore[arg-type]
    rows = counted(model, components)
    parameters = dict(model.named_parameters())
    for component in components:
        tensor = parameters[component.parameter]
        expected = component.part.select(tensor).clone() if component.part else tensor.detach()
        assert torch.equal(rows[component.name], count_magnitudes([expected], bins_of(tensor.dtype))[0]), component.name
        pieces = [
            rows[c.name]
            for c in components
            if c.part is not None
            and c.parameter == component.parameter
            and c.part.within == (component.part.label if component.part else "")
        ]
        if pieces:
            assert torch.equal(torch.stack(pieces).sum(0), rows[component.name])


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_every_element_is_read_once(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    read = 0

    def reading(tensors: list[Tensor], bins: object, rows: list[int]) -> Tensor:
        nonlocal read
        assert len(tensors) <= rows_at_once
        read += sum(t.numel() for t in tensors)
        return count_magnitudes(tensors, bins, rows)  # type: ignore[arg-type]

    model = MODELS["experts"]()
    components = discover_components(model, resolution="head")
    expected = counted(model, components)
    monkeypatch.setattr(module, "count_magnitudes", reading)
    rows = counted(model, components, rows_at_once=rows_at_once)
    assert read == sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert all(torch.equal(expected[name], row) for name, row in rows.items())


def test_a_whole_whose_parts_are_left_out_is_read_itself() -> None:
    model = causal("gpt_neox")
    components = discover_components(model, exclude=r"\[k\]")
    rows = counted(model, components)
    whole = next(c for c in components if c.kind == "attn_qkv")
    tensor = dict(model.named_parameters())[whole.parameter]
    assert torch.equal(rows[whole.name], count_magnitudes([tensor], bins_of(tensor.dtype))[0])


def test_dtypes_are_counted_apart() -> None:
    model = causal("gpt2")
    model.get_submodule("transformer.h.0.attn").to(torch.bfloat16)
    components = discover_components(model)
    rows = counted(model, components)
    for component in components:
        assert int(rows[component.name].sum()) == component.numel
        assert len(rows[component.name]) == bins_of(component.dtype).columns


def test_several_pieces_make_one_row() -> None:
    tensor = torch.randn(40, 30)
    [whole] = count_components({7: [tensor]})
    [cut] = count_components({3: [], 7: [tensor[:13], tensor[13:, :4], tensor[13:, 4:]]})
    assert whole.indices == cut.indices == (7,)
    assert torch.equal(whole.counts, cut.counts)


def test_a_whole_does_not_come_without_all_of_its_parts() -> None:
    model = causal("gpt_neox")
    components = discover_components(model, include="layers.0.attention.query_key_value.weight")
    parameter = dict(model.named_parameters())[components[0].parameter]
    sums = Sums(components)
    read = {i: [components[i].part.select(parameter)] for i in sums.read[:-1]}  # type: ignore[union-attr]
    came = [components[i].name for batch in sums.complete(count_components(read)) for i in batch.indices]
    assert [name.rpartition("[")[2] for name in came] == ["q]", "k]"]
