"""Attention of other designs: latents, differences, windows, memories, convolutions as projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import HEADS, INNER, SIZE, WIDTH, attention, causal, heads, together
from lying.base import Lying, Names, Role, fused, grid, linear, weight


@attention
class Latent(Lying):
    """Multi-head latent attention: a query of 12 latents, keys and values of 10, and 2 features with positions."""

    def __init__(self, names: Names):
        super().__init__(names, q_a=linear(WIDTH, 12), o=linear(INNER, WIDTH))
        self.put(q_b=linear(12, HEADS * (SIZE + 2)), kv_a=linear(WIDTH, 12))
        self.order = names.order("k", "v")
        self.put(kv_b=(linear(10, 2 * INNER), grid((HEADS, 2, SIZE), 1, self.order)))
        self.put(a=nn.LayerNorm(12), b=nn.RMSNorm(10))

    def forward(self, x: Tensor) -> Tensor:
        q = heads(self["q_b"](self["a"](self["q_a"](x))))
        latent, position = self["kv_a"](x).split([10, 2], dim=-1)
        both = heads(self["kv_b"](self["b"](latent))).split(SIZE, dim=-1)
        found = dict(zip(self.order, both, strict=True))
        q = torch.cat((q[..., 2:], q[..., :2].cos()), -1)
        k = torch.cat((found["k"], position[:, None].cos().expand(-1, HEADS, -1, -1)), -1)
        return self["o"](together((q @ k.mT + causal(x)).softmax(-1) @ found["v"]))


@attention
class Differential(Lying):
    """The difference of two attentions over the same values."""

    def __init__(self, names: Names):
        super().__init__(names, q=linear(WIDTH, 2 * INNER), k=linear(WIDTH, 2 * INNER))
        self.put(v=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.share = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        q, k = heads(self["q"](x), 2 * HEADS), heads(self["k"](x), 2 * HEADS)
        weights = (q @ k.mT + causal(x)).softmax(-1).unflatten(1, (HEADS, 2))
        out = (weights[:, :, 0] - self.share * weights[:, :, 1]) @ heads(self["v"](x))
        return self["o"](together(F.rms_norm(out, (SIZE,))))


@attention
class LinearAttention(Lying):
    def __init__(self, names: Names):
        super().__init__(names, scan_o=linear(INNER, WIDTH))
        self.put(**{f"scan_{role}": linear(WIDTH, INNER) for role in "qkv"})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(self[f"scan_{role}"](x)) for role in "qkv")
        q, k = F.elu(q) + 1, F.elu(k) + 1
        out = (q @ (k.mT @ v)) / (q @ k.sum(-2).unsqueeze(-1))
        return self["scan_o"](together(out))


@attention
class Windows(Lying):
    """Windows of four that are rolled by two, with a table of relative positions and a small network over them."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH), none1=linear(2, 16), none2=linear(16, HEADS))
        self.order = names.order("q", "k", "v")
        self.put(qkv=(linear(WIDTH, 3 * INNER, True), grid((3, INNER), 0, self.order)))
        self.put(emb=(weight(7, HEADS), Role("table")))

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        x = F.pad(x, (0, 0, 0, -t % 4))
        length = x.shape[1]
        x = torch.roll(x, -2, dims=1).view(b * length // 4, 4, d)
        three = self["qkv"](x).reshape(-1, 4, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        q, k, v = (three[self.order.index(role)] for role in "qkv")
        i = torch.arange(4, device=x.device)
        table = self["emb"][(i[:, None] - i + 3).view(-1)].view(4, 4, HEADS).permute(2, 0, 1)
        places = torch.stack((i.float()[:, None].expand(4, 4), i.float().expand(4, 4)), -1)
        made = 16 * torch.sigmoid(self["none2"](F.relu(self["none1"](places)))).permute(2, 0, 1)
        out = ((q * SIZE**-0.5) @ k.mT + table[None] + made).softmax(-1) @ v
        out = torch.roll(self["o"](together(out)).view(b, length, d), 2, dims=1)
        return out[:, :t]


@attention
class Axial(Lying):
    """Rows, then columns, of a picture of three rows; both share their projections' layout but not their weights."""

    def __init__(self, names: Names):
        super().__init__(names)
        for i in "12":
            self.put(**{f"{r}{i}": linear(WIDTH, INNER) for r in "qkv"}, **{f"o{i}": linear(INNER, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        grid = F.pad(x, (0, 0, 0, -t % 3)).view(b, 3, -1, d)
        for i in "12":
            grid = grid.transpose(1, 2)
            y = grid.reshape(-1, grid.shape[2], d)
            q, k, v = (heads(self[f"{role}{i}"](y)) for role in "qkv")
            grid = grid + self[f"o{i}"](together(F.scaled_dot_product_attention(q, k, v))).view_as(grid)
        return grid.transpose(1, 2).reshape(b, -1, d)[:, :t]


@attention
class Convolutions(Lying):
    """Projections by `Conv1d` of width 1 on (B, C, T)."""

    def __init__(self, names: Names):
        super().__init__(names, **{role: nn.Conv1d(WIDTH, INNER, 1) for role in "qkv"}, o=nn.Conv1d(INNER, WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT
        q, k, v = (self[role](x).view(x.shape[0], HEADS, SIZE, -1) for role in "qkv")
        weights = torch.einsum("bhct,bhcs->bhts", q, k).softmax(-1)
        return self["o"](torch.einsum("bhts,bhcs->bhct", weights, v).reshape(x.shape[0], INNER, -1)).mT


@attention
class PictureConvolutions(Lying):
    """One `Conv2d` of width 1 for q, k and v of a picture, as in UNets."""

    def __init__(self, names: Names):
        super().__init__(names, o=nn.Conv2d(INNER, WIDTH, 1))
        self.order = names.order("q", "k", "v")
        self.put(qkv=(nn.Conv2d(WIDTH, 3 * INNER, 1), grid((HEADS, 3, SIZE), 1, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        y = x.mT.unsqueeze(-1)
        three = self["qkv"](y).view(x.shape[0] * HEADS, 3 * SIZE, -1).split(SIZE, dim=1)
        found = dict(zip(self.order, three, strict=True))
        weights = torch.softmax(found["q"].mT @ found["k"], dim=-1)
        out = torch.einsum("bts,bcs->bct", weights, found["v"]).reshape(x.shape[0], INNER, -1, 1)
        return self["o"](out).squeeze(-1).mT


@attention
class ChannelAttention(Lying):
    """The scores are between features, not between positions (XCiT, DaViT)."""

    def __init__(self, names: Names):
        super().__init__(names, o=linear(INNER, WIDTH))
        self.order = names.order("q", "k", "v")
        self.put(qkv=(linear(WIDTH, 3 * INNER), grid((3, INNER), 0, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        three = self["qkv"](x).reshape(*x.shape[:2], 3, HEADS, SIZE).permute(2, 0, 3, 4, 1)
        q, k, v = (three[self.order.index(role)] for role in "qkv")
        out = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1) @ v
        return self["o"](out.permute(0, 3, 1, 2).flatten(2))


@attention
class Module(Lying):
    """`nn.MultiheadAttention`."""

    def __init__(self, names: Names):
        super().__init__(names)
        width, self.weights = WIDTH, names.random.random() < 0.5
        self.put(attn=(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), None))
        at = self.called["attn"]
        self.roles |= {
            f"{at}.in_proj_weight": fused(q=range(width), k=range(width, 2 * width), v=range(2 * width, 3 * width)),
            f"{at}.out_proj.weight": Role("o"),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self["attn"](x, x, x, attn_mask=causal(x), need_weights=self.weights)[0]  # type: ignore[no-any-return]


@attention
class FunctionalForward(Lying):
    """`F.multi_head_attention_forward` with weights of its own."""

    def __init__(self, names: Names):
        super().__init__(names, **{role: weight(WIDTH, WIDTH) for role in "qkvo"})

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        out, _ = F.multi_head_attention_forward(
            *(x, x, x, WIDTH, HEADS, None, None, None, None, False, 0.0, self["o"], None),
            use_separate_proj_weight=True,
            q_proj_weight=self["q"],
            k_proj_weight=self["k"],
            v_proj_weight=self["v"],
            need_weights=False,
        )
        return out.transpose(0, 1)


@attention
class Latents(Lying):
    """A Perceiver's: learned queries read the stream, and the stream reads them."""

    def __init__(self, names: Names):
        super().__init__(names, emb=(weight(5, WIDTH), Role("table")))
        for i in "12":
            self.put(**{f"{r}{i}": linear(WIDTH, INNER) for r in "qkv"}, **{f"o{i}": linear(INNER, WIDTH)})

    def attend(self, i: str, x: Tensor, read: Tensor) -> Tensor:
        q, k, v = heads(self[f"q{i}"](x)), heads(self[f"k{i}"](read)), heads(self[f"v{i}"](read))
        return self[f"o{i}"](together(F.scaled_dot_product_attention(q, k, v)))

    def forward(self, x: Tensor) -> Tensor:
        latents = self["emb"].expand(x.shape[0], -1, -1)
        latents = latents + self.attend("1", latents, x)
        return self.attend("2", x, latents)


@attention
class LowRank(Lying):
    """Adapters by hand beside the query and the value."""

    def __init__(self, names: Names):
        super().__init__(names, **{role: linear(WIDTH, INNER) for role in "qkv"}, o=linear(INNER, WIDTH))
        self.put(lora_a1=weight(3, WIDTH), lora_b1=weight(INNER, 3), lora_a2=linear(WIDTH, 2), lora_b2=linear(2, INNER))

    def forward(self, x: Tensor) -> Tensor:
        q = self["q"](x) + 0.5 * (x @ self["lora_a1"].T @ self["lora_b1"].T)
        v = self["v"](x) + self["lora_b2"](F.dropout(self["lora_a2"](x), 0.1, self.training))
        return self["o"](together(F.scaled_dot_product_attention(heads(q), heads(self["k"](x)), heads(v))))


@attention
class ValueOfTheFirstLayer(Lying):
    """Values mixed with another layer's and with embeddings of the input; an output that is scaled and normed."""

    def __init__(self, names: Names):
        super().__init__(names, **{role: linear(WIDTH, INNER) for role in "qk"}, v1=linear(WIDTH, INNER))
        self.put(v2=linear(WIDTH, INNER), o=linear(INNER, WIDTH))
        self.shares = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        v = self.shares[0] * self["v1"](x) + self.shares[1] * self["v2"](F.layer_norm(x, (WIDTH,)))
        out = F.scaled_dot_product_attention(heads(self["q"](x)), heads(self["k"](x)), heads(v))
        return self["o"](F.layer_norm(together(out), (INNER,)) * 0.7)


@attention
class WrittenInPlace(Lying):
    """Heads are written into a buffer one by one, and the stream is read through a preceding convolution over time."""

    def __init__(self, names: Names):
        super().__init__(names, **{role: linear(WIDTH, INNER) for role in "qkv"}, o=linear(INNER, WIDTH))
        self.put(any1=(nn.Conv1d(INNER, INNER, 3, padding=1, groups=INNER), Role("mixer")))

    def forward(self, x: Tensor) -> Tensor:
        q, v = heads(self["q"](x)), heads(self["v"](x))
        k = heads(self["any1"](self["k"](x).mT).mT)
        out = torch.empty_like(v)
        for h in range(HEADS):
            scores = torch.matmul(q[:, h], k[:, h].mT)
            scores -= scores.max(dim=-1, keepdim=True).values
            out[:, h] = torch.div(scores.exp_(), scores.sum(-1, keepdim=True)) @ v[:, h]
        return self["o"](out.permute(0, 2, 1, 3).contiguous().view(*x.shape[:2], INNER))
