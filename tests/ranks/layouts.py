"""Every way of spreading a model over ranks, applied to the same small models; run on each rank by `launch`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.model.components import Discovery, discover
from weibull_monitor.model.sharding import Ranks


class Attention(nn.Module):
    """Queries, keys and values of each head together, as GPT-NeoX stores them."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.config = {"num_attention_heads": heads, "hidden_size": heads * size}
        self.num_heads = heads
        self.query_key_value = nn.Linear(heads * size, 3 * heads * size)
        self.dense = nn.Linear(heads * size, heads * size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query_key_value(x).unflatten(-1, (-1, 3, x.shape[-1] // self.num_heads)).unbind(-2)
        return self.dense(torch.nn.functional.scaled_dot_product_attention(q, k, v).flatten(-2))


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """All experts in 3-D tensors."""

    def __init__(self, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.num_experts = experts
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * inner, width) * 0.02)
        self.down_proj = nn.Parameter(torch.randn(experts, width, inner) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = torch.einsum("bsd,eid->ebsi", x, self.gate_up_proj).chunk(2, -1)
        return torch.einsum("ebsi,edi->bsd", torch.nn.functional.silu(gate) * up, self.down_proj)


class Block(nn.Module):
    def __init__(self, heads: int, size: int, inner: int, experts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(heads * size)
        self.attention = Attention(heads, size)
        self.mlp = Experts(experts, heads * size, inner) if experts else Mlp(heads * size, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class Model(nn.Module):
    """A small transformer of odd sizes, with tied embeddings, fused attention, and experts in its last block."""

    def __init__(self, vocabulary: int = 101, heads: int = 3, size: int = 10, inner: int = 50, blocks: int = 3) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, heads * size)
        self.layers = nn.ModuleList(Block(heads, size, inner, 5 if b == blocks - 1 else 0) for b in range(blocks))
        self.lm_head = nn.Linear(heads * size, vocabulary, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def made(dtype: torch.dtype) -> Model:
    """The same weights on every rank: odd sizes, zeros and a NaN among them, and one matrix of very large values."""
    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight[3] = 0.0
        model.layers[1].mlp.up_proj.weight[7, 5] = torch.nan
        model.layers[1].attention.dense.weight *= 3e3
        model.layers[0].attention.dense.weight[0, 0] = 1e-30
    return model.to(dtype)


def on_grids() -> Model:
    """Values that lie on the grid of bf16, with some that have been stepped, and of int8; all in fp32."""
    model = made(torch.float32)
    with torch.no_grad():
        for n, weight in enumerate(p for p in model.parameters() if p.dim() > 1):
            scale = weight.nan_to_num().abs().amax() / 127
            weight.copy_(weight.bfloat16() if n % 3 else (weight / scale).round() * scale)
            if n % 4 == 1:
                weight[: len(weight) // 3] += 1e-5
    return model


def digest(*rows: Tensor | None) -> list[str]:
    return ["" if row is None else hashlib.sha256(row.cpu().numpy().tobytes()).hexdigest() for row in rows]


@functools.cache
def plain() -> Discovery:
    """What a pass of a plain model shows."""
    return discover(Model(), resolution="head", example_inputs=torch.zeros(2, 9, dtype=torch.long))


def by_use(model: nn.Module) -> Discovery:
    """What a pass of a plain model shows, for a model that is spread: a pass in every layout would take long."""
    found = discover(model, resolution="head")
    names = {c.name.partition("[")[0]: c.parameter for c in found.components}
    dtype = next((c.dtype for c in found.components), torch.float32)  # a stage may have none
    own = [replace(c, parameter=names[c.parameter], dtype=dtype) for c in plain().components if c.parameter in names]
    return replace(found, components=tuple(own))


def counts(model: nn.Module, ranks: Ranks | None) -> dict[str, list[str]]:
    """Digests of the counts of every component, and of where its values lie within their bins, by name, on the main rank."""
    reader = ModelReader(model, by_use, ranks)
    reader.agree()
    rows: dict[str, list[str]] = {}
    for _ in range(2):  # at the second reading the whole rows that the first asked for are sent at once
        due = list(reader.discovery.components)
        counted = reader._counter.count(due, reader.weights, 0, {})
        assert counted is not None
        for batch in counted.rows:
            for place, index in enumerate(batch.indices):
                moved = None if batch.offsets is None else batch.offsets[place]
                rows[due[index].name] = digest(batch.counts[place], moved)
        assert not counted.problems, [(due[i].name, why) for i, why in counted.problems.items()][:3]
    return rows


def alone(model: nn.Module) -> dict[str, list[str]]:
    """The same of one process, on the main rank."""
    return counts(model, None) if dist.get_rank() == 0 else {}


def ddp(model: Model) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fsdp2(model: Model) -> nn.Module:
    for layer in model.layers:
        fully_shard(layer)
    return fully_shard(model)


def fsdp2_offloaded(model: Model) -> nn.Module:
    for layer in model.layers:
        fully_shard(layer, offload_policy=CPUOffloadPolicy(pin_memory=False))
    return fully_shard(model, offload_policy=CPUOffloadPolicy(pin_memory=False))


def fsdp2_from_meta(model: Model) -> nn.Module:
    """Built without weights, sharded, and only then filled, as large models are."""
    weights = model.state_dict()
    with torch.device("meta"):
        empty = fsdp2(Model().to(model.lm_head.weight.dtype))
    empty.to_empty(device="cpu")
    set_model_state_dict(empty, weights, options=StateDictOptions(full_state_dict=True))
    return empty


def fsdp2_by_columns(model: Model) -> nn.Module:
    """Shards along another dimension than the first, which torch wants to be even: over half of the ranks."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))

    def placement(parameter: nn.Parameter) -> Shard | None:
        return Shard(parameter.dim() - 1) if parameter.shape[-1] % mesh.size(1) == 0 else None

    return fully_shard(model, mesh=mesh, shard_placement_fn=placement)


def hsdp(model: Model) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel(model: Model, mesh: Any = None) -> nn.Module:
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.layers:
        plan: dict[str, Any] = {"norm": SequenceParallel(), "attention.dense": RowwiseParallel()}
        plan["attention.query_key_value"] = ColwiseParallel()
        if isinstance(layer.mlp, Mlp):
            plan |= {
                "mlp.gate_proj": ColwiseParallel(),
                "mlp.up_proj": ColwiseParallel(),
                "mlp.down_proj": RowwiseParallel(),
            }
        parallelize_module(layer, mesh, plan)
    return model


def fsdp2_and_tensor_parallel(model: Model) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    tensor_parallel(model, mesh["tp"])
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def ddp_and_tensor_parallel(model: Model) -> nn.Module:
    """Replicas that no mesh knows of: each pair has a mesh of its own."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    return tensor_parallel(model, mesh["tp"])


def expert_parallel(model: Model) -> nn.Module:
    """Experts divided along one dimension of the mesh, everything sharded along the other."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "ep"))
    experts = model.layers[-1].mlp
    for name, parameter in list(experts.named_parameters()):
        setattr(experts, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh["ep"], [Shard(0)])))
    fully_shard(experts, mesh=mesh["dp"])
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


class Stage(nn.Module):
    """The blocks of a pipeline stage, under their names in the whole model."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        rank, size = dist.get_rank(), dist.get_world_size()
        kept = {str(i): layer for i, layer in enumerate(model.layers) if i * size // len(model.layers) == rank}
        self.layers = nn.ModuleDict(kept)
        if rank == 0:
            self.embed_tokens = model.embed_tokens


def pipeline(model: Model) -> nn.Module:
    return Stage(model)


def own_experts(model: Model) -> nn.Module:
    """A list of experts of which each rank has some, and everything else everywhere."""
    rank, size = dist.get_rank(), dist.get_world_size()
    return nn.ModuleDict({str(i): layer for i, layer in enumerate(model.layers) if i == 0 or i % size == rank})


def fsdp1(model: Model, **options: Any) -> nn.Module:
    policy = ModuleWrapPolicy({Block})
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"), **options)


fsdp1_original = functools.partial(fsdp1, use_orig_params=True)
fsdp1_flat = functools.partial(fsdp1, use_orig_params=False)
fsdp1_replicated = functools.partial(fsdp1, use_orig_params=True, sharding_strategy=ShardingStrategy.NO_SHARD)


def fsdp1_hybrid(model: Model) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    return fsdp1(model, use_orig_params=True, device_mesh=mesh, sharding_strategy=ShardingStrategy.HYBRID_SHARD)


LAYOUTS: dict[str, Callable[[Model], nn.Module]] = {
    "ddp": ddp,
    "fsdp2": fsdp2,
    "fsdp2_offloaded": fsdp2_offloaded,
    "fsdp2_from_meta": fsdp2_from_meta,
    "fsdp2_by_columns": fsdp2_by_columns,
    "tensor_parallel": tensor_parallel,
    "fsdp1_original": fsdp1_original,
    "fsdp1_flat": fsdp1_flat,
    "fsdp1_replicated": fsdp1_replicated,
    "pipeline": pipeline,
    "hsdp": hsdp,
    "fsdp2_and_tensor_parallel": fsdp2_and_tensor_parallel,
    "ddp_and_tensor_parallel": ddp_and_tensor_parallel,
    "expert_parallel": expert_parallel,
    "fsdp1_hybrid": fsdp1_hybrid,
}

CUTS = ("ddp", "fsdp2", "fsdp2_by_columns", "tensor_parallel", "fsdp1_flat", "hsdp")
"""Layouts that cut matrices in different ways."""


def all_layouts(directory: Path) -> dict[str, Any]:
    """By the kind of values and layout the counts on the main rank (nothing elsewhere); and those of one process."""
    found: dict[str, Any] = {}
    models: dict[str, Callable[[], Model]] = {
        "fp32": lambda: made(torch.float32),
        "bf16": lambda: made(torch.bfloat16),
        "on grids": on_grids,
    }
    for values, build in models.items():
        rows = found[values] = {"alone": alone(build())}
        for name, wrap in LAYOUTS.items():
            if values != "on grids" or name in CUTS:
                rows[name] = counts(wrap(build()), Ranks.of("auto"))
    return found
