"""Feed-forward blocks, experts and what looks like them."""

from __future__ import annotations

import pytest
import torch
from dataflow_models import INPUT, WIDE, WIDTH, Attention, Block, found, kinds, linear
from torch import Tensor, nn
from torch.nn import functional as F

from weibull_monitor.model.components import discover


def gated(block: nn.Module, x: Tensor) -> Tensor:
    return block.q(F.silu(block.v(x)) * block.k(x))


@pytest.mark.parametrize(
    "activation", [F.gelu, torch.relu, lambda x: x * torch.sigmoid(1.7 * x), lambda x: F.relu(x).square()]
)
def test_in_and_out(activation: object) -> None:
    model = Block(lambda b, x: b.k(activation(b.o(x))), o=linear(WIDE), k=linear(WIDTH, WIDE))  # type: ignore[operator]
    assert kinds(model) == {"o": "ffn_in", "k": "ffn_out"}


def test_gate_up_and_down_whatever_they_are_called() -> None:
    assert kinds(Block(gated, k=linear(WIDE), q=linear(WIDTH, WIDE), v=linear(WIDE))) == {
        "k": "ffn_up",
        "q": "ffn_down",
        "v": "ffn_gate",
    }


@pytest.mark.parametrize("first", ["gate", "up"])
@pytest.mark.parametrize("alternating", [False, True])
def test_which_half_is_the_gate(first: str, alternating: bool) -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        both = block.c(x)
        a, b = (both[..., ::2], both[..., 1::2]) if alternating else both.chunk(2, -1)
        return block.d(F.gelu(a) * b if first == "gate" else a * F.gelu(b))

    model = Block(run, c=linear(2 * WIDE), d=linear(WIDTH, WIDE))
    components = found(model)
    assert components["c"].kind == "ffn_gate_up"
    part = components["c[gate]"].part
    assert part is not None
    with torch.no_grad():
        part.select(model.c.weight).zero_()
    assert torch.equal(model(*INPUT), INPUT[0])  # without its gate the block gives nothing


@pytest.mark.parametrize("first", ["gate", "up"])
@pytest.mark.parametrize("swish", [F.silu, lambda x: torch.tanh(x) * torch.sigmoid(x)])
def test_which_half_is_the_gate_if_both_are_capped(first: str, swish: object) -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        a, b = block.c(x).chunk(2, -1)
        gate, up = (a, b) if first == "gate" else (b, a)
        return block.d(swish(gate) * (3.0 * torch.tanh(up / 3.0)))  # type: ignore[operator]

    components = found(Block(run, c=linear(2 * WIDE), d=linear(WIDTH, WIDE)))
    assert components["c"].kind == "ffn_gate_up"
    part = components["c[gate]"].part
    assert part is not None
    assert part.ranges[0] == ((0, WIDE) if first == "gate" else (WIDE, 2 * WIDE))


class Mixture(nn.Module):
    """Experts in one parameter of three dimensions, and a router."""

    def __init__(self) -> None:
        super().__init__()
        self.value = linear(3)
        self.query = nn.Parameter(torch.randn(3, 2 * WIDE, WIDTH))
        self.key = nn.Parameter(torch.randn(3, WIDTH, WIDE))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        weights, chosen = self.value(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for expert in range(3):
            token, slot = torch.where(chosen == expert)
            gate, up = F.linear(flat[token], self.query[expert]).chunk(2, -1)
            y = F.linear(F.silu(gate) * up, self.key[expert])
            out.index_add_(0, token, y * weights[token, slot, None])
        return x + out.view_as(x)


def test_experts_and_their_router() -> None:
    components = found(Mixture())
    assert components["value"].kind == "router"
    assert (components["query"].kind, components["key"].kind) == ("ffn_gate_up", "ffn_down")
    part = components["query[expert 2, up]"]
    assert (part.kind, part.expert, part.shape) == ("ffn_up", 2, (WIDE, WIDTH))
    weight = torch.arange(3 * 2 * WIDE * WIDTH).view(3, 2 * WIDE, WIDTH)
    assert part.part is not None
    assert torch.equal(part.part.select(weight).flatten(), weight[2, WIDE:].flatten())


class LargestOnly(Mixture):
    """One expert for each position, weighed by the largest of the router's numbers (Switch Transformers)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        numbers = self.value(flat).softmax(-1)
        chosen, largest = numbers.argmax(-1), numbers.max(-1).values
        out = torch.zeros_like(flat)
        for expert in range(3):
            (token,) = torch.where(chosen == expert)
            gate, up = F.linear(flat[token], self.query[expert]).chunk(2, -1)
            out.index_add_(0, token, F.linear(F.silu(gate) * up, self.key[expert]) * largest[token, None])
        return x + out.view_as(x)


def test_a_router_whose_largest_number_alone_is_used() -> None:
    components = found(LargestOnly())
    assert [components[n].kind for n in ("value", "query", "key")] == ["router", "ffn_gate_up", "ffn_down"]


def test_a_router_of_the_outputs_of_an_attention() -> None:
    """Experts make the output of an attention (JetMoe)."""

    def run(block: nn.Module, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(*(one(x)[:, None] for one in (block.a, block.b, block.c)))[:, 0]
        weights, chosen = block.d(x).topk(2)
        weights = weights.softmax(-1)
        out = torch.zeros_like(x)
        for expert in range(3):
            at = torch.where(chosen == expert)
            out = out.index_put(tuple(at[:2]), F.linear(y[at[:2]], block.e[expert]) * weights[at][:, None], True)
        return out

    model = Block(run, **{n: linear(WIDTH) for n in "abc"}, d=linear(3), e=nn.Parameter(torch.randn(3, WIDTH, WIDTH)))
    seen = kinds(model)
    assert (seen["d"], seen["e"], seen["a"]) == ("router", "attn_o", "attn_q")


@pytest.mark.parametrize("with_gate", [False, True])
@pytest.mark.parametrize("another", [False, True])
def test_a_block_that_follows_an_attention_without_a_sum_between_them(with_gate: bool, another: bool) -> None:
    """Also if one more matrix follows before the sum (Zamba2)."""

    def run(block: nn.Module, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(*(one(x)[:, None] for one in (block.a, block.b, block.c)))[:, 0]
        y = F.layer_norm(block.d(y), (WIDTH,))
        hidden = F.silu(block.e(y)) * block.f(y) if with_gate else F.gelu(block.e(y))
        return block.h(block.g(hidden)) if another else block.g(hidden)

    model = Block(run, **{n: linear(WIDTH) for n in "abcdh"}, e=linear(WIDE), f=linear(WIDE), g=linear(WIDTH, WIDE))
    seen = kinds(model)
    assert [seen[n] for n in "abcd"] == ["attn_q", "attn_k", "attn_v", "attn_o"]
    assert (seen["e"], seen["g"]) == (("ffn_gate", "ffn_down") if with_gate else ("ffn_in", "ffn_out"))
    assert seen["f"] == ("ffn_up" if with_gate else "other")
    assert seen["h"] == "other"


def test_a_gate_on_the_output_of_an_attention_in_two_steps_is_no_feed_forward_block() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(*(one(x)[:, None] for one in (block.a, block.b, block.c)))[:, 0]
        return block.f(F.silu(block.d(y)) * block.e(y))

    seen = kinds(Block(run, **{n: linear(WIDTH) for n in "abcdef"}))
    assert [seen[n] for n in "abc"] == ["attn_q", "attn_k", "attn_v"]
    assert not {seen[n] for n in "def"} & {"ffn_gate", "ffn_up", "ffn_down"}


def test_a_sum_within_a_recurrence_is_no_stream() -> None:
    """What the chunks of Mamba-2 give is added up, and what went in, before the last matrix."""

    def run(block: nn.Module, x: Tensor) -> Tensor:
        c, b, v = (F.silu(y) for y in block.a(x).split(WIDTH, -1))
        within = (c @ b.mT).tril() @ v
        carried = c @ (b.mT @ v)
        return block.b(F.layer_norm(within + carried + 0.5 * v, (WIDTH,)))

    assert kinds(Block(run, a=linear(3 * WIDTH), b=linear(WIDTH))) == {"a": "mixer", "b": "mixer"}


def test_squeeze_and_excite_is_no_feed_forward_block() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        return x * torch.sigmoid(block.mlp["fc2"](F.relu(block.mlp["fc1"](x.mean(1, keepdim=True)))))

    model = Block(run, mlp=nn.ModuleDict({"fc1": linear(4), "fc2": linear(WIDTH, 4)}))
    assert set(kinds(model).values()) == {"other"}


def test_parallel_attention_and_block_in_one_matrix() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        q, k, v, hidden = block.a(x).split([WIDTH, WIDTH, WIDTH, WIDE], -1)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return block.b(torch.cat([y, F.gelu(hidden)], -1))

    seen = kinds(Block(run, a=linear(3 * WIDTH + WIDE), b=linear(WIDTH, WIDTH + WIDE)))
    assert (seen["a[q]"], seen["a[v]"], seen["a[in]"]) == ("attn_q", "attn_v", "ffn_in")
    assert (seen["b[o]"], seen["b[out]"]) == ("attn_o", "ffn_out")


def test_an_adapter_leaves_the_kind_of_its_base() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.one, self.two = linear(WIDE), linear(2), linear(WIDE, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + 0.5 * self.two(self.one(x))

    model = Block(lambda b, x: b.b(F.gelu(b.a(x))), a=Adapted(), b=linear(WIDTH, WIDE))
    assert kinds(model) == {"a.base": "ffn_in", "a.one": "adapter_a", "a.two": "adapter_b", "b": "ffn_out"}


class Beside(nn.Module):
    """A layer with an adapter of rank 4, none of whose names says so."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.one, self.two = linear(4, base.in_features), linear(base.out_features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.two(self.one(x))


@pytest.mark.parametrize("classes", [2, 4, 50])
def test_adapters_are_adapters_whatever_they_stand_beside(classes: int) -> None:
    block = Block(lambda b, x: b.b(F.gelu(b.a(x))), a=linear(WIDE), b=linear(WIDTH, WIDE))
    model = nn.Sequential(Attention(F.scaled_dot_product_attention), block, linear(classes))
    plain = kinds(model)
    assert set(plain.values()) == {"attn_q", "attn_k", "attn_v", "attn_o", "ffn_in", "ffn_out", "lm_head"}
    for path, layer in [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]:
        setattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], Beside(layer))
    expected = {f"{name}.base": kind for name, kind in plain.items()}
    expected |= {f"{name}.one": "adapter_a" for name in plain} | {f"{name}.two": "adapter_b" for name in plain}
    assert kinds(model) == expected


def test_names_do_not_make_attention_of_what_a_pass_sees_as_none() -> None:
    attention = nn.ModuleDict({"q_proj": linear(WIDTH)})
    block = Block(lambda b, x: b.self_attn["q_proj"](x).tanh(), self_attn=attention)
    model = nn.Sequential(Attention(F.scaled_dot_product_attention), block)
    component = discover(model, example_inputs=INPUT).components[-1]
    assert component.kind == "other"
    assert "attn_q" in component.why


def test_a_channel_of_patches_is_a_feature() -> None:
    """Pictures are cut into patches, (B, C·k, L), which a feed-forward block of convolutions reads, and put together."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.GroupNorm(1, 8)
            self.b, self.a = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)

        def forward(self, pictures: Tensor) -> Tensor:
            x = self.stem(pictures)
            for _ in range(2):
                cut = F.unfold(x, 2, stride=2).unflatten(1, (8, 4))  # (B, C, k, L)
                cut = cut + self.a(F.silu(self.b(self.norm(cut))))
                x = F.fold(cut.flatten(1, 2), x.shape[-2:], 2, stride=2)
            return x

    components = discover(Patches(), example_inputs=torch.randn(1, 3, 8, 8)).components
    assert {c.name: (c.kind, c.evidence) for c in components if c.name in ("a.weight", "b.weight")} == {
        "a.weight": ("ffn_out", "use"),
        "b.weight": ("ffn_in", "use"),
    }
