"""Feed-forward blocks written in many ways: (batch, time, `WIDTH`) in and out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lying.attention import WIDTH
from lying.base import Lying, Names, Role, fused, grid, linear, weight

WIDE = 56

FEED_FORWARD: dict[str, type[Lying]] = {}


def feed_forward(cls: type[Lying]) -> type[Lying]:
    FEED_FORWARD[cls.__name__] = cls
    return cls


ACTIVATIONS = {
    "functional": F.relu,
    "module": nn.GELU(approximate="tanh"),
    "squared": lambda x: F.relu(x).square(),
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "quick gelu": lambda x: x * (1.702 * x).sigmoid(),
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * x**3))),
    "error function": lambda x: x * 0.5 * (1.0 + torch.erf(x / 1.4142)),
    "where": lambda x: torch.where(x > 0, x, 0.01 * x),
    "clamp": lambda x: x.clamp(min=0),
    "mask": lambda x: x * (x > 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "sine": torch.sin,
    "in place": lambda x: x.relu_(),
}


@feed_forward
class InAndOut(Lying):
    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH, True), **{"in": linear(WIDTH, WIDE, True)})
        self.act = ACTIVATIONS[names.random.choice(list(ACTIVATIONS))]

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self["ffn_out"](F.dropout(self.act(self["in"](x)), 0.1, self.training)), 0.1, self.training)


@feed_forward
class InANormAndOut(Lying):
    """A norm between the activation and the second matrix."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})
        self.norm = nn.LayerNorm(WIDE)

    def forward(self, x: Tensor) -> Tensor:
        return self["ffn_out"](self.norm(F.gelu(self["in"](x))))


@feed_forward
class Sequential(Lying):
    def __init__(self, names: Names):
        super().__init__(names)
        self.put(net=(nn.Sequential(linear(WIDTH, WIDE), nn.SiLU(), nn.Dropout(0.1), linear(WIDE, WIDTH)), None))
        self.roles |= {f"{self.called['net']}.{i}.weight": Role(r) for i, r in ((0, "in"), (3, "ffn_out"))}

    def forward(self, x: Tensor) -> Tensor:
        return self["net"](x)  # type: ignore[no-any-return]


@feed_forward
class Convolutions(Lying):
    def __init__(self, names: Names):
        super().__init__(names, ffn_out=nn.Conv1d(WIDE, WIDTH, 1), **{"in": nn.Conv1d(WIDTH, WIDE, 1)})

    def forward(self, x: Tensor) -> Tensor:
        return self["ffn_out"](F.relu(self["in"](x.mT))).mT


@feed_forward
class WithConvolution(Lying):
    """A depthwise convolution between the two, as in SegFormer."""

    def __init__(self, names: Names):
        super().__init__(names, ffn_out=linear(WIDE, WIDTH), **{"in": linear(WIDTH, WIDE)})
        self.put(any1=(nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE), Role("mixer")))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self["any1"](self["in"](x).mT.unsqueeze(-1)).squeeze(-1)  # a picture of one column
        return self["ffn_out"](F.gelu(hidden.mT))


@feed_forward
class Gated(Lying):
    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))
        self.act = ACTIVATIONS[names.random.choice([a for a in ACTIVATIONS if a not in ("in place", "mask")])]
        self.first = names.random.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self["up"](x), self.act(self["gate"](x))
        return self["down"](up * gate if self.first else gate * up)


@feed_forward
class GatedParameters(Lying):
    def __init__(self, names: Names):
        super().__init__(names, gate=weight(WIDTH, WIDE), up=weight(WIDTH, WIDE), down=weight(WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x @ self["up"], F.silu(torch.einsum("btd,df->btf", x, self["gate"]))) @ self["down"]


@feed_forward
class BilinearGate(Lying):
    """No activation at all: which is the gate cannot be known."""

    def __init__(self, names: Names):
        super().__init__(names, either1=linear(WIDTH, WIDE), either2=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self["down"](self["either1"](x) * self["either2"](x))


@feed_forward
class PackedGate(Lying):
    """Gate and up in one matrix, in any order."""

    def __init__(self, names: Names):
        super().__init__(names, down=linear(WIDE, WIDTH))
        self.order = names.order("gate", "up")
        self.put(gu=(linear(WIDTH, 2 * WIDE), grid((2, WIDE), 0, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        found = dict(zip(self.order, self["gu"](x).chunk(2, -1), strict=True))
        return self["down"](F.gelu(found["gate"]) * found["up"])


@feed_forward
class Glu(Lying):
    """`F.glu`: the second half is the gate."""

    def __init__(self, names: Names):
        super().__init__(names, down=linear(WIDE, WIDTH))
        self.put(gu=(linear(WIDTH, 2 * WIDE), grid((2, WIDE), 0, ["up", "gate"])))

    def forward(self, x: Tensor) -> Tensor:
        return self["down"](F.glu(self["gu"](x), dim=-1))


@feed_forward
class Interleaved(Lying):
    """Every second row, with limits, as in gpt-oss."""

    def __init__(self, names: Names):
        super().__init__(names, down=linear(WIDE, WIDTH))
        self.order = names.order("gate", "up")
        self.put(gu=(linear(WIDTH, 2 * WIDE), grid((WIDE, 2), 1, self.order)))

    def forward(self, x: Tensor) -> Tensor:
        both = self["gu"](x)
        found = dict(zip(self.order, (both[..., ::2], both[..., 1::2]), strict=True))
        gate, up = found["gate"].clamp(max=7.0), found["up"].clamp(-7.0, 7.0)
        return self["down"]((up + 1) * gate * torch.sigmoid(gate * 1.702))


@feed_forward
class MultipliedOut(Lying):
    """A gate times one more than the other, multiplied out, in one operation or in two."""

    def __init__(self, names: Names):
        super().__init__(names, gate=linear(WIDTH, WIDE), up=linear(WIDTH, WIDE), down=linear(WIDE, WIDTH))
        self.way = names.random.randrange(3)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.silu(self["gate"](x)), self["up"](x)
        ways = torch.addcmul(gate, gate, up), gate * up + gate, gate + up * gate
        return self["down"](ways[self.way])  # type: ignore[no-any-return]


@feed_forward
class Unbound(Lying):
    """A Conv1D's (in, out) weight seen as pairs."""

    def __init__(self, names: Names):
        super().__init__(names, down=weight(WIDE, WIDTH))
        self.order = names.order("gate", "up")
        self.put(gu=(weight(WIDTH, 2 * WIDE), grid((WIDE, 2), 1, self.order, dim=1)))

    def forward(self, x: Tensor) -> Tensor:
        found = dict(zip(self.order, (x @ self["gu"]).view(*x.shape[:2], -1, 2).unbind(-1), strict=True))
        return (found["up"] * F.silu(found["gate"])) @ self["down"]


@feed_forward
class InAndOutOfOneMatrix(Lying):
    """Gate, up and the transposed down in one (3, F, D) parameter."""

    def __init__(self, names: Names):
        super().__init__(names)
        self.order = names.order("gate", "up", "down")
        self.put(all=(weight(3, WIDE, WIDTH), fused(0, **{role: [i] for i, role in enumerate(self.order)})))

    def forward(self, x: Tensor) -> Tensor:
        w = {role: self["all"][i] for i, role in enumerate(self.order)}
        return (F.silu(F.linear(x, w["gate"])) * F.linear(x, w["up"])) @ w["down"]
