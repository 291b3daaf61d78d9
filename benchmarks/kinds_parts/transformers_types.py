"""Every model type of the installed transformers, small: its kinds by use and by name, against labels by effect."""

from __future__ import annotations

import contextlib
import json
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import wild_models
from torch import nn

from kinds_parts import by_effect, fitting
from kinds_parts.judge import Label, Verdict, judge, verdict_of
from weibull_monitor.model.components import Discovery, discover
from weibull_monitor.model.dataflow import example_inputs_of, parts_of
from weibull_monitor.model.meta_device import build_from, configuration, model_types

MOST: Final = 40_000_000
"""Elements of a model that is still run."""


def judged(model_type: str) -> dict[str, Any]:
    """What one model type gave: the verdicts ``use`` and ``name``, where both are ``apart``, and a ``problem``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, labels, problem, inputs = _labelled(model_type)
        except Exception as error:  # a constructor may fail in any way
            return {"type": model_type, "problem": f"not built: {_said(error)}"}
        sorts: dict[str, Any] = {"use": inputs, "name": False}
        found = {sort: discover(model, resolution="head", example_inputs=given) for sort, given in sorts.items()}
        verdicts = {
            sort: vars(judge(model_type, model, sorts[sort], lambda name, _: labels.get(name), found[sort]))
            for sort in found
        }
        return {"type": model_type, "problem": problem, **verdicts, "apart": _apart(model_type, labels, **found)}


Labelled = tuple[nn.Module, dict[str, Label], str, Any]
"""A model, its labels, why there are none of the whole, and the inputs that it took; None if those are the package's own."""


def _labelled(model_type: str) -> Labelled:
    """A model of a type, as small as runs, and its labels; or the smallest, and why it does not run."""
    kept: Labelled | None = None
    failed: Exception | None = None
    for divisor in (16, 8, 4, 2, 1):
        config = configuration(model_type)
        wild_models.shrink(config, divisor)
        fitting.fit(config)
        try:
            model = build_from(config)
        except Exception as error:  # a size that does not go with another
            failed = error
            continue
        if sum(p.numel() for p in model.parameters()) > MOST:
            break
        fitting.fill(model)
        labels, problem, inputs = _labels(model.eval())
        again = kept is not None and problem == kept[2] and "made too small" not in problem
        if kept is None or len(labels) > len(kept[1]):
            kept = (model, labels, problem, inputs)
        if (labels and not problem) or again:
            break
    if kept is None:
        raise failed or ValueError("it is large at any size")
    return kept


def _labels(model: nn.Module) -> tuple[dict[str, Label], str, Any]:
    """The labels of a model and of the models in it, why there are none of the whole, and the inputs that it took."""
    found: dict[str, Label] = {}
    problems = []
    took: Any = None
    names = {id(module): name for name, module in model.named_modules()}
    for module in (model, *parts_of(model)):
        own, problem, inputs = _own_labels(module)
        if problem:
            problems.append(problem)
            continue
        at = names[id(module)]
        for name, label in own.items():
            found.setdefault(f"{at}.{name}" if at else name, label)
        if module is model:
            took = inputs
            break
    return found, (problems or [""])[0], took


def _own_labels(module: nn.Module) -> tuple[dict[str, Label], str, Any]:
    """The labels of one model with the first inputs that it takes; the problem is that of the first."""
    problem = ""
    for n, inputs in enumerate(fitting.attempts(module)):
        try:
            return by_effect.labels(module, inputs), "", inputs if n or example_inputs_of(module) is None else None
        except Exception as error:  # noqa: PERF203
            problem = problem or _said(error)
    return {}, problem or "it does not say what it takes", None


def _apart(model_type: str, labels: dict[str, Label], use: Discovery, name: Discovery) -> list[str]:
    """The matrices without a label that names and use know as different things."""
    by_name = {c.name: c for c in name.components}
    out = []
    for c in use.components:
        other = by_name.get(c.name)
        if c.evidence != "use" or other is None or c.parameter in labels or c.kind == other.kind or "head " in c.name:
            continue
        if any(kind.startswith(("attn_", "ffn_")) for kind in (c.kind, other.kind)):
            out.append(f"{model_type}: {c.name} {c.shape} is {c.kind} by use, {other.kind} by name")
    return out


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def all_types(types: Sequence[str], into: Path, seconds: int, minutes: float) -> Iterator[dict[str, Any]]:
    """What every type gave; those that ``into`` has already are not judged again.

    Args:
        types: Model types; all, in a random order that is the same each time, if there are none.
        into: A file of a line of JSON for each type, which is added to.
        seconds: Limit for one type, of one core.
        minutes: No type is begun after this time.
    """
    known: dict[str, dict[str, Any]] = {}
    if into.is_file():
        for line in into.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line that was cut
                one = json.loads(line)
                known[one["type"]] = one
    every = list(types) or random.Random(0).sample(model_types(), len(model_types()))
    deadline = time.monotonic() + 60 * minutes
    torch.set_num_threads(1)
    if not known.keys() >= set(every) and minutes:
        judged("blip")  # imports what many models need, before processes are forked
    with into.open("a") as file:
        for model_type in every:
            if model_type in known:
                yield known[model_type]
            elif time.monotonic() < deadline:
                came, why = wild_models.in_child(lambda t: json.dumps(judged(t)), model_type, seconds, 5.0)
                found = json.loads(came) if came else {"type": model_type, "problem": why}
                print(json.dumps(found), file=file, flush=True)
                yield found


def line(one: Mapping[str, Any]) -> str:
    """One line of plain text about a model type."""
    said = [f"{one['type']}:"]
    for sort in ("use", "name"):
        if sort in one:
            v = one[sort]
            said.append(
                f"{v['matrices']} matrices, by {sort} {v['right']} right, {v['other']} other, {len(v['wrong'])} WRONG;"
            )
    return " ".join((*said, one["problem"]))


def total(found: Sequence[dict[str, Any]], sort: str) -> Verdict:
    """The sum of the verdicts by use or by name."""
    out = Verdict()
    for one in found:
        if sort in one:
            out.add(verdict_of(one[sort]))
    return out
