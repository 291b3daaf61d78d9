"""What a sample costs as models and ranks grow: on paper for published configurations, and measured on processes of this machine.

    python benchmarks/scale.py            # the table of docs/scale.md, from configurations on the meta device
    python benchmarks/scale.py --measure  # 1, 2, 4 and 8 processes that talk over gloo

On paper, the components are those of the real modules, the owners those that FSDP2 would make, and the buckets those that
would be summed; only the times follow from assumed bandwidths, which are arguments.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard

from weibull_monitor.measure.reader import reader as reader_module
from weibull_monitor.measure.reader.packing import buckets
from weibull_monitor.measure.reader.reader import ModelReader
from weibull_monitor.measure.reader.sums import Sums
from weibull_monitor.model.components import discover, without_single_experts
from weibull_monitor.model.components.finder import MAX_COMPONENTS
from weibull_monitor.model.sharding import Ranks

RANKS = (8, 64, 512, 4_096, 16_384)
LLAMA_3 = {"vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False}
"""A. Grattafiori et al., The Llama 3 herd of models, arXiv:2407.21783 (2024), table 3."""


def models() -> Iterator[tuple[str, Any]]:
    """The configurations: Llama 3.1 and DeepSeek-V3 (DeepSeek-AI, arXiv:2412.19437, 2024, §4.2: the defaults of its class)."""
    from transformers import DeepseekV3Config, LlamaConfig

    sizes = {"8 B": (4_096, 14_336, 32, 32), "70 B": (8_192, 28_672, 80, 64), "405 B": (16_384, 53_248, 126, 128)}
    for name, (width, inner, blocks, heads) in sizes.items():
        shape = {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
        }
        yield f"Llama {name}", LlamaConfig(**shape, **LLAMA_3)
    yield "DeepSeek-V3 671 B", DeepseekV3Config()


def built(config: Any) -> nn.Module:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def on_paper(memory: float, network: float) -> None:
    """A row for each model, resolution and number of ranks."""
    print(f"read at {memory / 1e12:g} TB/s, ring all-reduce at {network / 1e9:g} GB/s a rank\n")
    head = "| model | matrices | ranks | elements a rank | read, ms | sums | MB a rank | sum, ms | buffer, MB |"
    print(head + "\n|" + "---|" * (head.count("|") - 1))
    for name, config in models():
        model = built(config)
        everything = discover(model)
        few = without_single_experts(everything, MAX_COMPONENTS)
        for label, found in {len(d.components): d for d in (few, everything)}.items():
            components = found.components
            summed = buckets(components, Sums(components).read)
            moved = sum(bucket.nbytes for bucket in summed)
            largest = max(bucket.nbytes for bucket in summed)
            for ranks in RANKS:
                mine = sum(-(-p.shape[0] // ranks) * p[0].numel() for p in model.parameters() if p.dim() > 1)
                sent = 2 * moved * (ranks - 1) / ranks
                print(
                    f"| {name} | {label:,} | {ranks:,} | {mine:,} | {1e3 * mine * 2 / memory:.2f} | {len(summed)} | "
                    f"{moved / 1e6:.1f} | {1e3 * sent / network:.2f} | {largest / 1e6:.1f} |"
                )


@contextmanager
def timed(times: dict[str, list[float]], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - started)


class Block(nn.Module):
    """Two matrices; sharded, never run."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(1024, 1024, bias=False)
        self.up_proj = nn.Linear(1024, 4096, bias=False)


def measured(rank: int, size: int, directory: str, samples: int) -> None:
    """One process of a measurement: a model of 60 M elements, fully sharded."""
    torch.set_num_threads(1)
    if size > 1:
        store = dist.FileStore(str(Path(directory, "store")), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(12)))
    ranks = Ranks.of("auto")
    if ranks is not None:
        for block in model:
            fully_shard(block)
        fully_shard(model)
    reader = ModelReader(model, functools.partial(discover), ranks)
    reader.agree()
    times: dict[str, list[float]] = {}
    if ranks is not None:
        ranks.sum_ = functools.partial(_timed_call, times, "sum", ranks.sum_)  # type: ignore[method-assign]
    solve = reader_module.solve
    reader_module.solve = functools.partial(_timed_call, times, "solve", solve)  # type: ignore[assignment]
    for _ in range(samples + 1):
        if ranks is not None:
            dist.barrier()
        with timed(times, "sample"):
            reader.read()
    if rank == 0:
        middle = {name: statistics.median(values[len(values) // (samples + 1) :]) for name, values in times.items()}
        elements = sum(p.numel() for p in model.parameters())
        print(
            f"{size:2} processes: {elements / 1e6:.0f} M elements in {len(reader.discovery.components)} matrices, "
            f"sample {1e3 * middle['sample']:.1f} ms, of which the sum {1e3 * middle.get('sum', 0):.1f} ms "
            f"and the fits {1e3 * middle['solve']:.1f} ms",
            flush=True,
        )
    if size > 1:
        dist.destroy_process_group()


def _timed_call(times: dict[str, list[float]], name: str, function: Any, *args: Any) -> Any:
    with timed(times, name):
        return function(*args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time real processes instead")
    parser.add_argument("--samples", type=int, default=9)
    parser.add_argument(
        "--memory", type=float, default=4.3e12, help="bytes a second that a device reads (an H200: 4.3e12)"
    )
    parser.add_argument(
        "--network", type=float, default=50e9, help="bytes a second a rank (400 Gbit/s InfiniBand: 50e9)"
    )
    args = parser.parse_args()
    if not args.measure:
        on_paper(args.memory, args.network)
        return
    print(f"{os.cpu_count()} cores")
    for size in (1, 2, 4, 8):
        with tempfile.TemporaryDirectory() as directory:
            mp.spawn(measured, args=(size, directory, args.samples), nprocs=size)


if __name__ == "__main__":
    main()
