"""Measures every model type of the installed transformers in training, and compares every fit with the exact sort.

    python benchmarks/wild_models.py                # all model types, each in a process of its own, with limits
    python benchmarks/wild_models.py clip t5        # these
    python benchmarks/wild_models.py --page docs/wild-models.md   # the page on what --into holds

Each model is built from its default configuration, made small: widths divided, two blocks, four experts. It is never called: a
`WeibullMonitor` is attached with AdamW, and takes three steps with random gradients. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import os
import re
import resource
import select
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracle import exact_fit

from weibull_monitor import WeibullMonitor, read_history
from weibull_monitor.errors import ConfigurationError
from weibull_monitor.measure.plain.solve import MIN_VALUES
from weibull_monitor.model.meta_device import build_from, configuration, model_types

MAX_ELEMENTS: Final = 6_000_000
"""Models above this are made smaller, if they can be."""
MOST_ELEMENTS: Final = 120_000_000
"""Models that cannot be made smaller than this are not measured."""
SMALL_VOCABULARY: Final = 512
MISSING: Final = {"vocab_size": 512, "prediction_length": 8, "n_routed_experts": 4}
"""What some default configurations leave to the user."""
LAYERS: Final = ("layers", "layer", "depth", "blocks", "depths")
COUNTS: Final = (
    "expert",
    "vocab",
    "codebook_size",
    "num_labels",
    "num_queries",
    "max_position",
    "cross_attention_freq",
)


@dataclass(frozen=True)
class Measured:
    """What measuring one model gave.

    Attributes:
        elements: Number of elements.
        fits: Number of fits that were compared.
        worst_k: Largest difference of k from the exact sort, in units of what is allowed.
        worst_lambda: Largest relative difference of λ, in the same units.
        missing: Matrices of enough values without a fit, and why.
    """

    elements: int
    fits: int
    worst_k: float
    worst_lambda: float
    missing: dict[str, str]


def small(model_type: str) -> nn.Module:
    """A small model of a type, with normal weights.

    Raises:
        ConfigurationError: If no model of this type can be built from its default configuration.
    """
    best: nn.Module | None = None
    for divisor in (16, 8, 4, 2, 1):
        config = configuration(model_type)
        shrink(config, divisor)
        try:
            model = build_from(config)
        except Exception:  # a size that does not go with another
            continue
        if best is None or _elements(model) < _elements(best):
            best = model
        if _elements(best) <= MAX_ELEMENTS:
            break
    if best is None:
        best = build_from(configuration(model_type))
    if _elements(best) > MOST_ELEMENTS:
        raise ConfigurationError(f"it cannot be made smaller than {_elements(best):,} elements")
    materialise(best)
    return best


def _elements(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shrink(config: Any, divisor: int) -> None:
    """Makes a configuration and those in it small."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            shrink(value, divisor)
        elif value is None and name in MISSING:
            vars(config)[name] = MISSING[name]
        elif name.endswith("pad_token_id") and isinstance(value, int):
            vars(config)[name] = value % SMALL_VOCABULARY  # the padding of an embedding has to be one of its rows
        elif isinstance(value, bool) or name.startswith("_") or name.endswith(("_id", "_ids", "_index")):
            continue
        elif isinstance(value, int):
            vars(config)[name] = _smaller(name, value, divisor)
        elif isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
            if "depth" in name:
                vars(config)[name] = type(value)(min(v, 1) for v in value)
            elif any(v >= 64 for v in value) and "size" not in name.replace("hidden_size", ""):
                vars(config)[name] = type(value)(_smaller("dim", v, divisor) for v in value)
    heads, groups = (getattr(config, f"num_{name}_heads", None) for name in ("attention", "key_value"))
    if isinstance(heads, int) and isinstance(groups, int) and 0 < heads < groups:
        vars(config)["num_key_value_heads"] = heads
    types = getattr(config, "layer_types", None)
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(types, list) and isinstance(layers, int):
        vars(config)["layer_types"] = (types[:1] + types[-1:])[:layers] if layers <= 2 else types[:layers]


def _smaller(name: str, value: int, divisor: int) -> int:
    if any(word in name.split("_") for word in LAYERS):
        return min(value, 2)
    if any(word in name for word in COUNTS):
        return min(value, 4 if "expert" in name and "size" not in name and "dim" not in name else SMALL_VOCABULARY)
    if (
        value >= 64
        and value % divisor == 0
        and not any(word in name for word in ("image", "patch", "position", "length", "distance"))
    ):
        return value // divisor
    return value


def materialise(model: nn.Module) -> None:
    """Gives the parameters of a model that was built on the meta device normal weights; tied ones stay tied.

    Those made as ``torch.FloatTensor(n, m)`` (the codebooks of wav2vec2) are on no device but the host, and hold whatever was in
    that memory before.
    """
    generator = torch.Generator().manual_seed(0)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (parameter.is_meta or parameter.is_floating_point()):
                if id(parameter) not in made:
                    values = torch.randn(parameter.shape, generator=generator) * 0.02
                    kept = parameter.requires_grad
                    made[id(parameter)] = nn.Parameter(values.to(parameter.dtype), requires_grad=kept)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)


def measure(model: nn.Module, directory: Path, steps: int = 3) -> Measured:
    """Takes some steps with random gradients under a monitor, and compares the last sample with the exact sort."""
    generator = torch.Generator().manual_seed(1)
    moving = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    optimizer = torch.optim.AdamW(moving, lr=1e-3) if moving else None
    monitor = WeibullMonitor(model, optimizer, every_n_steps=1, output_dir=directory, resolution="head")
    for _ in range(steps):
        for parameter in moving:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if optimizer is not None:
            optimizer.step()
        monitor.step()
    last = monitor.last
    monitor.close()
    assert last is not None
    assert last.step == steps
    assert len(read_history(directory).snapshots) == steps + 1
    parameters = dict(model.named_parameters())
    worst_k = worst_lambda = 0.0
    missing: dict[str, str] = {}
    compared = 0
    for component in monitor.discovery.components:
        weight = parameters.get(component.parameter)
        if weight is None:  # the layer makes it of others: what the layer gives outside of training
            path, _, attribute = component.parameter.rpartition(".")
            weight = getattr(copy.deepcopy(model.get_submodule(path)).eval(), attribute)
        whole = weight.detach()
        values = component.part.select(whole) if component.part else whole
        fit = last.fits.get(component.name)
        if fit is None or not fit.available:
            if values.numel() >= MIN_VALUES and int(values.count_nonzero()) >= MIN_VALUES:
                missing[component.name] = "not read" if fit is None else fit.reason
            continue
        k, lambda_, _ = exact_fit(values)
        allowed = tolerance(values.numel())
        worst_k = max(worst_k, abs(fit.k - k) / allowed)
        worst_lambda = max(worst_lambda, abs(fit.lambda_ / lambda_ - 1) / allowed)
        compared += 1
    return Measured(_elements(model), compared, worst_k, worst_lambda, missing)


def tolerance(n: int) -> float:
    """How far a fit of n values may be from the exact sort: 1e-4 for 65,536 values and more, and more for fewer."""
    return 1e-4 * max(1.0, 65_536 / n)


def line(model_type: str) -> str:
    """One line about one model type: its outcome, a tab, the type, a tab, and the details."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
        warnings.simplefilter("ignore")
        try:
            model = small(model_type)
        except Exception as error:  # a constructor may fail in any way
            return f"not built\t{model_type}\t{' '.join(str(error).split())[:120]}"
        try:
            found = measure(model, Path(directory))
        except Exception as error:  # whatever it is, it is what this command looks for
            return f"FAILED\t{model_type}\t{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    outcome = "measured" if not found.missing and max(found.worst_k, found.worst_lambda) <= 1.0 else "DIFFERS"
    some = "; ".join(f"{name}: {why}" for name, why in list(found.missing.items())[:3])
    return (
        f"{outcome}\t{model_type}\t{found.elements:,} elements, {found.fits} fits, "
        f"k {found.worst_k:.2f}, λ {found.worst_lambda:.2f} of what is allowed {some}"
    )


def in_child(make: Callable[[str], str], argument: str, seconds: int, gigabytes: float) -> tuple[str, str]:
    """What a function makes in a process of its own, forked from this one, which has imported what every model needs.

    Args:
        make: The function.
        argument: Its argument.
        seconds: Limit of one core.
        gigabytes: Limit of address space.

    Returns:
        Its result, and why there is none.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(receiving)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)
            with os.fdopen(sending, "wb") as pipe:
                pipe.write(make(argument).encode())
        finally:
            os._exit(0)
    os.close(sending)
    came = b""
    with os.fdopen(receiving, "rb") as pipe:
        if select.select([pipe], [], [], 20 * seconds)[0]:
            came = pipe.read()
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU)
    why = f"more than {seconds} s of one core" if slow else f"the process ended with status {status}"
    return came.decode(), "" if came else why


def _all(into: Path, seconds: int, gigabytes: float) -> Iterator[str]:
    """Every type's line; those that ``into`` has already are not measured again."""
    known = [out for out in into.read_text().splitlines() if out.count("\t") == 2] if into.exists() else []
    yield from known
    seen = {out.split("\t")[1] for out in known}
    with into.open("a") as file:
        for model_type in model_types():
            if model_type not in seen:
                came, why = in_child(line, model_type, seconds, gigabytes)
                out = came or f"FAILED\t{model_type}\t{why}"
                print(out, file=file, flush=True)
                yield out


def page(lines: Sequence[str], types: int) -> str:
    """The page of the documentation on some lines."""
    rows = [out.split("\t") for out in lines if out.count("\t") == 2]
    by_outcome: dict[str, list[tuple[str, str]]] = {}
    for outcome, model_type, details in sorted(rows):
        by_outcome.setdefault(outcome, []).append((model_type, details.strip()))
    measured = by_outcome.get("measured", [])
    numbers = [re.search(r"([\d,]+) fits, k ([\d.]+), λ ([\d.]+)", details) for _, details in measured]
    found = [match for match in numbers if match]
    worst = [max((float(match[place]) for match in found), default=0.0) for place in (2, 3)]
    out = [
        "# Every model type of transformers, measured",
        "",
        "Made by `python benchmarks/wild_models.py` and `--page docs/wild-models.md`. Each model type is built small from its",
        "default configuration, and a monitor follows three steps of AdamW with random gradients. Every fit, also of single",
        "heads and experts, is compared with the sort of all values in float64. The allowed difference in k, and in λ",
        "(relative), is 1e-4 for 65,536 values and more. For n values, fewer than that, it is 65,536/n times as much.",
        "",
        f"- transformers {importlib.metadata.version('transformers')}; {len(rows)} of its {types} model types were tried.",
        f"- {len(measured)} were measured: {sum(int(match[1].replace(',', '')) for match in found):,} fits. The largest",
        f"  differences were {worst[0]:.2f} of what is allowed in k and {worst[1]:.2f} in λ.",
        *(f"- {len(members)} {outcome.lower()}." for outcome, members in by_outcome.items() if outcome != "measured"),
    ]
    for outcome, members in by_outcome.items():
        if outcome != "measured":
            out += ["", f"## {outcome.capitalize()}", "", "| model type | why |", "|---|---|"]
            out += [f"| `{name}` | {details[:110].replace('|', '/').replace('`', '')} |" for name, details in members]
    out += ["", "## Measured", "", ", ".join(f"`{name}`" for name, _ in measured), ""]
    return "\n".join(out)


def main() -> None:
    """Prints one line for each model type, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types; all by default")
    parser.add_argument(
        "--into", type=Path, default=Path("wild_models.tsv"), help="where lines are kept, to go on from"
    )
    parser.add_argument("--seconds", type=int, default=120, help="limit for one model type, of one core")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="limit of address space for one model type")
    parser.add_argument("--page", type=Path, help="write the page on the lines that are kept, and measure nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.page is not None:
        asked.page.write_text(page(asked.into.read_text().splitlines(), len(model_types())))
        return
    if asked.types:
        for model_type in asked.types:
            print(line(model_type), flush=True)
        return
    outcomes: dict[str, int] = {}
    for out in _all(asked.into, asked.seconds, asked.gigabytes):
        print(out, flush=True)
        outcome = out.partition("\t")[0]
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print("; ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))


if __name__ == "__main__":
    main()
