"""A general word near a matrix says less than the telling one above it, and a child's name less than what holds it."""

from __future__ import annotations

import pytest
from torch import nn

from weibull_monitor.model.components import discover_components

WIDTH, HIDDEN = 32, 80
FAMILIES = {
    "llama": {
        "self_attn": {"q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 32},
        "mlp": {"gate_proj": 80, "up_proj": 80, "down_proj": 32},
    },
    "bert": {"attention": {"query": 32, "key": 32, "value": 32, "output": 32}, "mlp": {"fc1": 80, "fc2": 32}},
    "gpt2": {"attn": {"c_attn": 96, "c_proj": 32}, "mlp": {"c_fc": 80, "c_proj": 32}},
    "diffusers": {"attn1": {"to_q": 32, "to_k": 32, "to_v": 32, "to_out": 32}, "ff": {"proj_in": 80, "proj_out": 32}},
}
WORDS = (
    "linear",
    "dense",
    "proj",
    "fc",
    "0",
    "1",
    "layer",
    "inner",
    "conv",
    "base",
    "weight",
    "proj.linear",
    "0.linear",
    "w",
    "linear_layer",
)


class Holder(nn.Module):
    """Holds a module under any name, as `nn.ModuleDict` does not."""

    def __init__(self, **held: nn.Module) -> None:
        super().__init__()
        for name, module in held.items():
            setattr(self, name, module)


def held(matrix: nn.Module, word: str, **beside: nn.Module) -> nn.Module:
    """A matrix in modules of these names, the outermost first."""
    for name in reversed(word.split(".")):
        matrix = (
            Holder(**{name: matrix}, **beside)
            if not name.isdigit()
            else nn.Sequential(*[nn.Dropout()] * int(name), matrix)
        )
    return matrix


def built(family: str, word: str = "", **beside: nn.Module) -> nn.Module:
    block = Holder()
    for place, matrices in FAMILIES[family].items():
        unit = Holder()
        for name, out in matrices.items():
            read = HIDDEN if place in ("mlp", "ff") and out == WIDTH else WIDTH
            matrix: nn.Module = nn.Linear(read, out, bias=False)
            setattr(unit, name, held(matrix, word, **beside) if word else matrix)
        setattr(block, place, unit)
    return Holder(layers=nn.ModuleList([block]))


def kinds(model: nn.Module) -> dict[str, str]:
    return {c.name: c.kind for c in discover_components(model, resolution="parameter", example_inputs=False)}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_general_word_does_not_win(family: str, word: str) -> None:
    plain = {name.removesuffix(".weight"): kind for name, kind in kinds(built(family)).items()}
    assert all(kind != "other" for kind in plain.values())
    assert kinds(built(family, word)) == {f"{name}.{word}.weight": kind for name, kind in plain.items()}


@pytest.mark.parametrize("word", ["linear", "base", "dense.proj"])
def test_what_lies_beside_it_does_not_take_its_name(word: str) -> None:
    """A pair of small matrices beside the matrix itself, as home-made adapters have it."""
    plain = {f"{name.removesuffix('.weight')}.{word}.weight": kind for name, kind in kinds(built("llama")).items()}
    found = kinds(built("llama", word, down=nn.Linear(WIDTH, 4, bias=False), up=nn.Linear(4, WIDTH, bias=False)))
    assert {name: kind for name, kind in found.items() if name in plain} == plain
    assert {kind for name, kind in found.items() if name not in plain} == {"other"}


def test_a_general_word_below_an_unknown_one_says_nothing() -> None:
    model = Holder(
        attn=Holder(
            mystery=Holder(linear=nn.Linear(32, 96, bias=False)),
            proj=nn.Linear(32, 32, bias=False),
            q_norm=nn.LayerNorm(8),
            more=nn.Linear(32, 7, bias=False),
        )
    )
    assert kinds(model)["attn.mystery.linear.weight"] == "other"


@pytest.mark.parametrize(
    ("path", "cross"),
    [
        ("self_attention.multihead_attn", False),
        ("self_attn.multihead_attn", False),
        ("cross_attn.multihead_attn", True),
        ("cross_attention.self_attn", True),
        ("self_attn.attention", False),
    ],
)
def test_what_holds_an_attention_says_whether_it_is_a_cross_attention(path: str, cross: bool) -> None:
    attention: nn.Module = nn.MultiheadAttention(WIDTH, 4)
    for name in reversed(path.split(".")):
        attention = Holder(**{name: attention})
    found = discover_components(Holder(layers=nn.ModuleList([attention])), example_inputs=False)
    assert {c.cross for c in found if c.kind.startswith("attn")} == {cross}


def test_torch_decoder_layers_call_their_cross_attention_multihead_attn() -> None:
    found = discover_components(nn.Sequential(nn.TransformerDecoderLayer(WIDTH, 4)), example_inputs=False)
    assert {c.name.split(".")[1]: c.cross for c in found if c.kind.startswith("attn")} == {
        "self_attn": False,
        "multihead_attn": True,
    }
