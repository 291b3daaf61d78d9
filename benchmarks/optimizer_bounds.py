"""The bounds of updates against the optimizers of several libraries, driven with gradients that are as bad as can be.

    python benchmarks/optimizer_bounds.py                 # every optimizer of the libraries that are installed
    python benchmarks/optimizer_bounds.py --only timm     # of one of them
    python benchmarks/optimizer_bounds.py --all           # also those without a bound

For each optimizer that can be made with its defaults, and with options that change its steps, it prints the largest change of a
value and of the RMS in one step in units of η, and the bound that the table gives. If one exceeds it, the script exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import io
import math
import pkgutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from weibull_monitor.scaling.optimizers import RULES, chooses_rate, rule_of

LIBRARIES: Final = (
    "torch.optim", "transformers.optimization", "timm.optim", "pytorch_optimizer", "bitsandbytes.optim", "schedulefree",
    "prodigyopt", "lion_pytorch", "dadaptation", "torchao.optim", "optimi", "torch_optimizer", "adan_pytorch",
    "came_pytorch", "galore_torch", "apollo_torch", "adam_mini",
)  # fmt: skip
OPTIONS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"betas": (0.9, 0.95)},
    {"momentum": 0.9},
    {"centered": True},
    {"amsgrad": True},
    {"nesterov": True, "momentum": 0.9},
    {"caution": True},
    {"cautious": True},
    {"cautious_factor": 0.0},
    {"decoupled_weight_decay": True},
    {"weight_decouple": False},
    {"fixed_decay": True, "weight_decay": 0.01},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decouple_lr": True},
    {"trust_clip": True},
    {"always_adapt": True},
    {"always_adapt": True, "trust_clip": True},
    {"scale_parameter": False, "relative_step": False, "lr": 1e-3},
    {"scale_parameter": True, "relative_step": False, "lr": 1e-3},
    {"rectify": True},
    {"degenerated_to_sgd": False},
    {"adanorm": True},
    {"stable_adamw": True},
    {"use_gc": True},
    {"adam_debias": True},
    {"corrected_weight_decay": True},
    {"ams_bound": True},
    {"use_nesterov": True},
    {"max_unorm": 0.1},
    {"percentile_clipping": 5},
    {"adam": True},
    {"beta1": 0.9, "scale_parameter": False, "relative_step": False, "lr": 1e-3},
    {"alpha": 2.0, "betas": (0.9, 0.999, 0.99)},
)
ETA: Final = 1e-3
SHAPE: Final = (64, 64)  # from 4,096 values on 8-bit optimizers quantise
STEPS: Final = 120
SLACK: Final = 1.001
"""float32 and the changes of the bias corrections are good for this much."""


def courses(seed: int = 0) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
    """Gradients of each step, by name: of one size in the whole matrix, and of another in each value."""
    chance = torch.Generator().manual_seed(seed)

    def all_alike(scale: Callable[[int], float]) -> Callable[[int], Tensor]:
        return lambda t: torch.full(SHAPE, min(max(scale(t), -1e15), 1e15))

    for growth in (1.0, 1.01, 1.056, 1.11, 1.3, 2.0, 10.0):
        yield f"grows by {growth} a step", all_alike(lambda t, g=growth: 1e-8 * g**t)  # type: ignore[misc]
        yield f"starts to grow by {growth}", all_alike(lambda t, g=growth: 1e-8 * g ** max(0, t - 60))  # type: ignore[misc]
    yield "shrinks", all_alike(lambda t: 0.9**t)
    yield "shrinks quickly", all_alike(lambda t: 0.5**t)
    yield "turns round", all_alike(lambda t: (-1.0) ** t)
    yield "turns round and grows", all_alike(lambda t: 1e-8 * (-1.3) ** t)
    yield "zero at first", all_alike(lambda t: 1.0 if t >= 40 else 0.0)
    yield "zero, then grows", all_alike(lambda t: 1e-8 * 1.11 ** (t - 40) if t >= 40 else 0.0)
    yield "a spike", all_alike(lambda t: 1e6 if t == 80 else 1e-3)
    yield "spikes", all_alike(lambda t: 10.0 ** (t % 7))
    signs = torch.randn(SHAPE, generator=chance).sign()
    rates = 10 ** (torch.rand(SHAPE, generator=chance) * 0.3 - 0.05)
    start = torch.randint(0, 100, SHAPE, generator=chance)
    yield "each grows at its own rate", lambda t: signs * 1e-8 * rates**t
    yield "each begins at its own step", lambda t: signs * torch.where(t >= start, 1e-8 * 1.11 ** (t - start), 0.0)
    yield "each has a spike", lambda t: torch.where(t == start, 1e3, 1e-3) * torch.randn(SHAPE, generator=chance)
    wild = [
        torch.randn(SHAPE, generator=chance) * 10 ** (3 * torch.randn(SHAPE, generator=chance)) for _ in range(STEPS)
    ]
    yield "random sizes", lambda t: wild[t - 1]
    walk = torch.cumsum(0.7 * torch.randn((STEPS, *SHAPE), generator=chance), dim=0).clamp(-15, 15).exp()
    yield "random walks", lambda t: walk[t - 1] * torch.randn(SHAPE, generator=chance).sign()
    usual = [torch.randn(SHAPE, generator=chance) for _ in range(STEPS)]
    yield "normal", lambda t: usual[t - 1]


@dataclass
class Largest:
    """Largest steps over their bounds, and the largest step itself, in units of η."""

    each: float = 0.0
    rms: float = 0.0
    over: float = 0.0
    where: str = ""
    bounded: bool = False
    chooses: bool = False
    usual: float = 0.0


def drive(make: Callable[[list[nn.Parameter]], Any], weights: float = 0.02) -> Largest:
    """Drives an optimizer with every course."""
    found = Largest()
    for name, gradient in courses():
        torch.manual_seed(1)
        w = nn.Parameter(weights * torch.randn(SHAPE))
        optimizer = make([w])
        if hasattr(optimizer, "train"):
            optimizer.train()
        for t in range(1, STEPS + 1):
            before = w.detach().clone()
            w.grad = gradient(t).clone()
            optimizer.step(lambda: torch.zeros(()))  # some want a closure
            group = optimizer.param_groups[0]
            if chooses_rate(group):
                found.chooses = True
                break
            eta, decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
            size = float(before.square().mean().sqrt())
            bound = rule_of(optimizer).bound(group, SHAPE)
            if not torch.isfinite(w).all() or eta <= 0:
                break
            u = (w.detach() - before).abs() / eta - decay * before.abs() - 1e-6 * size / eta
            each, rms = float(u.max()), float(u.clamp(min=0).square().mean().sqrt())
            found.each, found.rms = max(found.each, each), max(found.rms, rms)
            if name == "normal" and t > 100:
                found.usual = max(found.usual, rms)
            if bound is not None and t <= bound.after:
                bound = bound.young()
            if bound is None:
                continue
            found.bounded = True
            # No value moves further than the whole.
            most = min(bound.each, bound.norm) * (1.0 if bound.least is None else max(bound.least, size))
            limit = bound.rms(w.numel(), size)
            over = max(each / most, rms / limit if math.isfinite(limit) else 0.0)
            if over > found.over:
                found.over, found.where = over, f"{name}, step {t}"
    return found


def optimizers_of(library: str, bare: bool = False) -> Iterator[tuple[str, Any]]:
    """The optimizers of a library, by their names; if ``bare``, without running its packages, which may need others."""
    if not bare:
        modules = [importlib.import_module(library)]
    else:
        parts = library.split(".")
        for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ImportError(f"no module named {name}")
            sys.modules[name] = package = types.ModuleType(name)
            package.__path__ = list(spec.submodule_search_locations or ())
        modules = []
        for _, name, _ in pkgutil.iter_modules(package.__path__):
            with contextlib.suppress(ImportError):
                modules.append(importlib.import_module(f"{library}.{name}"))
    seen = set()
    for module in modules:
        for name, kind in sorted(vars(module).items()):
            own = not bare or getattr(kind, "__module__", "") == module.__name__
            if (
                isinstance(kind, type)
                and hasattr(kind, "step")
                and own
                and kind not in seen
                and "Optimizer" not in name
            ):
                seen.add(kind)
                yield name, kind


def made(kind: Any, options: dict[str, Any]) -> Callable[[list[nn.Parameter]], Any]:
    """Makes an optimizer of two groups alike; with the smallest ε that it takes."""

    def make(members: list[nn.Parameter]) -> Any:
        given = {"lr": ETA, "weight_decay": 0.0, "eps": 1e-30, **options}
        failed: Exception | None = None
        for left_out in ((), ("eps",), ("weight_decay",), ("eps", "weight_decay"), ("lr", "eps", "weight_decay")):
            chosen = {key: value for key, value in given.items() if key not in left_out or key in options}
            try:
                return kind(members, **chosen)
            except Exception as error:
                failed = error
        raise failed or ValueError

    return make


def found_in(library: str) -> list[tuple[str, Any]]:
    """The optimizers of a library: as it is imported, or, if that fails or shows none, of each of its modules."""
    with contextlib.suppress(ImportError):
        if found := list(optimizers_of(library)):
            return found
    return list(optimizers_of(library, bare=True))


def tried(kind: Any, options: dict[str, Any], every: bool) -> Largest | None:
    """Drives an optimizer with these options, in silence; None if the table has no row for it, unless ``every`` is driven."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make = made(kind, options)
        if not every and rule_of(make([nn.Parameter(torch.zeros(SHAPE))])).name not in RULES:
            return None
        return drive(make)


def told(largest: Largest) -> str:
    """What is printed of an optimizer."""
    share = f"{largest.over:.3f} of the bound" if largest.bounded else "no bound"
    return (
        f"value {largest.each:.3g}, RMS {largest.rms:.3g}, at normal gradients {largest.usual:.3g}; "
        + ("chooses η" if largest.chooses else share)
        + (f" ({largest.where})" if largest.over > SLACK else "")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the name of a library, or of an optimizer after a slash")
    parser.add_argument("--all", action="store_true", help="print those without a bound, too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    part, _, of_optimizer = arguments.only.partition("/")
    beyond, driven, unmade = 0, 0, []
    for library in (library for library in LIBRARIES if part in library):
        try:
            found = found_in(library)
        except ImportError as error:
            print(f"{library}: not installed ({error})")
            continue
        for name, kind in ((name, kind) for name, kind in found if of_optimizer in name):
            taken = inspect.signature(kind).parameters.keys()
            for options in (options for options in OPTIONS if options.keys() <= taken):
                try:
                    largest = tried(kind, options, arguments.all)
                except Exception as error:
                    if options:
                        continue
                    unmade.append(f"{library}.{name}: {type(error).__name__}: {str(error)[:100]}")
                    break
                if largest is None:
                    break
                driven += 1
                wrong = largest.over > SLACK
                beyond += wrong
                if largest.bounded or arguments.all:
                    print(f"{'BEYOND ' if wrong else ''}{library}.{name} {options or ''}: {told(largest)}", flush=True)
    print(f"{driven} driven, {beyond} beyond their bound, {len(unmade)} could not be made:")
    print(*unmade, sep="\n")
    return int(beyond > 0 or not driven)


if __name__ == "__main__":
    sys.exit(main())
