"""`scan`: checkpoints in, the history of a run out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from weibull_monitor.checkpoint.as_history import Measured, as_history, check_same_model, increasing
from weibull_monitor.checkpoint.config import ModelCache
from weibull_monitor.checkpoint.findings import CheckpointFinding, findings_of
from weibull_monitor.checkpoint.formats.locate import CheckpointSource, all_sources
from weibull_monitor.checkpoint.formats.tensors import Contents
from weibull_monitor.checkpoint.layout import CheckpointLayout, lay_out
from weibull_monitor.checkpoint.stream import count_checkpoint
from weibull_monitor.errors import CheckpointError, ConfigurationError
from weibull_monitor.history import RunRecord
from weibull_monitor.history.record import History
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure import WeibullFit, solve
from weibull_monitor.measure.bins import MANTISSA_BITS
from weibull_monitor.measure.fit import delivered
from weibull_monitor.measure.transfer import to_host
from weibull_monitor.model.components import Component, Resolution
from weibull_monitor.model.components.finder import finder

Progress = Callable[[str, int, int], None]
"""Told the checkpoint, the bytes of it that have been read and those that are to be read, now and then."""


@dataclass(frozen=True)
class Checkpoint:
    """One scanned checkpoint.

    Attributes:
        source: Where it lies.
        format: In what format.
        size: Bytes of its files.
        step: Its step; its number, from 1 on, where steps are not known.
        discovery_notes: What there is to say of how its matrices were found.
        skipped: What could not be measured, and why.
        coverage: The share of its elements that were measured.
        findings: What is worth a look in it.
        fits: The fit of each component, by name.
        components: The components.
    """

    source: Path
    format: str
    size: int
    step: int
    notes: tuple[str, ...]
    skipped: Mapping[str, str]
    coverage: float
    findings: tuple[CheckpointFinding, ...]
    components: tuple[Component, ...]
    fits: Mapping[str, WeibullFit] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Scan:
    """What a scan gave.

    Attributes:
        history: The checkpoints as the samples of a run.
        checkpoints: What else is known of each, by rising step.
        measured: What the history was made of.
        steps_known: Whether the steps are those of training, and not just numbers.
    """

    history: History
    checkpoints: tuple[Checkpoint, ...]
    measured: tuple[Measured, ...] = field(repr=False)
    steps_known: bool = True


def scan(
    paths: str | Path | Iterable[str | Path],
    *,
    config: str | Path | None = None,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    resolution: Resolution | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> History:
    """Measures checkpoints as `WeibullMonitor` measures the model that they hold, without loading them.

    Files are read once, front to back, a few megabytes at a time, whatever their size. No code of a checkpoint is run.

    Args:
        paths: A safetensors file, an index of shards, a file of `torch.save` or Lightning, a model folder, a distributed
            checkpoint, a folder of several checkpoints; or several of these, of one run.
        config: A ``config.json``, a folder with one, or a model type, where there is none beside the weights.
        kinds: Regular expressions on names and the kind of what they match, as `discover_components` takes them.
        include: One or several regular expressions; only names that one of them matches are kept.
        exclude: One or several regular expressions; names that one of them matches are left out.
        resolution: As `WeibullMonitor` takes it.
        progress: Called with the checkpoint's path, the bytes read and the bytes to read.

    Returns:
        The history of a run whose samples are the checkpoints, at their steps. Where these are not known, or twice the same, the
        checkpoints are numbered from 1 on, in the order given. ``history.runs[-1].model`` has their ``source``.

    Raises:
        CheckpointError: If a checkpoint cannot be read, or is not safe to read.
        ConfigurationError: For wrong options, or if there is nothing to measure.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"layers.0.self_attn.q_proj.weight": torch.ones(64, 64).normal_()}, f"{folder}/model.safetensors")
    ...     history = scan(folder)
    >>> history.components[0].kind, history.snapshots[0].values("k").keys() == {history.components[0].name}
    ('attn_q', True)
    """
    return scan_all(paths, config, kinds, include, exclude, resolution, progress).history


def scan_all(
    paths: str | Path | Iterable[str | Path],
    config: str | Path | None = None,
    kinds: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    resolution: Resolution | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> Scan:
    """Like `scan`, with everything that was found."""
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    find = finder(kinds, include, exclude, resolution)
    sources = all_sources(given)
    if not sources:
        raise ConfigurationError("no checkpoint is named; name one or several")
    models = ModelCache(config)
    found: list[tuple[CheckpointSource, Contents, CheckpointLayout, dict[str, WeibullFit], Any, float]] = []
    for source in sources:
        started = time.perf_counter()
        with _named(source):
            contents = source.read()
            model, notes = models.get(source)
            laid = lay_out(contents, model, find)
            laid = replace(laid, notes=(*source.notes, *contents.notes, *notes, *laid.notes))
            if not laid.discovery.components:
                raise ConfigurationError(_nothing(source, laid))
            fits = _fits(laid, progress, str(source.path))
        description = _described(model)
        found.append((source, contents, laid, fits, description, time.perf_counter() - started))
    steps, known = increasing([s.step if c.step is None else c.step for s, c, *_ in found])
    found = [entry for _, entry in sorted(zip(steps, found, strict=True), key=lambda pair: pair[0])]
    steps = sorted(steps)
    checkpoints, measured = [], []
    for step, (source, contents, laid, fits, description, seconds) in zip(steps, found, strict=True):
        one = _checkpoint(step, source, contents, laid, fits)
        checkpoints.append(one)
        measured.append((one, laid, description, seconds))
    everything = _records(measured, known, given)
    check_same_model(everything, [str(one.source) for one in checkpoints])
    return Scan(as_history(everything, given[0]), tuple(checkpoints), tuple(everything), known)


def _described(model: nn.Module | None) -> dict[str, Any]:
    if model is None:
        return {}
    return {"class": type(model).__name__, "model_type": getattr(model.config, "model_type", None)}


def _fits(laid: CheckpointLayout, progress: Progress | None, label: str) -> dict[str, WeibullFit]:
    components = laid.discovery.components
    needed = {c.parameter for c in components}
    total = sum(t.numel * t.dtype.itemsize for n, t in laid.stored.items() if n in needed and t.dtype is not None)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(label, done, total)

    batches = count_checkpoint(components, laid.stored, tell)
    fits = delivered((batch.indices, to_host(solve(batch.counts, batch.bins))) for batch in batches)
    return {c.name: fits[index] for index, c in enumerate(components) if index in fits}


def _checkpoint(
    step: int, source: CheckpointSource, contents: Contents, laid: CheckpointLayout, fits: Mapping[str, WeibullFit]
) -> Checkpoint:
    from weibull_monitor.model.components import coverage

    components = laid.discovery.components
    return Checkpoint(
        source=source.path,
        format=source.format,
        size=contents.size,
        step=step,
        notes=laid.notes,
        skipped={s.name: s.reason for s in laid.discovery.skipped},
        coverage=coverage(laid.discovery),
        findings=findings_of(components, fits),
        components=components,
        fits=fits,
    )


def _records(
    measured: Sequence[tuple[Checkpoint, CheckpointLayout, Mapping[str, Any], float]],
    known: bool,
    given: Sequence[Path],
) -> list[Measured]:

    out = []
    for one, laid, description, seconds in measured:
        model = {
            **description,
            "parameters": laid.discovery.elements,
            "source": ", ".join(str(path) for path in given),
            "format": one.format,
            "bytes": one.size,
            "steps_known": known,
            "checkpoints": [{"step": c.step, "path": str(c.source), "bytes": c.size} for c, *_ in measured],
            "notes": list(one.notes),
            "findings": [{"step": c.step, **asdict(f)} for c, *_ in measured for f in c.findings],
        }
        now = time.time()
        record = RunRecord(
            started=round(now, 3),
            resumed_from=None,
            model=model,
            world_size=1,
            protocol={
                "fit": "middle-80 % probability plot from bit-pattern counts",
                "bins_per_octave": 2**MANTISSA_BITS,
            },
            components=one.components,
            skipped=one.skipped,
            attention=[asdict(kind) for kind in laid.attention],
        )
        snapshot = Snapshot(step=one.step, time=now, components=one.components, fits=one.fits, seconds=seconds)
        out.append((record, snapshot))
    return out


@contextmanager
def _named(source: CheckpointSource) -> Iterator[None]:
    """Turns what only corrupted tables bring about into an error that names the checkpoint."""
    try:
        yield
    except (RecursionError, MemoryError, OverflowError) as error:
        raise CheckpointError(
            f"{source.path} cannot be read ({type(error).__name__}): its tables are corrupted"
        ) from error


def _nothing(source: CheckpointSource, laid: CheckpointLayout) -> str:
    skipped = laid.discovery.skipped
    if skipped:
        return (
            f"{source.path} has no matrix that can be measured: {skipped[0].name}, for one, because {skipped[0].reason}"
        )
    return (
        f"{source.path} has no matrix to measure: no tensor of two dimensions or more is left after include and exclude"
    )
