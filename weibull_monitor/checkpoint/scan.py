"""`scan`: takes checkpoints and gives the history of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from weibull_monitor.checkpoint.adapters import AdaptersFound, adapters_in, folder_of
from weibull_monitor.checkpoint.as_history import Sample, as_history, check_same_model, increasing
from weibull_monitor.checkpoint.buffers import FLAT, flat_rows
from weibull_monitor.checkpoint.child import described, described_by, process
from weibull_monitor.checkpoint.findings import CheckpointFinding, findings_of
from weibull_monitor.checkpoint.formats.locate import CheckpointSource, all_sources
from weibull_monitor.checkpoint.formats.tensors import Contents
from weibull_monitor.checkpoint.layout import CheckpointLayout, Find, lay_out, without
from weibull_monitor.checkpoint.look import Structure, remarks_on
from weibull_monitor.checkpoint.prefixes import with_names_of
from weibull_monitor.checkpoint.stream import count_checkpoint
from weibull_monitor.errors import (
    CheckpointError,
    ConfigurationError,
    MissingDependencyError,
    counted,
    text_of,
    visible,
)
from weibull_monitor.history import RunRecord
from weibull_monitor.history.record import History
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure import WeibullFit, solve
from weibull_monitor.measure.bins import MANTISSA_BITS
from weibull_monitor.measure.fit import delivered
from weibull_monitor.measure.reader.sums import CountedRows
from weibull_monitor.measure.transfer import to_host
from weibull_monitor.model.components import AttentionType, Component, Discovery, Resolution, coverage
from weibull_monitor.model.components.finder import Finder

Progress = Callable[[str, int, int], None]
"""Called now and then with the checkpoint, how many of its bytes have been read, and how many are to be read."""


@dataclass(frozen=True)
class Checkpoint:
    """One scanned checkpoint.

    Attributes:
        source: Its path.
        format: Its format, in words.
        size: Bytes of its files.
        step: Optimizer steps taken; its number, from 1 on, where steps are not known.
        notes: Remarks on how it was read and how its matrices were recognised.
        skipped: Why a tensor could not be measured, by name.
        coverage: The share of its elements that were measured.
        findings: What is worth a look in it.
        components: The components.
        fits: The fit of each component, by name.
        remarks: What is odd about a matrix, in sentences, by name.
        adapters: Its low-rank adapters, and what they add to weights.
        design_effects: Variance of k of each component over that of as many independent values, by name.
        attention: The kinds of attention of its model.
        model: What is known of its model: ``parameters``, ``class``, ``model_type``.
        seconds: How long measuring it took.
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
    fits: Mapping[str, WeibullFit] = field(repr=False)
    remarks: Mapping[str, tuple[str, ...]]
    adapters: AdaptersFound
    design_effects: Mapping[str, float] = field(repr=False)
    attention: tuple[AttentionType, ...]
    model: Mapping[str, Any]
    seconds: float

    def __repr__(self) -> str:
        matrices, found = counted(len(self.components), "matrix", "matrices"), counted(len(self.findings), "finding")
        return f"Checkpoint({visible(str(self.source))}, step {self.step:,}, {matrices}, {found})"


@dataclass(frozen=True)
class Scan:
    """The result of a scan.

    Attributes:
        history: The checkpoints as the samples of a run.
        checkpoints: The checkpoints, by rising step.
        samples: The records that the history was made of.
        steps_known: Whether the steps are those of training, and not only numbers.
    """

    history: History
    checkpoints: tuple[Checkpoint, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    steps_known: bool = True

    def __repr__(self) -> str:
        found = sum(len(checkpoint.findings) for checkpoint in self.checkpoints)
        return f"Scan({counted(len(self.checkpoints), 'checkpoint')}, {counted(found, 'finding')})"

    def _repr_html_(self) -> str:
        return self.history._repr_html_()


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
    """Measures checkpoints as `WeibullMonitor` measures a model, without loading them.

    Files are read once, from front to back, a few megabytes at a time. No code in a checkpoint is run.

    Args:
        paths: A safetensors file, an index of shards, a file of `torch.save` or Lightning, a model folder, a distributed
            checkpoint, a folder of several checkpoints; or a list of these, all of one run.
        config: A ``config.json``, a folder with one, or a model type, if there is none beside the weights.
        kinds: Regular expressions on names, and the kind of the matrices that they match, as in `discover_components`.
        include: One or several regular expressions; only names that one of them matches are kept.
        exclude: One or several regular expressions; names that one of them matches are left out.
        resolution: As `WeibullMonitor` takes it.
        progress: Called with the checkpoint's path, the bytes read and the bytes to read.

    Returns:
        The history of a run whose samples are the checkpoints, at their steps. If a step is not known, or two are the same, the
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
    """Like `scan`, but returns everything that was found."""
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    find = Finder(kinds, include, exclude, resolution)
    sources = all_sources(given)
    if not sources:
        raise ConfigurationError("no checkpoint is named; name one or several")
    found: list[tuple[int | None, Checkpoint]] = []
    names: set[str] = set()
    with process():
        for source in sources:
            with _errors_name(source):
                found.append(_measure(source, config, find, progress, names))
            names |= {c.name for c in found[-1][1].components}
    steps, known = increasing([step for step, _ in found])
    numbered = (replace(one, step=step) for step, (_, one) in zip(steps, found, strict=True))
    checkpoints = tuple(sorted(numbered, key=lambda one: one.step))
    samples = tuple(_sample(one, checkpoints, known, given) for one in checkpoints)
    check_same_model(samples, [str(one.source) for one in checkpoints])
    return Scan(as_history(samples, given[0]), checkpoints, samples, known)


def _measure(
    source: CheckpointSource, config: str | Path | None, find: Find, progress: Progress | None, names: Set[str]
) -> tuple[int | None, Checkpoint]:
    """One checkpoint and its step, if that is known: tables, then components, then counts, then fits.

    Args:
        source: The checkpoint.
        config: The configuration that the user named; by default the one beside the checkpoint is used.
        find: Finds the components of a model.
        progress: As `scan` takes it.
        names: The names of the components of the checkpoints before it; empty for the first.
    """
    started = time.perf_counter()
    contents = source.read()
    laid, model, notes = _laid_out(source, contents, config, find)
    layout = with_names_of(laid, names)
    structures: dict[str, Structure] = {}
    if layout.discovery.components:
        fits, flat, structures = _fits(layout, progress, str(source.path))
        layout = without(layout, flat, FLAT)
    discovery = layout.discovery
    if not discovery.components:
        raise ConfigurationError(_nothing(source, discovery))
    fits = {c.name: fits[c.name] for c in discovery.components if c.name in fits}
    adapters = adapters_in(folder_of(source.path), layout, contents.tensors, fits)
    checkpoint = Checkpoint(
        source=source.path,
        format=source.format,
        size=contents.size,
        step=0,
        notes=(*source.notes, *contents.notes, *notes, *layout.notes, *adapters.notes),
        skipped={s.name: s.reason for s in discovery.skipped},
        coverage=coverage(discovery),
        findings=findings_of(discovery.components, fits),
        components=discovery.components,
        fits=fits,
        remarks=remarks_on(discovery.components, fits, structures),
        adapters=adapters,
        design_effects={
            c.name: structures[c.parameter].design_effect for c in discovery.components if c.parameter in structures
        },
        attention=layout.attention,
        model={**model, "parameters": discovery.elements},
        seconds=time.perf_counter() - started,
    )
    return (source.step if contents.step is None else contents.step), checkpoint


def _laid_out(
    source: CheckpointSource, contents: Contents, config: str | Path | None, find: Find
) -> tuple[CheckpointLayout, Mapping[str, Any], tuple[str, ...]]:
    """What is measured in a checkpoint, what is known of its model, and why its configuration is not used, if it is not."""
    if config is not None:
        found = described_by(config, find, contents)
        return found.layout, found.model, ()
    notes: tuple[str, ...] = ("no config.json was found",)
    if source.config is not None:
        try:
            found = described(source.config / "config.json", find, contents)
            return found.layout, found.model, ()
        except (CheckpointError, ConfigurationError, MissingDependencyError) as error:
            notes = (f"its config.json is not used: {text_of(error).partition(chr(10))[0][:200]}",)
    return lay_out(contents, None, find), {}, notes


def _fits(
    layout: CheckpointLayout, progress: Progress | None, label: str
) -> tuple[dict[str, WeibullFit], frozenset[str], dict[str, Structure]]:
    """The fits of components by name, the parameters that turn out to be masks or constants, and what was seen of each."""
    components = layout.discovery.components
    needed = {c.parameter for c in components}
    total = sum(t.numel * t.dtype.itemsize for n, t in layout.stored.items() if n in needed and t.dtype is not None)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(label, done, total)

    seen: dict[str, Structure] = {}
    flat: dict[str, bool] = {}  # by parameter: whether each of its components is flat

    def looked_at(batch: CountedRows) -> CountedRows:
        members = [components[index] for index in batch.indices]
        for c, is_flat in zip(members, flat_rows(batch.counts, members), strict=True):
            # What is called a weight stays, whatever its values: zeros of a broken file are a finding, and signs a matrix.
            may_be_mask = c.parameter in layout.guessed and not c.parameter.endswith("weight")
            flat[c.parameter] = is_flat and flat.get(c.parameter, may_be_mask)
        return batch

    batches = (looked_at(batch) for batch in count_checkpoint(components, layout.stored, report, seen))
    fits = delivered((b.indices, to_host(solve(b.counts, b.bins, b.offsets))) for b in batches)
    found = {c.name: fits[index] for index, c in enumerate(components) if index in fits}
    return found, frozenset(name for name, is_flat in flat.items() if is_flat), seen


def _sample(one: Checkpoint, every: Sequence[Checkpoint], steps_known: bool, given: Sequence[Path]) -> Sample:
    """A checkpoint as a history records it: the record of a run, which lists all checkpoints, and a sample."""
    now = time.time()
    record = RunRecord(
        started=round(now, 3),
        resumed_from=None,
        model={
            **one.model,
            "source": ", ".join(str(path) for path in given),
            "format": one.format,
            "bytes": one.size,
            "steps_known": steps_known,
            "checkpoints": [{"step": c.step, "path": str(c.source), "bytes": c.size} for c in every],
            "notes": list(one.notes),
            **({"adapters": dict(one.adapters.record)} if one.adapters.record else {}),
            "design_effects": {name: round(effect, 3) for name, effect in one.design_effects.items()},
            "remarks": {name: list(texts) for name, texts in one.remarks.items()},
            "findings": [{"step": c.step, **asdict(finding)} for c in every for finding in c.findings],
        },
        world_size=1,
        protocol={"fit": "middle-80 % probability plot from bit-pattern counts", "bins_per_octave": 2**MANTISSA_BITS},
        components=one.components,
        skipped=one.skipped,
        attention=[asdict(kind) for kind in one.attention],
    )
    snapshot = Snapshot(
        step=one.step,
        time=now,
        components=one.components,
        fits=one.fits,
        deltas=one.adapters.deltas,
        seconds=one.seconds,
    )
    return record, snapshot


@contextmanager
def _errors_name(source: CheckpointSource) -> Iterator[None]:
    """Turns errors that only corrupted tables cause into one that names the checkpoint."""
    try:
        yield
    except (RecursionError, MemoryError, OverflowError) as error:
        raise CheckpointError(
            f"{source.path} cannot be read ({type(error).__name__}): its tables are corrupted"
        ) from error


def _nothing(source: CheckpointSource, discovery: Discovery) -> str:
    """Why a checkpoint has nothing to measure."""
    if skipped := discovery.skipped:
        return (
            f"{source.path} has no matrix that can be measured: {skipped[0].name}, for one, because {skipped[0].reason}"
        )
    return (
        f"{source.path} has no matrix to measure: no tensor of two dimensions or more is left after include and exclude"
    )
