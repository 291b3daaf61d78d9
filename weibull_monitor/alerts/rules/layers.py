"""Blocks that depart from the others of their kind: `layer_outlier`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from weibull_monitor.alerts.component_arrays import at_table, table_of
from weibull_monitor.alerts.rules.decay import MOST
from weibull_monitor.alerts.rules.excuse import FROM_NOTHING, excused, reason
from weibull_monitor.alerts.rules.result import RuleResult, rule_result
from weibull_monitor.alerts.rules.steps import from_nothing
from weibull_monitor.alerts.rules.words import apart
from weibull_monitor.alerts.settings import LayerOutlier
from weibull_monitor.alerts.statistics import Bools, Floats, median_along, median_of, or_zero, quiet, spread_of
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.analysis.published import LAST_SHALLOW_BLOCK

LOG_NOISE: Final = 0.02
"""Differences of ln λ between blocks of a kind that are always usual."""
FEW: Final = 4.0
"""Blocks for which what is unusual is doubled."""
OWN_RATE: Final = 1.3
"""A matrix whose Σ η differs by this factor from that of the others of its kind has a rate of its own."""
LOADED_SHARE: Final = 0.7
"""If the baseline had at least this share of a departure, the block was loaded with it."""
TOLERATED_RATIO: Final = float(np.log(4.0))
"""ln of the factor by which λ of a loaded block may differ from all others; beyond it, it was probably loaded wrongly. Also
of one that an optimizer trains whose steps have no known size."""
_SHALLOW_CASE: Final = (
    "This is the shallow feed-forward anomaly, as published for Qwen models of 3 B and above: good models have it. Check first "
    "the validation loss; if that is good, nothing has to be done."
)


def layer_outlier(window: SampleWindow, settings: LayerOutlier) -> RuleResult:
    """A block whose k or ln λ departs from the blocks beside it and from all others of its kind."""
    size = len(window.components)
    layers = _layers(window, settings)
    if not len(layers.members):
        return rule_result(np.zeros(size), 1, "k", np.full(size, np.nan), "")
    at = np.s_[..., layers.members]  # (members,), as all arrays below

    def full(values: Floats | Bools, fill: float = np.nan) -> Floats:
        out = np.full((*np.shape(values)[:-1], size), fill)
        out[at] = values
        return out  # (components,)

    with quiet():
        measures = []
        for now, noise, least in (
            (window.now("k"), window.now("k_se")[at], settings.k),
            (np.log(window.now("lambda")), LOG_NOISE, settings.log_lambda),
        ):
            departs, spread, centre = layers.departures(now)
            usual = np.sqrt(spread**2 + noise**2)
            z = settings.z * layers.caution
            strength = np.nan_to_num(np.minimum(np.abs(departs) / (z * usual), np.abs(departs) / least))
            reach = np.maximum(z * usual, least)
            measures.append((strength, departs, departs / usual, now[at], centre - reach, centre + reach))
        most = np.maximum(measures[0][0], measures[1][0])
        if not (most >= 1.0).any():
            return rule_result(full(most, 0.0), 1, "k", np.full(size, np.nan), "")  # nearly always
        # Of k and λ, the one that departs more strongly is reported; λ as itself, not as its logarithm.
        by_scale = measures[1][0] > measures[0][0]
        strength, departs, z, *shown = np.where(by_scale, measures[1], measures[0])
        value, low, high = (np.where(by_scale, np.exp(values), values) for values in shown)
        middle = np.where(by_scale, np.sqrt(low * high), (low + high) / 2.0)
        as_loaded = np.abs(np.where(by_scale, layers.start[1], layers.start[0])) >= LOADED_SHARE * np.abs(departs)
        tolerated = as_loaded & (~by_scale | (np.abs(departs) < TOLERATED_RATIO))
        # Where a kind grows from nothing, one block wakes after the other.
        own, wakes = layers.stepped_apart(window), layers.mostly(from_nothing(window))
        # Steps as large as the gradient make blocks grow as differently as their gradients are.
        unbounded = ~np.isfinite(window.now("update_max"))[..., layers.members]
        tolerated |= unbounded & by_scale & (np.abs(departs) < TOLERATED_RATIO)
        tolerated |= own | excused(window)[..., layers.members] | wakes
        shallow = layers.shallow & ~as_loaded & (departs < 0) & ~by_scale

    scale_reported, shallow_case, loaded_so = full(by_scale, 0.0), full(shallow, 0.0), full(as_loaded, 0.0)
    usually, own_rate, waking = full(middle), full(own, 0.0), full(wakes, 0.0)

    def meaning(i: int) -> str:
        column = "lambda" if scale_reported[i] else "k"
        is_now, others = apart(window.now(column)[i], usually[i])
        what = f"{'λ' if scale_reported[i] else 'k'} of this block is {is_now}, that of the others of its kind about {others}"
        if loaded_so[i]:
            return (
                f"{what}; it was so at step 0. Check first whether the model that you loaded is known for it; if not, whether "
                "this layer was loaded wrongly or rescaled. A model that was trained like this may stay so."
            )
        start = window.baseline[column][i]
        since = f"; at step 0 this block had {apart(start, window.now(column)[i])[0]}" if np.isfinite(start) else ""
        if shallow_case[i]:
            return f"{what}{since}. {_SHALLOW_CASE}"
        if own_rate[i]:
            return f"{what}{since}. It has a learning rate or a schedule of its own: if you set it so, nothing has to be done."
        if because := reason(window, i) or (FROM_NOTHING if waking[i] else None):
            return f"{what}{since}. {because}"
        return (
            f"{what}{since}. Check first the learning rate of its parameter group, then whether something rescaled or overwrote "
            "this matrix, then the gradients of this layer. If it keeps growing, go back to a checkpoint from before."
        )

    return rule_result(
        strength=full(strength, 0.0),
        severity=full(np.where(tolerated | shallow, 1, 2), 2).astype(np.int8),
        quantity=lambda i: "λ" if scale_reported[i] else "k",
        value=full(value),
        meaning=meaning,
        low=full(low),
        high=full(high),
        z=full(z),
    )


def may_depart(window: SampleWindow, settings: LayerOutlier) -> Bools:
    """Whether a block is so far from the median of its kind that `layer_outlier` may find it, shape (…, kinds)."""
    layers, found = _layers(window, settings), np.zeros(1, dtype=bool)
    if not len(layers.members):
        return found
    for values, least in ((window.now("k"), settings.k), (np.log(window.now("lambda")), settings.log_lambda)):
        by_block = at_table(values, layers.table)  # (kinds, blocks)
        far = np.abs(by_block - median_along(by_block)) >= least
        found = found | far.any(axis=-1)
    return found


def _layers(window: SampleWindow, settings: LayerOutlier) -> _Layers:
    return window.always(("layers", settings.blocks), lambda: _Layers(window, settings.blocks))


class _Layers:
    """The components of each kind by rising block, and their departures at the baseline.

    Attributes:
        table: Indices, shape (kinds, blocks), -1 after the last block of a kind.
        members: The indices in the table, shape (members,).
        shallow: Whether each member is a feed-forward matrix of a shallow block, shape (members,).
        caution: Factor of what is unusual, (members,): the spread of few blocks says little.
        start: Departures of k and of ln λ at the baseline, each of shape (members,).
    """

    def __init__(self, window: SampleWindow, least: int) -> None:
        components = window.components
        groups = [group for group in components.groups if len(group.members) >= least]
        self.table = table_of([group.members for group in groups])
        self.members = self.table[self.table >= 0]
        blocks = self.of_kinds((self.table >= 0).sum(axis=1, keepdims=True))
        self.caution = 1.0 + FEW / np.maximum(blocks, 1)
        forward = np.array([label.startswith("ffn_") for label in components.labels], dtype=bool)
        self.shallow = forward[self.members] & (components.blocks[self.members] <= LAST_SHALLOW_BLOCK)
        if len(self.members):
            with quiet():
                baseline = (window.baseline["k"], np.log(window.baseline["lambda"]))
                self.start = [self.departures(values)[0] for values in baseline]

    def departures(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """`departure` of values (components,) for each member: three arrays of shape (members,)."""
        by_block = at_table(values, self.table)  # (kinds, blocks)
        found = departure(by_block.reshape(-1, by_block.shape[-1]))
        departs, spread, centre = (one.reshape(by_block.shape)[..., self.table >= 0] for one in found)
        return departs, spread, centre

    def of_kinds(self, values: Any) -> Any:
        """The value of its kind for each member, (…, members), of those of the kinds (…, kinds, 1)."""
        return np.broadcast_to(values, (*values.shape[:-1], self.table.shape[1]))[..., self.table >= 0]

    def mostly(self, found: Bools) -> Bools:
        """Members of whose kind at least half are ``found`` (components,), shape (members,)."""
        share = np.nanmean(at_table(found.astype(float), self.table), axis=-1, keepdims=True)  # (kinds, 1)
        many: Bools = self.of_kinds(share >= MOST)
        return many

    def stepped_apart(self, window: SampleWindow) -> Bools:
        """Members whose Σ η is not that of the others of their kind: frozen for a while, or in a group with a rate of its own."""
        path = np.where(window.components.trainable, or_zero(window.now("eta_sum")), 0.0)
        of_kind = self.of_kinds(median_along(at_table(path, self.table)))
        mine = path[..., self.members]
        with quiet():
            apart: Bools = (np.abs(np.log(mine / of_kind)) > np.log(OWN_RATE)) & (mine != of_kind)
        return apart


def departure(values: Floats) -> tuple[Floats, Floats, Floats]:
    """How far each block departs from the others of its kind.

    There are two departures: from the median of up to two blocks on each side, and from the median of all blocks. The smaller
    one counts, if both have the same sign. So neither a slope over depth nor a different first half is a departure.

    Args:
        values: Shape (kinds, blocks), by rising block; NaN where there is no block.

    Returns:
        Three arrays of that shape: the departure, its usual size for the kind, and the median it departs from.

    >>> departs, _, _ = departure(np.array([[1.20, 1.21, 1.22, 0.80, 1.24, 1.25, 1.26]]))
    >>> [round(float(d), 2) for d in departs[0]]
    [-0.01, 0.0, 0.0, -0.42, 0.01, 0.01, 0.01]
    """
    width = values.shape[1]
    padded = np.full((len(values), width + 4), np.nan)  # as np.pad, in a tenth of the time
    padded[:, 2:-2] = values
    neighbours = np.stack([padded[:, i : i + width].ravel() for i in (0, 1, 3, 4)])  # (4, kinds · blocks)
    beside = median_of(neighbours).reshape(values.shape)
    overall = np.broadcast_to(median_of(values.T)[:, None], values.shape)
    local, whole = values - beside, values - overall
    agreed = np.where(local * whole > 0, np.sign(local) * np.minimum(np.abs(local), np.abs(whole)), 0.0)
    agreed = np.where(np.isfinite(values), agreed, np.nan)
    zero = np.zeros(len(values))  # both differences are from a median already
    spread = np.fmax(spread_of(local.T, zero), spread_of(whole.T, zero))  # (kinds,)
    return (
        agreed,
        np.broadcast_to(spread[:, None], values.shape),
        np.where(np.abs(local) < np.abs(whole), beside, overall),
    )
