"""Speed and memory of a scan, against the floor: the same file read and counted by itself, nothing else.

    python benchmarks/scan.py [--gigabytes 4] [--format safetensors|torch|dcp] [--dtype bfloat16] [--cold]

The floor reads the file from front to back into one buffer and counts each buffer as one row of the same bins, one after
the other. All are timed in turn, several rounds in one run, and their medians and ratios are printed. Peak memory is that of a
process of its own, its mapped pages included, above what it had after ``import torch``. With ``--cold`` the file is put out of
the page cache before each round (``posix_fadvise``, of which the kernel may keep some pages). The file is random, made before
and deleted after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

WIDTH, FORWARD = 2048, 5632
CHUNK = 8 << 20


def shapes(size: int, itemsize: int) -> dict[str, tuple[int, int]]:
    """A Llama's matrices: an embedding of three quarters of the bytes, one tensor larger than memory may be, and blocks."""
    out = {"model.embed_tokens.weight": (3 * size // 4 // itemsize // WIDTH, WIDTH)}
    block = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (WIDTH // 4, WIDTH),
        "self_attn.v_proj": (WIDTH // 4, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (FORWARD, WIDTH),
        "mlp.up_proj": (FORWARD, WIDTH),
        "mlp.down_proj": (WIDTH, FORWARD),
    }
    each = itemsize * sum(rows * columns for rows, columns in block.values())
    for number in range(max(1, size // 4 // each)):
        out |= {f"model.layers.{number}.{name}.weight": shape for name, shape in block.items()}
    return out


def make(path: Path, size: int, dtype: torch.dtype, kind: str) -> Path:
    """Writes a checkpoint of random weights; safetensors of any size in little memory, the others through memory."""
    tensors = shapes(size, dtype.itemsize)
    generator = torch.Generator().manual_seed(0)
    random = (torch.randn(1 << 23, generator=generator) * 0.02).to(dtype)
    if kind == "torch":
        torch.save(
            {n: random.repeat(-(-a * b // len(random)))[: a * b].view(a, b) for n, (a, b) in tensors.items()}, path
        )
        return path
    if kind == "dcp":
        import torch.distributed.checkpoint as dcp

        model = {n: random.repeat(-(-a * b // len(random)))[: a * b].view(a, b) for n, (a, b) in tensors.items()}
        dcp.save({"model": model}, checkpoint_id=path)
        return path
    header, at = {}, 0
    key = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]
    for name, (rows, columns) in tensors.items():
        end = at + rows * columns * dtype.itemsize
        header[name] = {"dtype": key, "shape": [rows, columns], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    data = random.view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while at:
            at -= file.write(data[: min(at, len(data))])
    return path


def files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir()) if path.is_dir() else [path]


def floor(path: Path, dtype: torch.dtype, count: bool = True) -> None:
    """Reads and counts."""
    from weibull_monitor.measure import bins_of, count_magnitudes

    buffer = torch.empty(CHUNK, dtype=torch.uint8)
    bins = bins_of(dtype)
    total = torch.zeros(1, bins.columns, dtype=torch.int64)
    for one in files(path):
        with one.open("rb", buffering=0) as file:
            while size := file.readinto(memoryview(buffer.numpy())):
                if count:
                    total += count_magnitudes([buffer[: size // 8 * 8].view(dtype)], bins)


def scanned(path: Path) -> None:
    from weibull_monitor.checkpoint import scan

    scan(path)


def cold(path: Path) -> None:
    """Puts the files out of the page cache."""
    for one in files(path):
        fd = os.open(one, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak(path: Path, resolution: str = "auto") -> tuple[int, int, int]:
    """MiB of a fresh process after importing torch, and at most while it scans; and the components that it measured."""
    program = (
        "import sys, torch; torch.zeros(9).sum()\n"
        "used = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024\n"
        "before = used()\n"
        "from weibull_monitor.checkpoint import scan\n"
        "found = scan(sys.argv[1], resolution=sys.argv[2])\n"
        "print(before, used(), len(found.components))"
    )
    command = [sys.executable, "-c", program, str(path), resolution]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, components = done.stdout.split()
    return int(before), int(after), int(components)


def configure(path: Path) -> None:
    """Puts the configuration of the model beside its file."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": WIDTH, "intermediate_size": FORWARD, "num_attention_heads": 16, "num_key_value_heads": 4}
    LlamaConfig(**sizes, num_hidden_layers=2, tie_word_embeddings=True).save_pretrained(path.parent)


def experts(folder: Path) -> Path:
    """A small model of 48 blocks of 128 experts: 18,770 matrices and parts of them."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 256,
        "moe_intermediate_size": 32,
        "head_dim": 32,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3MoeConfig(**sizes, **heads, num_experts=128, num_hidden_layers=48)
    Qwen3MoeForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


def report_peak(what: str, path: Path, resolution: str = "auto") -> None:
    before, after, components = peak(path, resolution)
    print(f"memory, {what}: {after - before} MiB above {before}, {components:,} components", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--format", choices=("safetensors", "torch", "dcp"), default="safetensors")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; 0 for memory alone")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument(
        "--directory", default=None, help="where the file is made (default: the system's temporary directory)"
    )
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    suffix = {"safetensors": ".safetensors", "torch": ".bin", "dcp": ""}[options.format]
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        (Path(folder) / "one").mkdir()
        path = make(Path(folder) / "one" / f"model{suffix}", int(options.gigabytes * 1e9), dtype, options.format)
        size = sum(one.stat().st_size for one in files(path)) / 1e9
        ways: dict[str, Callable[[], None]] = {
            "read": lambda: floor(path, dtype, count=False),
            "read and count (the floor)": lambda: floor(path, dtype),
            "scan": lambda: scanned(path),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1 if options.rounds else 0):  # the first round warms up
            for name, way in ways.items():
                if options.cold:
                    cold(path)
                seconds = timed(way)
                if number:
                    times[name].append(seconds)
        reference = median(times["read and count (the floor)"] or [0.0])
        state = "cold" if options.cold else "warm"
        print(f"{size:.2f} GB {options.format}, {options.dtype}, {state} cache, {torch.get_num_threads()} threads")
        for name, seconds in times.items() if options.rounds else ():
            mid = median(seconds)
            print(
                f"{name:28} {mid:7.2f} s  {size / mid:6.2f} GB/s  {100 * reference / mid:5.0f} % of the floor's speed"
            )
        report_peak("without a configuration", path)
        if path.is_file():
            configure(path)
            report_peak("with one, which imports transformers", path.parent)
        report_peak("of many experts", experts(Path(folder) / "experts"), "matrix")


if __name__ == "__main__":
    main()
