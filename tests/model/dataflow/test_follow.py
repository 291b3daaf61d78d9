"""Following a pass leaves nothing behind, and fails quietly."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from dataflow_models import INPUT, LIES, WIDTH, Attention, heads, kinds, linear, merged
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from weibull_monitor.model.components import discover, discover_components, render
from weibull_monitor.model.dataflow import mode


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def state(model: nn.Module) -> list[object]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [hooks, [m.training for m in model.modules()], [id(p) for p in model.parameters()]]


def test_nothing_is_left_in_the_model_and_no_random_number_is_used() -> None:
    class Busy(Attention):
        def __init__(self) -> None:
            super().__init__(F.scaled_dot_product_attention)
            self.norm, self.drop, self.calls = nn.BatchNorm1d(WIDTH), nn.Dropout(0.5), [0]

        def forward(self, x: Tensor) -> Tensor:
            self.calls.append(1)
            self.last = x
            random.random()
            return super().forward(self.drop(self.norm(x.mT).mT) + torch.rand(WIDTH))

    model = Busy()
    ran: list[int] = []
    model.register_forward_hook(lambda *_: ran.append(1))
    before, buffers = state(model), copy.deepcopy(dict(model.named_buffers()))
    attributes = set(vars(model))
    numbers = torch.get_rng_state(), random.getstate()
    assert kinds(model) == LIES
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert state(model) == before
    assert (ran, model.calls, set(vars(model))) == ([], [0], attributes)
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


def test_where_a_pass_fails_names_decide_and_the_table_says_so() -> None:
    class Broken(Attention):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("needs a graph")

    model = nn.ModuleDict(
        {"self_attn": nn.ModuleDict({"q_proj": linear(WIDTH)}), "broken": Broken(F.scaled_dot_product_attention)}
    )
    model.forward = lambda x: model["broken"](x)  # type: ignore[method-assign]
    seen = discover(model, example_inputs=INPUT)
    assert {c.name: c.evidence for c in seen.components}["self_attn.q_proj.weight"] == "name"
    assert "ValueError: needs a graph" in render(seen)


def test_a_tensor_without_memory_is_not_read() -> None:
    class Viewless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = linear(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            out = torch.empty(1)
            out.data = self.a(x).data
            return out + out * torch.ones(1)

    assert len(discover_components(Viewless(), example_inputs=INPUT)) == 1


def test_what_the_user_says_outweighs_what_is_seen() -> None:
    (first, *_) = discover_components(
        Attention(F.scaled_dot_product_attention), kinds={"up": "mixer"}, example_inputs=INPUT
    )
    assert (first.kind, first.evidence) == ("mixer", "you")


def test_no_pass_is_followed_if_the_user_says_so() -> None:
    assert {
        c.evidence for c in discover_components(Attention(F.scaled_dot_product_attention), example_inputs=False)
    } == {"name"}


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, copy.deepcopy])
def test_wrappers_are_looked_through(wrap: object) -> None:
    model = Attention(by_hand)
    components = discover_components(wrap(model), example_inputs=INPUT)  # type: ignore[operator]
    assert {c.name.removesuffix(".weight"): c.kind for c in components} == LIES


def test_control_flow_that_depends_on_weights() -> None:
    class Careful(Attention):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if torch.isnan(y).any() or y.abs().max().item() > 1e6:
                raise FloatingPointError("not finite")
            return y if len(y.sum((1, 2)).tolist()) else x

    assert kinds(Careful(by_hand)) == LIES


def test_a_pass_over_real_weights_gives_the_same_loss_afterwards() -> None:
    model = Attention(F.scaled_dot_product_attention)
    before = model(*INPUT)
    kinds(model)
    assert torch.equal(model(*INPUT), before)


def test_a_part_that_gets_nothing_is_known_by_its_names() -> None:
    """A block that a pass came to with no position is not one that the pass shows to be no block."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.layers = nn.ModuleList(
                nn.ModuleDict({f"{name}_mlp": nn.ModuleDict(self.block()) for name in ("text", "audio")}) for _ in "ab"
            )

        def block(self) -> dict[str, nn.Module]:
            shapes = {"gate_proj": (8, 20), "up_proj": (8, 20), "down_proj": (20, 8)}
            return {name: nn.Linear(*shape) for name, shape in shapes.items()}

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            for layer in self.layers:
                for name, mask in (("text", tokens < 9), ("audio", tokens >= 9)):
                    mlp, some = layer[f"{name}_mlp"], x[mask]
                    made = mlp["down_proj"](nn.functional.silu(mlp["gate_proj"](some)) * mlp["up_proj"](some))
                    x = x.masked_scatter(mask[..., None], x[mask] + made)
            return x

    found = discover_components(Two(), example_inputs=(torch.zeros(2, 5, dtype=torch.long),))
    said = {c.name.split(".", 2)[2].replace(".weight", ""): c.kind for c in found if c.name.startswith("layers.1")}
    for name in ("text_mlp", "audio_mlp"):
        block = [said[f"{name}.{matrix}_proj"] for matrix in ("gate", "up", "down")]
        assert block == ["ffn_gate", "ffn_up", "ffn_down"], name


class TwoSorts(nn.Module):
    """A block whose four matrices make an attention, or a running sum over positions."""

    def __init__(self, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.a, self.b, self.c, self.d = linear(WIDTH), linear(WIDTH), linear(WIDTH), linear(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(one(x)) for one in (self.a, self.b, self.c))
        made = F.scaled_dot_product_attention(q, k, v) if self.attends else q * (k * v).cumsum(2)
        return x + self.d(merged(made))


@pytest.mark.parametrize("sorts", [[False, True, False, True, False, True], [True, False, True, False, True, False]])
def test_a_block_of_another_sort_is_not_like_one_that_a_pass_saw_before_it_ended(sorts: list[bool]) -> None:
    class CutOff(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for block in self[:4]:
                x = block(x)
            raise ValueError("the rest cannot be followed")

    model = CutOff(*(TwoSorts(attends) for attends in sorts))
    found = {c.name: c.kind for c in discover_components(model, example_inputs=INPUT)}
    for n, attends in enumerate(sorts):
        of_block = {found[f"{n}.{name}.weight"] for name in "abcd"}
        if attends and n < 3:  # the pass may have been cut off within the fourth
            assert of_block == {"attn_q", "attn_k", "attn_v", "attn_o"}
        elif not attends:
            assert not any("attn" in kind for kind in of_block)


def test_scores_that_are_written_into_a_large_tensor_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of windows of 512 tokens on both sides have just more elements than a tensor that is copied (LED)."""

    def written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.zeros((*q.shape[:-1], k.shape[-2]))
        scores[:, :, :4], scores[:, :, 4:] = q[:, :, :4] @ k.mT, q[:, :, 4:] @ k.mT
        return scores.softmax(-1) @ v

    monkeypatch.setattr(mode, "LARGEST", 2 * 4 * 7 * 7 - 1)
    assert kinds(Attention(written)) == LIES


class Tower(PreTrainedModel):
    """A part of a larger model, which has to be given its hidden states; half of its fused matrix is a gate."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"gate_up_proj": linear(80), "down_proj": linear(WIDTH, 40)}) for _ in "12"
        )
        self.projector = linear(8)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        x = hidden_states + 1
        for layer in self.layers:
            up, gate = layer["gate_up_proj"](x).chunk(2, -1)
            x = x + layer["down_proj"](up * F.silu(gate))
        return self.projector(x)


@pytest.mark.parametrize("within", [False, True])
def test_a_tower_is_given_what_it_needs(within: bool) -> None:
    tower = Tower(PreTrainedConfig(hidden_size=WIDTH))
    model = nn.ModuleDict({"tower": tower}) if within else tower
    seen = {c.name.replace(".weight", ""): c.label for c in discover_components(model)}
    at = "tower." if within else ""
    assert (seen[f"{at}layers.0.gate_up_proj[up]"], seen[f"{at}layers.0.down_proj"]) == ("ffn_up", "ffn_down")
    assert seen[f"{at}projector"] == "other"  # what it returns is read by the model around it
