"""Follows one forward pass of a model without data, and says what happened in it."""

from __future__ import annotations

import contextlib
import random
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from weibull_monitor.errors import text_of
from weibull_monitor.model.dataflow.clone import Clone, unwrapped
from weibull_monitor.model.dataflow.graph import Graph, events_in
from weibull_monitor.model.dataflow.inputs import Called, Inputs
from weibull_monitor.model.dataflow.mode import Follow, FollowFunctions, OutOfTime
from weibull_monitor.model.dataflow.rules import rule_of
from weibull_monitor.model.dataflow.traced import Traced
from weibull_monitor.model.dataflow.weights import Weights
from weibull_monitor.model.sharding import LocalParameter

SECONDS: Final = 30.0
"""How long a pass is followed at most."""


@dataclass
class Pass:
    """A followed forward pass.

    Attributes:
        graph: What happened.
        weights: Where weights lie.
        names: Names of the parameters by their number.
        shapes: Their shapes.
        problem: Why the pass ended before its end; empty if it did not.
        returned: Whether the model returned.
    """

    graph: Graph
    weights: Weights
    names: list[str]
    shapes: list[tuple[int, ...]]
    problem: str = ""
    returned: bool = False
    seconds: float = field(default=0.0, compare=False)


def follow(
    model: nn.Module,
    inputs: Inputs,
    held: Collection[LocalParameter] = (),
    seconds: float = SECONDS,
) -> Pass:
    """Runs a forward pass of a copy of a model that has no weights. The model itself and the random state stay as they are.

    Args:
        model: The model; its wrappers are looked through.
        inputs: The arguments of ``forward``, by position or by name. Only their shapes and, for integers, values matter.
        held: What is here of the parameters of the model, or of a larger one: by these the pass has their names and whole shapes.
        seconds: When to give up, in seconds of this thread.
    """
    compiler = "torch._dynamo" in sys.modules
    found = _follow(model, inputs, held, seconds)
    if found.problem and not compiler and "torch._dynamo" in sys.modules and seconds > found.seconds:
        # Something was compiled within the pass, where all has to stay as it is written: now that can be said to the compiler.
        found = _follow(model, inputs, held, seconds - found.seconds)
    return found


def _follow(model: nn.Module, inputs: Inputs, held: Collection[LocalParameter], seconds: float) -> Pass:
    started = time.thread_time()
    inner = unwrapped(model)
    clone = Clone(inner, held)
    mode = Follow(clone.weights, clone.twins, rule_of, started + seconds)
    found = Pass(mode.graph, clone.weights, clone.names, clone.shapes)
    if isinstance(inputs, Called):
        args, kwargs = inputs.args, dict(inputs.kwargs)
    else:
        args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    try:
        with _undisturbed(), torch.no_grad(), FollowFunctions(), mode:
            given = [_plain(a, mode) for a in args], {k: _plain(v, mode) for k, v in kwargs.items()}
            out = clone.module(*given[0], **given[1])
            for tensor in _tensors(out, 6):
                if isinstance(tensor, Traced):
                    mode.graph.outputs.update(events_in(tensor.codes))
        found.returned = True
    except OutOfTime:
        found.problem = f"it took more than {seconds:g} seconds"
    except Exception as error:
        line = next((x for x in text_of(error).splitlines() if x.strip()), "")
        found.problem = f"{type(error).__name__}: {line}"[:300]
    found.seconds = time.thread_time() - started
    return found


def _plain(value: Any, mode: Follow) -> Any:
    """An input: a real tensor of its own, or what stands for a picture, a sound or a stream, whose values do not matter."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.dim() > 2 and value.numel():
            return mode.entering(value)
        if value.device.type == "meta":
            return torch.zeros(value.shape, dtype=value.dtype)
        return value.detach().cpu().clone()
    if type(value) in (list, tuple):
        return type(value)(_plain(v, mode) for v in value)
    if isinstance(value, Mapping):
        try:
            return type(value)({k: _plain(v, mode) for k, v in value.items()})  # type: ignore[call-arg]
        except Exception:
            return {k: _plain(v, mode) for k, v in value.items()}
    return value


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    """The tensors in what a model returned."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v, depth - 1)
    elif depth and isinstance(value, Mapping):
        for v in value.values():
            yield from _tensors(v, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, nn.Module):
        for v in list(vars(value).values()):
            yield from _tensors(v, depth - 1)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Puts the random states and the settings of torch that a pass may change back as they were."""
    state, python = torch.get_rng_state(), random.getstate()
    numpy = sys.modules.get("numpy")
    numbers = numpy.random.get_state() if numpy is not None else None
    fast = torch.backends.mha.get_fastpath_enabled()
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.set_rng_state(state)
            random.setstate(python)
            if numpy is not None:
                numpy.random.set_state(numbers)
            torch.backends.mha.set_fastpath_enabled(fast)
            torch.set_default_dtype(dtype)
