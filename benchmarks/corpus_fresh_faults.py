"""Held-out faults that rules are judged by: `corpus_fresh_edits`, `corpus_fresh_stored`, and those of resuming and stepping.

They were written without a look at the rules, and no training with them was replayed before. Each line of `FRESH_FAULTS` has an
issue or a pull request in which such a fault was reported, or a close relative of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from corpus_evaluated_faults import Fault
from corpus_faults import factor_all
from corpus_fresh_edits import WRITTEN, block, of_a_block, trained
from corpus_fresh_stored import STORED
from corpus_world import MATRICES, NotHere, World
from torch import Tensor, nn

from weibull_monitor import Component
from weibull_monitor.model.components import discover

FIRST: Final = ("exp_avg", "m", "momentum_buffer", "moment1", "m1")
SECOND: Final = ("exp_avg_sq", "moment2", "nu")
COUNTERS: Final = ("step", "count")


# States and settings of optimizers.


def _states(world: World, *names: str) -> list[dict[str, Any]]:
    """The states that have one of these."""
    found = [s for optimizer in world.optimizers for s in optimizer.state.values() if any(name in s for name in names)]
    if not found:
        raise NotHere(names)
    return found


def _second(change: Callable[[Tensor], Tensor]) -> Fault:
    """How second moments are stored after each step."""

    def fault(world: World) -> None:
        _states(world, *SECOND)

        def store() -> None:
            for state in _states(world, *SECOND):
                for name in SECOND:
                    if name in state:
                        state[name].copy_(change(state[name]))

        world.after_step.append(store)

    return fault


def _linear_bits(v: Tensor) -> Tensor:
    step = v.max().clamp_min(1e-30) / 255
    return (v / step).round() * step


def _without_moments(world: World) -> None:
    for state in _states(world, *COUNTERS):
        for value in state.values():
            if isinstance(value, Tensor) and value.dim():
                value.zero_()


def _block_forgotten(world: World) -> None:
    names = {c.parameter for c in block(world)}
    found = False
    for optimizer in world.optimizers:
        for name in names:
            found |= optimizer.state.pop(world.model.get_parameter(name), None) is not None
    if not found:
        raise NotHere("states")


def _bit(bit: int, *names: str) -> Fault:
    """A bit of the exponent of one moment: 2 to this power."""

    def fault(world: World) -> None:
        component = world.one(*MATRICES, whole=True)
        state = world.state(component, *names).view(-1)
        state[world.chance.randrange(len(state))] *= 2.0**bit
        world.strike(component)

    return fault


def _each_group(key: str, change: Callable[[Any], Any]) -> Fault:
    """A setting of all groups; of numbers and pairs of numbers only."""

    def fault(world: World) -> None:
        groups = [g for optimizer in world.optimizers for g in optimizer.param_groups if change(g.get(key)) is not None]
        if not groups:
            raise NotHere(key)
        for g in groups:
            g[key] = change(g[key])

    return fault


def _old_copies(world: World) -> None:
    for optimizer in world.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [nn.Parameter(p.detach().clone()) for p in group["params"]]


# Rates and decay.


def _course(factor: Callable[[int], float]) -> Fault:
    """η times a factor of the number of steps since the fault."""

    def fault(world: World) -> None:
        steps = [0]

        def count() -> None:
            steps[0] += 1
            factor_all(world, factor(steps[0]))

        world.after_step.append(count)

    return fault


def _embeddings(world: World) -> list[Component]:
    found = [c for c in discover(world.model).components if c.kind == "embedding" and c.trainable and c.numel > 4096]
    if not found:
        raise NotHere("embedding")
    world.strike(*found)
    return list({c.parameter: c for c in found}.values())


def _embedding_rate(world: World) -> None:
    for c in _embeddings(world):
        world.factors[world.own_group(c)] = 20.0


def _decay(components: Callable[[World], list[Component]], factor: float) -> Fault:
    def fault(world: World) -> None:
        for c in {c.parameter: c for c in components(world)}.values():
            n, g = world.own_group(c)
            group = world.optimizers[n].param_groups[g]
            if not group.get("weight_decay"):
                raise NotHere("decay")
            group["weight_decay"] *= factor

    return fault


def _selection(world: World) -> list[Component]:
    found = world.components("attn_q", "attn_q_b", "attn_k")
    if not found:
        raise NotHere("q and k")
    world.strike(*found)
    return found


# What is done to weights after each step.


def _after_each(make: Callable[[World], Callable[[], object]]) -> Fault:
    return lambda world: world.after_step.append(make(world))


def _decayed(world: World) -> Callable[[], object]:
    return lambda: [w.mul_(1 - 0.01) for _, w in trained(world, 2)]


def _averaged(world: World) -> Callable[[], object]:
    means = {name: w.clone() for name, w in trained(world)}
    return lambda: [w.copy_(means[name].lerp_(w, 0.1)) for name, w in trained(world)]


def _without_masters(world: World) -> Callable[[], object]:
    if any(w.dtype != torch.float32 for _, w in trained(world)):
        raise NotHere("float32")
    return lambda: [w.copy_(w.bfloat16()) for _, w in trained(world)]


def _half_stepped(world: World) -> Callable[[], object]:
    component = world.one(*MATRICES, "attn_qkv", whole=True)
    p = world.parameter(component)
    half = len(p) // 2
    first = p.detach()[half:].clone()
    world.strike(component)
    return lambda: p.data[half:].copy_(first)


# What is learned from.


def _gradients(make: Callable[[World], Callable[[dict[str, Tensor]], object]]) -> Fault:
    """A change of the gradients of all parameters before each step; they are given by the parameters' names."""

    def fault(world: World) -> None:
        change = make(world)
        world.before_step.append(
            lambda: change({n: p.grad for n, p in world.model.named_parameters() if p.grad is not None})
        )

    return fault


def _never_zeroed(world: World) -> Callable[[dict[str, Tensor]], object]:
    sums: dict[str, Tensor] = {}

    def change(grads: dict[str, Tensor]) -> None:
        for name, g in grads.items():
            g.add_(sums.get(name, 0.0))
            sums[name] = g.clone()

    return change


def _late(world: World) -> Callable[[dict[str, Tensor]], object]:
    kept: deque[dict[str, Tensor]] = deque(maxlen=9)

    def change(grads: dict[str, Tensor]) -> None:
        kept.append({name: g.clone() for name, g in grads.items()})
        for name, g in grads.items():
            if name in kept[0]:
                g.copy_(kept[0][name])

    return change


def _noisy(grads: dict[str, Tensor]) -> None:
    for g in grads.values():
        g.add_(10.0 * g.square().mean().sqrt() * torch.randn(g.shape))


def _largest_only(grads: dict[str, Tensor]) -> None:
    for g in grads.values():
        g[g.abs() < g.abs().float().flatten().kthvalue(max(1, math.ceil(0.99 * g.numel()))).values] = 0.0


def _clipped(grads: dict[str, Tensor]) -> None:
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads.values()]))
    for g in grads.values():
        g.mul_(1e-6 / (norm + 1e-6))


def _keep(kept: dict[str, Tensor], name: str, p: Tensor) -> None:
    if p.grad is not None:
        kept[name] = p.grad.clone()


def _unclipped(world: World) -> Callable[[dict[str, Tensor]], object]:
    """Clipping is lost, and one batch in 25 is an outlier."""
    raw: dict[str, Tensor] = {}
    steps = [0]
    for name, p in world.model.named_parameters():
        if p.requires_grad:
            keep = partial(_keep, raw, name)
            p.register_post_accumulate_grad_hook(keep)  # type: ignore[no-untyped-call]

    def change(grads: dict[str, Tensor]) -> None:
        steps[0] += 1
        for name, g in grads.items():
            g.copy_(raw.get(name, g) * (30.0 if steps[0] % 25 == 0 else 1.0))

    return change


def _batches(change: Callable[[dict[str, Tensor], dict[str, Tensor]], object]) -> Fault:
    """A change of each batch; it gets the batch, and the first one after the fault."""

    def fault(world: World) -> None:
        first: dict[str, Tensor] = {}

        def changed(batch: dict[str, Tensor]) -> None:
            if not first:
                first.update({name: t.clone() for name, t in batch.items()})
            change(batch, first)

        world.on_batch.append(changed)

    return fault


def _one_rank(batch: dict[str, Tensor], first: dict[str, Tensor]) -> None:
    size = max(len(t) for t in batch.values() if t.dim())
    for name, t in batch.items():
        if t.dim() and len(t) == size:
            batch[name] = t[torch.arange(size) % max(1, size // 8)]


def _unscaled_inputs(batch: dict[str, Tensor], first: dict[str, Tensor]) -> None:
    names = [name for name, t in batch.items() if t.is_floating_point() and name != "labels"]
    if not names:
        raise NotHere("inputs that are numbers")
    largest = max(names, key=lambda name: batch[name].numel())
    batch[largest] = 255.0 * batch[largest]


def _dropout(world: World) -> None:
    found = [m for m in world.model.modules() if isinstance(m, nn.Dropout)]
    if not found:
        raise NotHere("dropout")
    for m in found:
        m.p, m.training = 0.5, True


def _scale_lost(world: World) -> None:
    found = [
        (m, name)
        for m in world.model.modules()
        for name in ("scaling", "scale", "softmax_scale")
        if "attention" in type(m).__name__.lower()
        and isinstance(getattr(m, name, None), float)
        and getattr(m, name) != 1.0
    ]
    if not found:
        raise NotHere("softmax scale")
    for m, name in found:
        setattr(m, name, 1.0)


def _rotary_base(world: World) -> None:
    found = [b for name, b in world.model.named_buffers() if name.endswith("inv_freq")]
    if not found:
        raise NotHere("rotary positions")
    for b in found:
        b.pow_(math.log(500_000) / math.log(10_000))


def _gains_plus_one(world: World) -> None:
    names = {f"{name}.weight" for name, m in world.model.named_modules() if "norm" in type(m).__name__.lower()}
    found = [w for name, w in trained(world) if name in names]
    if not found:
        raise NotHere("norms")
    for gains in found:
        gains.add_(1.0)


_LEARNED_FROM: Final[dict[str, Fault]] = {
    "gradients never zeroed": _gradients(_never_zeroed),  # tenstorrent/tt-blacksmith#711
    "gradients eight steps late": _gradients(_late),  # marin-community/marin#6423
    # huseyinatahaninan/Differentially-Private-Fine-tuning-of-Language-Models#4
    "gradient noise × 10": _gradients(lambda world: _noisy),
    "largest hundredth of the gradients": _gradients(lambda world: _largest_only),  # pytorch/pytorch#48670
    "clipped at a norm of 10⁻⁶": _gradients(lambda world: _clipped),  # axolotl-ai-cloud/axolotl#1444
    "clipping lost": _gradients(_unclipped),  # deepspeedai/DeepSpeed#7220
    "gradients of one rank only": _batches(_one_rank),  # jingyaogong/minimind#853
    "one batch again and again": _batches(  # yyfz/Pi3#87
        lambda batch, first: batch.update({name: t.clone() for name, t in first.items()})
    ),
    "inputs × 255": _batches(_unscaled_inputs),  # leftthomas/ESPCN#30
    "dropout of a half": _dropout,  # explosion/thinc#355
    "softmax scale lost": _scale_lost,  # mlc-ai/mlc-llm#3485
    "rotary base of another model": _rotary_base,  # lyogavin/airllm#368
    "norm gains plus one": _gains_plus_one,  # utensils/mold#1078
}
_STEPPED: Final[dict[str, Fault]] = {
    # States and settings.
    "second moment in float16": _second(lambda v: v.half()),  # google-deepmind/optax#1754
    "second moment in 8 linear bits": _second(_linear_bits),  # unslothai/unsloth-zoo#962
    "flipped bit in the second moment": _bit(-64, *SECOND),  # pytorch/torchtitan#4324
    "flipped bit in the first moment": _bit(16, *FIRST),  # tenstorrent/tt-metal#20940
    "moments lost, steps kept": _without_moments,  # KempnerInstitute/KempnerForge#115
    "states of a block lost": _block_forgotten,  # pytorch/pytorch#192202
    "1 − β instead of β": _each_group(  # mila-iqia/blocks#1159
        "betas", lambda betas: betas and (1 - betas[0], 1 - betas[1], *betas[2:])
    ),
    "ε is 0": _each_group("eps", lambda eps: 0.0 if isinstance(eps, float) else None),  # google-deepmind/optax#1754
    "a block frozen": of_a_block(lambda world, p, name: p.requires_grad_(False)),  # wannabeOG/MAS-PyTorch#1
    "optimizer holds old copies": _old_copies,  # huggingface/accelerate#3256
    # Rates and decay.
    "η falls eight times too fast": _course(lambda t: max(0.0, 1 - 8 * t / 200)),  # starVLA/starVLA#210
    "η goes round": _course(lambda t: 0.5 + 0.5 * math.cos(2 * math.pi * t / 50)),  # ivadomed/ivadomed#57
    "η rises by 3 % a step": _course(lambda t: 1.03**t),  # davidtvs/pytorch-lr-finder#103
    "η ÷ 100 for all": lambda world: factor_all(world, 0.01),  # OpenNMT/OpenNMT-py#1911
    "η × 20 for embeddings": _embedding_rate,  # EleutherAI/gpt-neox#1087
    "λ_wd × 100 for embeddings": _decay(_embeddings, 100.0),  # pytorch/torchtitan#2599
    "λ_wd × −30 for q and k": _decay(_selection, -30.0),  # chainer/chainer#261
    "decay without η": _after_each(_decayed),  # tensorflow/addons#2282
    # Weights after each step.
    "average written back at each step": _after_each(_averaged),  # PKU-YuanGroup/Open-Sora-Plan#186
    "bfloat16 without masters": _after_each(_without_masters),  # workofart/ml-by-hand#85
    "half of the rows not stepped": _after_each(_half_stepped),  # PufferAI/PufferLib#691
}
FRESH_FAULTS: Final[dict[str, Fault]] = WRITTEN | STORED | _STEPPED | _LEARNED_FROM
FRESH_INDIRECT: Final = frozenset(_LEARNED_FROM)
"""Faults that write to no matrix, rate or state of an optimizer: they change what is learned from."""
FRESH_UNSEEN: Final = frozenset(
    ("halves of rotary heads interleaved", "k and v heads in another order", "embedding rows one too late")
)
"""Faults that leave the distribution of |w| of each matrix exactly as it was."""
