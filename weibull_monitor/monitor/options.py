"""The options of the monitor: names, types, defaults, checks and documentation, all in `MonitorOptions`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, get_args

from weibull_monitor.errors import ConfigurationError, as_integer, shown
from weibull_monitor.history.conform import MAX_INTEGER
from weibull_monitor.history.snapshot import Detail
from weibull_monitor.measure.reader.reader import Frozen
from weibull_monitor.model.components import ExampleInputs, Resolution
from weibull_monitor.model.sharding.ranks import JOIN_TIMEOUT
from weibull_monitor.monitor.schedule import Schedule
from weibull_monitor.trackers import Tracker, check_trackers
from weibull_monitor.trackers.pictures import EVERY, check_every

if TYPE_CHECKING:
    import torch
    from torch import nn

    from weibull_monitor.alerts import AlertSettings
    from weibull_monitor.alerts.dispatch import AlertOptions
    from weibull_monitor.history.alert import Alert

Arguments = ParamSpec("Arguments")
NAME: Final = r"[A-Za-z][\w.-]{0,23}"
"""What names of models match: folders are called so, and a title of an alert has to hold one."""
FROM_HOST: Final[Mapping[str, Any]] = {"host": True}
"""Metadata of an option that a callback does not take, because its host (the Trainer) knows the value."""


@dataclass(frozen=True, kw_only=True)
class MonitorOptions:
    """The keyword options of `WeibullMonitor` and of both ``WeibullCallback``.

    The callbacks do not take ``scheduler``, ``total_steps``, ``resume``, ``process_group``, ``trial`` and ``join_timeout``.

    Attributes:
        every_n_steps: Number of optimizer steps between samples, or a function of the step that returns whether to sample. With a
            number, steps 1, 2, 4, … 64 are sampled too. The baseline and the last step are always sampled.
        adaptive: Whether to take up to eight more samples after something has happened. After a jump of η of a parameter group,
            which is noticed within four steps, at once and 1, 2, 4, … 64 steps later. After unfreezing, or growth of η that is
            not a warm-up, ``every_n_steps/10`` steps apart, and at most 10. This is the default in one process if
            ``every_n_steps`` is a number of at least 10; it waits for nothing. True also follows alerts of any severity, a
            resumption and returns of η to an earlier value, also on several processes, and waits for samples on their way. A
            run takes at most 16 samples more than twice its regular ones. False takes none.
        output_dir: Directory of the run; the history is ``<output_dir>/weibull/history.jsonl``. Default: a new ``runs/<time>``,
            and in a callback the Trainer's own directory.
        name: Name of the model, where a run has several (``"student"`` and ``"teacher"``): its history is
            ``<output_dir>/weibull/<name>/history.jsonl``, and all keys in trackers begin with ``<name>/``.
        trackers: Names (``"tensorboard"``, ``"wandb"``, ``"mlflow"``, ``"trackio"``, ``"comet_ml"``, ``"clearml"``,
            ``"neptune"``, ``"swanlab"``, ``"aim"``, ``"dvclive"``) or objects with ``log(metrics, step)`` and ``close()``. In a
            callback also ``"auto"``, the default there: the trackers or loggers of the Trainer.
        pictures_every: Number of samples between two heatmaps and tables, for trackers that show them; the last sample is always
            drawn. 0 for no pictures.
        detail: ``"kind"`` logs some 80 metrics whatever the depth of the model; ``"component"`` adds three per matrix.
        kinds: Maps regular expressions on parameter names to the kinds of the matching matrices; overrides recognition.
        include: Regular expressions on parameter names; only matching parameters are measured.
        exclude: Regular expressions on parameter names; matching parameters are not measured.
        resolution: ``"parameter"`` measures stored matrices only; ``"matrix"`` also the parts of fused matrices (q, k and v; gate
            and up; each expert); ``"head"`` also each attention head. ``"auto"`` is ``"matrix"``, without single experts if they
            would make more than 2,000 components.
        example_inputs: Arguments of the model's ``forward``, a tuple or a dictionary, to follow a forward pass with when the
            monitor is made: what a matrix does in it outweighs its name. Default: small inputs that a model of transformers or
            Lightning accepts, else the shapes of the first batch. With False no pass is followed, and names decide.
        frozen: ``"read"`` reads matrices that need no gradient at every sample, because they may still change (the
            discriminator of a GAN, an EMA teacher, merged adapters). ``"once"`` reads them once, and again if their version or
            a few of their elements have changed; for a large frozen base.
        scheduler: The learning-rate scheduler, for the forecast of λ: one per optimizer, or a function of the optimizer step
            (from 1) that the learning rate is proportional to. It is read and never stepped.
        total_steps: Number of optimizer steps of the whole run, for the forecast of λ.
        forces: Whether to measure at each sample how the step changed the squared norm of each matrix, by alignment, injection
            and decay. For AdamW only. It reads the optimizer's state, and the weights once more before the step.
        updates: Whether to fit the last update of each matrix at each sample, from the optimizer's state: k, λ and RMS of
            |u|, and RMS(u)·η/RMS(w). It reads the state once. For AdamW, Adam, SGD with momentum, Lion and Muon; states of 8
            bits, too.
        writes: Whether to compare a few elements of each matrix before and after each step of the optimizer, for the alert
            ``outside_write``: what is written to weights between two steps. It takes up to 9 % of a step of a tiny model.
        alerts: Thresholds of the alert rules (docs/alerts.md): True for the defaults, the path of a TOML file, a dictionary or an
            `AlertSettings`; False for no alerts.
        on_alert: Function that is called with each `Alert` of severity warning or error.
        webhook: URL that these alerts are posted to, in the format of Slack's incoming webhooks. The URL is never logged.
        stop_on: Severity (``"error"``, ``"warning"``) of the alerts that set `WeibullMonitor.stop_requested`. A callback then
            saves a checkpoint and ends training.
        resume: A `WeibullMonitor.state_dict` to continue from: no new baseline is taken, and the history in ``output_dir`` is
            continued.
        process_group: The processes that measure together: ``"auto"`` for all, a process group of torch, or None for this process
            alone, which must then hold all weights.
        trial: Name of this trial of a hyper-parameter search: its history is ``<output_dir>/<trial>/weibull/history.jsonl``, and
            ``<output_dir>/weibull/history.jsonl`` lists the trials.
        join_timeout: Seconds to wait at construction until every process has made its monitor.

    >>> MonitorOptions(detail="head").check()
    Traceback (most recent call last):
    weibull_monitor.errors.ConfigurationError: detail is 'head'; it must be "kind" or "component"
    """

    every_n_steps: int | Callable[[int], bool] = 100
    adaptive: bool | None = None
    output_dir: str | Path | None = None
    name: str | None = None
    trackers: Iterable[str | Tracker] = ()
    pictures_every: int = EVERY
    detail: Detail = "kind"
    kinds: Mapping[str, str] | None = None
    include: str | Iterable[str] | None = None
    exclude: str | Iterable[str] | None = None
    resolution: Resolution | Literal["auto"] = "auto"
    example_inputs: ExampleInputs = field(default=None, repr=False)
    frozen: Frozen = "read"
    scheduler: Any = field(default=None, metadata=FROM_HOST)
    total_steps: int | None = field(default=None, metadata=FROM_HOST)
    forces: bool = False
    updates: bool = False
    writes: bool = True
    alerts: AlertSettings | Mapping[str, Any] | str | Path | bool = True
    on_alert: Callable[[Alert], object] | None = None
    webhook: str | None = field(default=None, repr=False)
    stop_on: str | None = None
    resume: Mapping[str, Any] | None = field(default=None, repr=False, metadata=FROM_HOST)
    process_group: Any | Literal["auto"] | None = field(default="auto", metadata=FROM_HOST)
    trial: str | None = field(default=None, metadata=FROM_HOST)
    join_timeout: float = field(default=JOIN_TIMEOUT, metadata=FROM_HOST)

    def __post_init__(self) -> None:
        if not isinstance(self.trackers, str):
            object.__setattr__(self, "trackers", list(self.trackers))  # it may be an iterator

    def check(self) -> None:
        """Checks everything that can be checked before there is a model.

        Raises:
            ConfigurationError: If an option is out of range, or a name is unknown.
        """
        _ = self.alert_options, self.schedule
        if self.detail not in ("kind", "component"):
            raise ConfigurationError(f'detail is {self.detail!r}; it must be "kind" or "component"')
        if self.name is not None and not (isinstance(self.name, str) and re.fullmatch(NAME, self.name)):
            raise ConfigurationError(
                f"name is {self.name!r}; it must be a letter and up to 23 letters, digits, '_', '-' or '.', such as \"student\""
            )
        if self.trial is not None and not _is_folder(self.trial):
            raise ConfigurationError(f'trial is {self.trial!r}; it must be the name of a folder, such as "run-0"')
        if self.frozen not in get_args(Frozen):
            raise ConfigurationError(f'frozen is {self.frozen!r}; it must be "read" or "once"')
        if self.adaptive and not isinstance(self.schedule, Schedule):
            raise ConfigurationError(
                "adaptive is True, but every_n_steps is a function; pass a number of steps, or let the function follow"
            )
        check_trackers(self.trackers)
        check_every(self.pictures_every)

    @cached_property
    def schedule(self) -> Callable[[int], bool]:
        """Returns whether an optimizer step is sampled."""
        return self.every_n_steps if callable(self.every_n_steps) else Schedule(self.every_n_steps)

    @cached_property
    def alert_options(self) -> AlertOptions:
        """The options about alerts, checked."""
        from weibull_monitor.alerts.dispatch import AlertOptions  # takes 20 ms

        return AlertOptions.of(self.alerts, self.on_alert, self.webhook, self.stop_on)


@dataclass(frozen=True, kw_only=True)
class MonitorArguments(MonitorOptions):
    """The arguments of `WeibullMonitor`: the options, after the model and the optimizer."""

    model: nn.Module = field(kw_only=False)
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = field(default=None, kw_only=False)


def step_of(state: object) -> int:
    """The step that a saved state continues from.

    Raises:
        ConfigurationError: If it has none.

    >>> step_of({"step": 500})
    500
    """
    step = as_integer(state.get("step")) if isinstance(state, Mapping) else None
    if step is None or not 0 <= step < MAX_INTEGER:
        raise ConfigurationError(f"resume is {shown(state)}; pass what state_dict() has returned, or {{'step': 500}}")
    return step


def _is_folder(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.strip(". ") != ""
        and not Path(name).is_absolute()
        and ".." not in Path(name).parts
    )


def option_fields(host: bool = True) -> dict[str, Field[Any]]:
    """The fields of `MonitorOptions` by name, with or without those that a callback gets from its host."""
    return {f.name: f for f in fields(MonitorOptions) if host or not f.metadata.get("host")}


def option_help() -> dict[str, str]:
    """The documentation of each option by name, one line each; empty under ``python -OO``.

    >>> option_help()["total_steps"]
    'Number of optimizer steps of the whole run, for the forecast of λ.'
    """
    attributes = inspect.cleandoc(MonitorOptions.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def refuse_unknown(
    caller: str, given: Iterable[str], known: Iterable[str], listed: Iterable[str] | None = None
) -> None:
    """Raises TypeError for a name that is not known; suggests the nearest, or lists the options (all known names by default)."""
    for name in set(given).difference(known := list(known)):
        near = get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(listed or known)}"
        raise TypeError(f"{caller} has no option {name!r}{advice}")


def takes_options(
    options: Callable[Arguments, MonitorOptions], host: bool = True
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, Arguments], None]]:
    """Gives an ``__init__(self, …, **options)`` the types, the signature and the documentation of the options.

    Args:
        options: `MonitorOptions`, or a dataclass derived from it that adds arguments.
        host: Whether options that callbacks get from their host are taken.

    Returns:
        A decorator. The method then raises TypeError for an unknown option, and suggests the nearest name.
    """
    names = option_fields(host)
    dropped = option_fields().keys() - names.keys()
    taken = {name: p for name, p in inspect.signature(options).parameters.items() if name not in dropped}
    text = "".join(f"    {name}: {text}\n" for name, text in option_help().items() if name in names)

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[Any, Arguments], None]:
        @wraps(init)
        def checked(self: Any, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            refuse_unknown(type(self).__name__, kwargs, taken, names)
            init(self, *args, **kwargs)

        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        checked.__signature__ = inspect.Signature([this, *taken.values()])  # type: ignore[attr-defined]
        checked.__doc__ = f"Options:\n{text}"
        return checked

    return decorate
