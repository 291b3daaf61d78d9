"""Thresholds of the rules, from code, dictionaries or TOML; docs/alert-rules.md gives reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from weibull_monitor.alerts.settings_file import read_settings
from weibull_monitor.alerts.values import checked
from weibull_monitor.analysis.classify import MILD_DRIFT, ONE_POPULATION, STRONG_DRIFT
from weibull_monitor.analysis.published import FEED_FORWARD_BAND
from weibull_monitor.errors import ConfigurationError, shown
from weibull_monitor.history.alert import Severity


@dataclass(frozen=True)
class RuleSettings:
    """Settings that every rule has.

    Attributes:
        enabled: Whether the rule is used.
        at_most: Highest severity of its alerts.
        ignore: Regular expressions; the rule skips components whose name matches one of them.
        persist: Samples in a row with the fault before an alert is raised.
        clear: Samples in a row without it before the alert is cleared.
        sure: Strength from which a finding is a warning or an error; below it is an info. The strength is the measured value in
            units of the thresholds, so 1 for what just reaches them; docs/alerts-evidence.md has what healthy runs reach.
    """

    enabled: bool = True
    at_most: Severity = "error"
    ignore: tuple[str, ...] = ()
    persist: int = 1
    clear: int = 3
    sure: float = 1.0


@dataclass(frozen=True)
class Dead(RuleSettings):
    """All zero, or many zeros at once: more than ``jump`` zeros, and ``factor`` times the usual number."""

    jump: int = 64
    factor: float = 10.0


@dataclass(frozen=True)
class Unchanged(RuleSettings):
    """Nothing has changed for ``intervals`` intervals between samples and ``steps`` steps, though η > 0."""

    intervals: int = 1
    steps: int = 10


@dataclass(frozen=True)
class NoGradient(RuleSettings):
    """Weight decay alone moves a matrix, while the others move by ``others`` times what the fits can tell."""

    at_most: Severity = "info"
    persist: int = 3
    others: float = 4.0


@dataclass(frozen=True)
class SettingJump(RuleSettings):
    """η of one group grew ``group`` times beside the others', or that of all ``all`` times; and λ moved ``moved`` times as far.

    Or its mean between two samples was ``burst`` times as high as any that was seen.

    Or λ_wd grew ``decay`` times or became negative, or the bound of Adam's steps changed by ``bound``: β₁ or β₂ changed.
    """

    group: float = 3.0
    all: float = 5.0
    burst: float = 1.5
    moved: float = 2.0
    decay: float = 4.0
    bound: float = 2.5


@dataclass(frozen=True)
class ImpossibleChange(RuleSettings):
    """The RMS moved further than the optimizer can have moved it.

    ``sustained`` is the largest RMS of Adam's update that gradients of a steady size can sustain, with a margin.
    """

    sustained: float = 1.25


@dataclass(frozen=True)
class UnlikeOthers(RuleSettings):
    """A movement by ``far``, ``others`` times what the others moved; or ``both`` times its largest past and what they moved."""

    others: float = 9.0
    far: float = 0.12
    both: float = 3.4


@dataclass(frozen=True)
class ScaleShift(RuleSettings):
    """ln λ moved by ``z`` times its usual size for this matrix, and by ``change`` or more, or fell by ``fall`` beyond decay.

    Or the RMS rose by ``far``, ``alone`` times as much as any other, and ``own`` times its largest past movement. Or λ fell by
    ``both_fall`` times its past falls and what others moved, ``both_lost`` times if it lost most of what training has added. Or
    the whole model is ``faster`` than ever for its η.
    """

    sure: float = 2.75
    far: float = 0.18
    alone: float = 1.7
    own: float = 1.6
    both_fall: float = 1.9
    both_lost: float = 0.9
    faster: float = 1.3
    z: float = 5.0
    change: float = 0.07
    fall: float = 0.055
    floor: float = 0.01
    lookback: int = 8


@dataclass(frozen=True)
class AllJumped(RuleSettings):
    """The matrices moved ``ratio`` times as far between two samples as in any interval before, and as in the one after."""

    ratio: float = 1.8


@dataclass(frozen=True)
class Misplaced(RuleSettings):
    """Matrices are ``ratio`` times as near to where others, or they themselves, once were as to where they were just before."""

    ratio: float = 2.0


@dataclass(frozen=True)
class OutsideWrite(RuleSettings):
    """Something other than the optimizer changed values by the RMS of ``steps`` steps, and by ``share`` of their RMS.

    Or of few, so that λ, the RMS, k or R² moved ``moved`` times as far as of late. Or it wrote to the optimizer's moments.
    """

    steps: float = 3.0
    share: float = 0.01
    moved: float = 2.0


@dataclass(frozen=True)
class ScaleRunaway(RuleSettings):
    """The budget ratio c is above ``ratio`` times the median of all attention and feed-forward matrices."""

    persist: int = 2
    sure: float = 2.5
    ratio: float = 5.0


@dataclass(frozen=True)
class ScaleStall(RuleSettings):
    """k and λ move at less than ``share`` of their usual speed, after ``history`` intervals, though η is not low."""

    persist: int = 2
    share: float = 0.003
    history: int = 8


@dataclass(frozen=True)
class SelectionRange(RuleSettings):
    """The median k of W_q and W_k is outside the published range of its type of attention by more than ``margin``."""

    persist: int = 2
    margin: float = 0.1


@dataclass(frozen=True)
class SelectionShift(UnlikeOthers):
    """k of a W_q or W_k moved by more than ``z`` times its usual size, and by ``change`` or more; or unlike the others.

    ``both_rise`` is for rises what ``both`` of `UnlikeOthers` is for falls; ``alone`` and ``own`` are for falls only.
    """

    sure: float = 2.5
    alone: float = 5.5
    own: float = 1.75
    both: float = 4.0
    both_rise: float = 8.0
    z: float = 6.0
    change: float = 0.03
    lookback: int = 8


@dataclass(frozen=True)
class SelectionDrift(RuleSettings):
    """The median |k/k_baseline - 1| of W_q and W_k is above ``mild`` or ``strong``, and above ``z`` standard errors."""

    persist: int = 2
    mild: float = MILD_DRIFT
    strong: float = STRONG_DRIFT
    z: float = 4.0


@dataclass(frozen=True)
class InitialisedAnew(RuleSettings):
    """A matrix that sits at its initialisation at step 0 of a run that goes on from trained weights.

    ln λ departs by ``log_lambda`` and ``z`` times the spread of the others, or by ``alone`` if nothing else tells.
    """

    z: float = 6.0
    log_lambda: float = 0.15
    alone: float = 0.5


@dataclass(frozen=True)
class AttentionScale(RuleSettings):
    """The scale of attention, A, grew by ``added`` and ``growth``.

    And W_q and W_k moved ``ratio`` times as far with ``faster`` times the η of the others, or ``equal`` times.
    """

    added: float = 0.1
    growth: float = 1.25
    ratio: float = 5.0
    equal: float = 7.0
    faster: float = 4.0


@dataclass(frozen=True)
class LayerOutlier(RuleSettings):
    """k or ln λ of a block departs from its neighbours and from all others of its kind.

    By ``z`` times their spread, and by ``k`` or ``log_lambda``; from ``blocks`` blocks on.
    """

    persist: int = 2
    sure: float = 2.5
    z: float = 8.0
    k: float = 0.1
    log_lambda: float = 0.4
    blocks: int = 4


@dataclass(frozen=True)
class TransmissionExit(RuleSettings):
    """The median k of a feed-forward or attention-output kind is outside the band.

    Info if by more than ``z`` standard errors; warning if also more than ``margin`` below every published median. The default
    band is the published range of per-model medians over feed-forward matrices.
    """

    persist: int = 2
    low: float = FEED_FORWARD_BAND[0]
    high: float = FEED_FORWARD_BAND[1]
    z: float = 5.0
    margin: float = 0.03


@dataclass(frozen=True)
class UpdateGrowth(RuleSettings):
    """RMS(u)·η/RMS(w) is above ``factor`` times its highest, at η after the warm-up; only with ``updates=True``, as the next."""

    persist: int = 2
    factor: float = 1.75


@dataclass(frozen=True)
class UpdateExcess(RuleSettings):
    """RMS of u above ``limit``; gradients of a steady size keep it at 1 or below."""

    persist: int = 2
    limit: float = 1.05


@dataclass(frozen=True)
class BodyBreak(UnlikeOthers):
    """R² below ``r2``; or a sudden fall of R² by ``fall`` or change of k by ``change``, and ``z`` times the usual size.

    A warning from ``slowly`` on if R² falls slowly. Or a change unlike that of the others (`UnlikeOthers`; R²: ``both_r2``).
    """

    sure: float = 1.5
    both_r2: float = 4.0
    r2: float = ONE_POPULATION
    slowly: float = 0.9
    fall: float = 0.01
    change: float = 0.03
    z: float = 5.0


@dataclass(frozen=True)
class AlertSettings:
    """All settings of alerts; one attribute per rule, and two for all of them.

    Attributes:
        cool_down: Samples after an alert during which the same rule raises no other of the same severity or below.
        deliver_from: Lowest severity of alerts that go to trackers, ``on_alert`` and the webhook; the log and history get all.
        nonfinite: Inf or NaN in a matrix; no other settings than those of every rule.
        optimizer_reset: The optimizer's step count has gone back; the same.

    >>> AlertSettings.of({"selection_shift": {"z": 8.0}}).selection_shift.z
    8.0
    """

    cool_down: int = 3
    deliver_from: Severity = "warning"
    nonfinite: RuleSettings = RuleSettings()
    dead: Dead = Dead()
    unchanged: Unchanged = Unchanged()
    no_gradient: NoGradient = NoGradient()
    optimizer_reset: RuleSettings = RuleSettings()
    setting_jump: SettingJump = SettingJump()
    impossible_change: ImpossibleChange = ImpossibleChange()
    scale_shift: ScaleShift = ScaleShift()
    all_jumped: AllJumped = AllJumped()
    misplaced: Misplaced = Misplaced()
    outside_write: OutsideWrite = OutsideWrite()
    scale_runaway: ScaleRunaway = ScaleRunaway()
    scale_stall: ScaleStall = ScaleStall()
    selection_range: SelectionRange = SelectionRange()
    selection_shift: SelectionShift = SelectionShift()
    selection_drift: SelectionDrift = SelectionDrift()
    initialised_anew: InitialisedAnew = InitialisedAnew()
    attention_scale: AttentionScale = AttentionScale()
    layer_outlier: LayerOutlier = LayerOutlier()
    transmission_exit: TransmissionExit = TransmissionExit()
    body_break: BodyBreak = BodyBreak()
    update_growth: UpdateGrowth = UpdateGrowth()
    update_excess: UpdateExcess = UpdateExcess()

    @staticmethod
    def of(given: AlertSettings | Mapping[str, Any] | str | Path | bool) -> AlertSettings:
        """Settings from what a user passes: settings, a dictionary, the path of a TOML file, or True for the defaults.

        Raises:
            ConfigurationError: For an unknown key or a value out of its range; it names the key.
        """
        if isinstance(given, AlertSettings):
            return given
        if isinstance(given, bool):
            return AlertSettings()
        if isinstance(given, (str, Path)):
            content = read_settings(Path(given))
            try:
                return AlertSettings.of(content)
            except ConfigurationError as error:
                raise ConfigurationError(f"{given}: {error}") from None
        if isinstance(given, Mapping):
            return _filled(AlertSettings(), given, "alerts")
        raise ConfigurationError(
            f"alerts is {shown(given)}; pass True, False, a dictionary, AlertSettings or the path of a TOML file"
        )


Settings = TypeVar("Settings")


def _filled(defaults: Settings, given: Mapping[str, Any], where: str) -> Settings:
    """The settings with the given values; every error names the key."""
    known = {f.name: getattr(defaults, f.name) for f in fields(defaults)}  # type: ignore[arg-type]
    changed: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{where}.{str(key)[:80]}"
        if key not in known:
            close = get_close_matches(str(key)[:80], known, 1)
            advice = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise ConfigurationError(f"{name} is not known{advice}")
        default = known[key]
        if not isinstance(default, RuleSettings):
            changed[key] = checked(name, value, default)
        elif isinstance(value, RuleSettings) and type(value) is type(default):
            changed[key] = value
        elif isinstance(value, (bool, Mapping)):
            changed[key] = _filled(default, {"enabled": value} if isinstance(value, bool) else value, name)
        else:
            raise ConfigurationError(
                f"{name} is {shown(value)}; it must be a table of settings, or false to silence it"
            )
    return dataclasses.replace(defaults, **changed)  # type: ignore[type-var]
