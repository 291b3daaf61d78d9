"""What the compiler makes of the kernels, for GPUs that need not be here: registers, spills, loads, instructions a value.

    python benchmarks/kernel_code.py [--capability 80 90] [--json] [--ptx FOLDER]
    python benchmarks/kernel_code.py --passes

Triton brings its own assembler, so that machine code can be made and read without a GPU. The instructions a value are those of
the loop over full, aligned tiles, around its shared-memory atomics, divided by its values. ``--ptx`` writes the PTX that the
tests run. ``--passes`` counts how often the 32 additions of a warp meet in a bank of shared memory, for weights of some
distributions and bins laid out in some ways. Nothing here is a time.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import argparse
import inspect
import itertools
import json
import re
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from weibull_monitor.measure.bins import bins_of
from weibull_monitor.measure.kernels import COUNTED
from weibull_monitor.measure.kernels import count as counting
from weibull_monitor.measure.kernels import elements as some
from weibull_monitor.measure.kernels import evidence as looking
from weibull_monitor.measure.kernels import solve as solving
from weibull_monitor.measure.kernels.launch import count_constants, solve_constants, tally_constants
from weibull_monitor.measure.kernels.table import ELEMENTS

COUNT_ARGUMENTS = {"pieces": "*i64", "starts": "*i64", "counts": "*i64", "row_stride": "i32"}
SOLVE_ARGUMENTS = {
    "counts": "*i64",
    "rows": "*i64",
    "edges": "*fp64",
    "levels": "*fp64",
    "hashes": "*i64",
    "out": "*fp64",
    "rough": "*i64",
    "row_stride": "i32",
}
TALLY_ARGUMENTS = {"values": "*i64", "places": "*i32", "out": "*i64"}
COMPARE_ARGUMENTS = {
    "addresses": "*i64",
    "offsets": "*i64",
    "last": "*fp32",
    "sums": "*fp32",
    "rows": "i32",
    "size": "i32",
    "step": "i32",
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)


def compiled(kernel: Any, arguments: dict[str, str], constants: dict[str, Any], warps: int, capability: int) -> Any:
    """A kernel compiled as a launch would, for a GPU of some compute capability."""
    names = kernel.arg_names
    if "constexprs" not in inspect.signature(ASTSource.__init__).parameters:  # Triton 3.2
        return _compiled_by_3_2(kernel, arguments, constants, warps, capability)
    source = ASTSource(
        fn=kernel,
        signature={name: arguments.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n, kind in arguments.items() if kind.startswith("*")},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def _compiled_by_3_2(
    kernel: Any, arguments: dict[str, str], constants: dict[str, Any], warps: int, capability: int
) -> Any:
    from triton.backends.compiler import AttrsDescriptor

    pointers = tuple(kernel.arg_names.index(name) for name, kind in arguments.items() if kind.startswith("*"))
    attributes = {"arg_properties": {"tt.divisibility": pointers}, "cls": "AttrsDescriptor"}
    source = ASTSource(fn=kernel, signature=arguments, constants=constants, attrs=AttrsDescriptor.from_dict(attributes))
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def described(name: str, kernel: Any, capability: int) -> dict[str, Any]:
    """What there is to know about the code of a kernel."""
    ptx = kernel.asm["ptx"]
    out: dict[str, Any] = {
        "kernel": name,
        "capability": capability,
        "shared": kernel.metadata.shared,
        "vector_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)),
        "shared_atomics": len(re.findall(r"(?:atom|red)\.\S*shared\S*", ptx)),
        "ballots": len(re.findall(r"vote\.\S*ballot", ptx)),
        "float32_in_float64": len(re.findall(r"\bf32\b", kernel.asm["ttir"])) if name.startswith("solve") else 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(kernel.asm["cubin"])
        usage = _run("cuobjdump", "-res-usage", str(binary))
        if found := re.search(r"REG:(\d+) STACK:(\d+)", usage):
            out |= {"registers": int(found[1]), "stack": int(found[2])}
        names = INSTRUCTION.findall(_run("nvdisasm", str(binary)))
    out |= {"instructions": len(names)} | _loop(names)
    return out


def _loop(names: list[str]) -> dict[str, Any]:
    """Instructions of the densest run of shared atomics: that of the full tiles."""
    atomics = [at for at, name in enumerate(names) if name.startswith("ATOMS")]
    runs: list[list[int]] = []
    for at in atomics:
        if runs and at - runs[-1][-1] <= 64:
            runs[-1].append(at)
        else:
            runs.append([at])
    run = max(runs, key=len, default=[])
    if len(run) < 8:
        return {}
    # Places are computed ahead of their atomics: count back over as many as there are in a steady loop.
    body = names[max(0, run[0] - 4 * len(run)) : run[-1] + 1]
    kinds = Counter(name.split(".")[0] for name in body)
    per_value = {
        kind: n
        for kind, n in kinds.items()
        if kind in ("ATOMS", "LEA", "VIMNMX", "IMNMX", "SHF", "SGXT", "VIADD", "IADD3", "LOP3", "PRMT")
    }
    return {"values": len(run), "per_value": round(sum(per_value.values()) / len(run), 1), "mix": per_value}


def _run(tool: str, *arguments: str) -> str:
    path = TOOLS / tool
    return (
        subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout if path.exists() else ""
    )


def all_of_them(capability: int) -> list[tuple[dict[str, Any], Any]]:
    """The kernels for every dtype: what there is to know, and the kernel."""
    out = []
    for own, dtype in itertools.product((True, False), COUNTED):
        name = f"count {str(dtype).removeprefix('torch.')}, {'own' if own else 'Triton'} histogram"
        constants = count_constants(bins_of(dtype), own)
        kernel = compiled(counting.count_kernel, COUNT_ARGUMENTS, constants, counting.WARPS, capability)
        out.append((described(name, kernel, capability), kernel))
    constants = solve_constants(bins_of(torch.bfloat16)) | {"clear": True}
    kernel = compiled(solving.solve_kernel, SOLVE_ARGUMENTS, constants, solving.WARPS, capability)
    out.append((described("solve", kernel, capability), kernel))
    for dtype in (torch.float16, torch.float32):  # no grid is coarser than bfloat16
        kernel = compiled(
            looking.tally_kernel, TALLY_ARGUMENTS, tally_constants(bins_of(dtype)), looking.WARPS, capability
        )
        out.append((described(f"tally {str(dtype).removeprefix('torch.')}", kernel, capability), kernel))
    for dtype, of_step in itertools.product(COUNTED, (False, True)):
        arguments = COMPARE_ARGUMENTS | {"last": {torch.bfloat16: "*bf16", torch.float16: "*fp16"}.get(dtype, "*fp32")}
        constants = {"block": ELEMENTS, "of_step": of_step}
        kernel = compiled(some.compare_kernel, arguments, constants, some.WARPS, capability)
        name = f"compare {str(dtype).removeprefix('torch.')}, {'a step' if of_step else 'between steps'}"
        out.append((described(name, kernel, capability), kernel))
    return out


def passes(width: int = 1 << 20) -> list[tuple[str, str, float]]:
    """Passes that the additions of a warp take, if each pass reaches one word in each bank, and lanes of one word share it.

    Args:
        width: Values of each distribution.

    Returns:
        Distribution, layout of the bins, and the mean of the passes; 1 is the least there can be.
    """
    generator = np.random.default_rng(0)
    weights = {
        "normal": generator.standard_normal(width),
        "normal, k 0.76": np.sign(generator.standard_normal(width)) * generator.weibull(0.76, width),
        "uniform": generator.uniform(-1, 1, width),
    }
    lane = np.arange(32)
    layouts: dict[str, Callable[[Any, int], Any]] = {
        "one array (as it is)": lambda bins, hot: bins,
        "four arrays, interleaved": lambda bins, hot: 4 * bins + lane % 4,
        "a word for each lane in the four fullest octaves, one array beside": lambda bins, hot: np.where(
            (bins >= hot) & (bins < hot + 256), 2048 + 32 * (bins - hot) + lane, bins
        ),
        "a word for each lane everywhere (256 KiB)": lambda bins, hot: 32 * bins + lane,
    }
    out = []
    for name, values in weights.items():
        patterns = torch.from_numpy(values * 0.02).to(torch.bfloat16).view(torch.int16).numpy() & 0x7FFF
        window = count_constants(bins_of(torch.bfloat16), True)
        bins = np.clip((patterns >> int(window["shift"])) - int(window["low"]), 0, int(window["limit"])).astype(
            np.int64
        )
        hot = int(np.convolve(np.bincount(bins, minlength=2048), np.ones(256), "valid").argmax())
        for layout, place in layouts.items():
            words = np.sort(place(bins.reshape(-1, 32), hot), axis=1)
            new = np.diff(words, axis=1, prepend=-1) != 0
            banks = (words % 32) + 32 * np.arange(len(words))[:, None]
            met = np.bincount(banks[new], minlength=words.size).reshape(-1, 32)
            out.append((name, layout, float(met.max(axis=1).mean())))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, nargs="+", default=[90])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ptx", type=Path, metavar="FOLDER", help="write the PTX of each kernel there")
    parser.add_argument("--passes", action="store_true", help="count passes over shared memory, and nothing else")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.passes:
        print("| weights | bins | passes a warp |\n|---|---|---|")
        for name, layout, mean in passes():
            print(f"| {name} | {layout} | {mean:.2f} |")
        return
    found = []
    for capability in options.capability:
        for row, kernel in all_of_them(capability):
            found.append(row)
            if options.ptx:
                row["ptx"] = re.sub(r"\W+", "_", row["kernel"]) + f"_{capability}.ptx"
                Path(options.ptx, row["ptx"]).write_text(kernel.asm["ptx"])
    if options.json:
        print(json.dumps(found))
        return
    print(f"Triton {triton.__version__}\n")
    columns = [
        "kernel",
        "capability",
        "registers",
        "stack",
        "shared",
        "vector_loads",
        "shared_atomics",
        "ballots",
        "per_value",
    ]
    print("| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|" + "---|" * len(columns))
    for row in found:
        print("| " + " | ".join(str(row.get(column, "–")) for column in columns) + " |")


if __name__ == "__main__":
    main()
