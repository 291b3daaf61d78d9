"""Sentences on single matrices of a checkpoint, for its tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from weibull_monitor.checkpoint.look.matrix import DEAD, Structure
from weibull_monitor.checkpoint.look.values import FewValues
from weibull_monitor.measure import WeibullFit
from weibull_monitor.model.components import Component

MANY_ZEROS: Final = 0.01
"""Share of values that are zero from which on it is said."""
IDENTITY: Final = 0.9
"""Share of Σ w² in a multiple of the identity from which on a matrix is near it."""
ONE_DIRECTION: Final = 0.9
"""Share of the rows' length in one direction from which on a matrix is near rank one."""
FEW_DIRECTIONS: Final = 0.99
"""The same for several directions."""
PEERS: Final = 4
"""Matrices of a kind that are needed to say what is usual."""
_NUMBER: Final = re.compile(r"\d+")
_TOKENS: Final = ("embedding", "lm_head")


def remarks_on(
    components: Sequence[Component], fits: Mapping[str, WeibullFit], structures: Mapping[str, Structure]
) -> dict[str, tuple[str, ...]]:
    """What is odd about matrices, in sentences without a full stop, by name; those that are as usual are left out.

    Args:
        components: The components that were measured.
        fits: The fit of each, by name.
        structures: What was seen of stored matrices, by the name of their parameter.
    """
    found = {}
    usual = _usual_rms(components, fits)
    for c in components:
        if c.name not in fits:
            continue
        structure = structures.get(c.parameter) if c.part is None else None
        fit = fits[c.name]
        if texts := [*_unfitted(c, fit), *_faint(fit, usual.get(_peers(c))), *_of_values(c, fit, structure)]:
            found[c.name] = tuple(texts)
    return found


def _unfitted(c: Component, fit: WeibullFit) -> list[str]:
    if fit.available:
        return []
    begins = c.kind == "adapter_b" and not fit.n
    return ["all zero, as the B of an adapter begins" if begins else f"no fit: {fit.reason}"]


def _peers(c: Component) -> tuple[object, ...]:
    """What matrices of one kind have in common; of those of no kind, the name but for its numbers."""
    same = _NUMBER.sub("#", c.name) if c.kind == "other" else c.label
    return c.tower, same, c.part is None, c.shape


def _usual_rms(components: Sequence[Component], fits: Mapping[str, WeibullFit]) -> dict[tuple[object, ...], float]:
    """The median RMS of peers, where there are enough."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for c in components:
        if c.name in fits and c.kind != "embedding" and not c.kind.startswith("adapter"):
            groups.setdefault(_peers(c), []).append(fits[c.name].rms)
    return {peers: median(all_) for peers, all_ in groups.items() if len(all_) >= PEERS}


def _faint(fit: WeibullFit, usual: float | None) -> list[str]:
    if not usual or not fit.n or not fit.rms < DEAD * usual:
        return []
    return [f"its RMS is {100 * fit.rms / usual:.1g} % of the median of those like it: dead, or not trained"]


def _of_values(c: Component, fit: WeibullFit, structure: Structure | None) -> list[str]:
    if not fit.n:
        return []
    zeros = fit.zeros / max(1, fit.n + fit.zeros)
    if structure is None:
        return [f"{_percent(zeros)} zeros"] if zeros >= MANY_ZEROS else []
    if structure.equal_rows and fit.n == structure.rows and structure.identity < IDENTITY:
        return ["one-hot: each row has one value that is not zero, and all of these are equal"]
    texts = [*_dead(c, structure, zeros)]
    explained = 1.0 - _alive(structure)
    if zeros >= MANY_ZEROS and zeros > 1.5 * explained:
        texts.append(f"{_percent(zeros)} zeros")
    if structure.identity >= IDENTITY:
        return [*texts, f"near a multiple of the identity, which holds {_percent(structure.identity)} of Σ w²"]
    if structure.values is not None and structure.values.quantised:
        texts.append(_few(structure.values))
    return [*texts, *_rank(structure.directions)]


def _alive(structure: Structure) -> float:
    """The share of the elements that are in no dead row and no dead column."""
    rows = 1.0 - len(structure.dead_rows) / structure.rows
    return rows * (1.0 - len(structure.dead_columns) / structure.columns)


def _dead(c: Component, structure: Structure, zeros: float) -> list[str]:
    texts = []
    for places, of, word in (
        (structure.dead_rows, structure.rows, "row"),
        (structure.dead_columns, structure.columns, "column"),
    ):
        tokens = c.kind in _TOKENS and word == "row"
        if not places or (tokens and _padding(places, of)):
            continue
        nothing = "zero" if zeros * structure.rows * structure.columns >= len(places) else "below 1 % of the median RMS"
        where = f" ({word} {places[0]})" if len(places) == 1 else ""
        never = ": tokens that were never trained, or removed" if tokens else ""
        texts.append(f"{len(places):,} of {of:,} {word}s {'is' if len(places) == 1 else 'are'} {nothing}{where}{never}")
    return texts


def _padding(places: Sequence[int], of: int) -> bool:
    """Whether rows are one token, or fill a table up to its end: padding."""
    return len(places) == 1 or list(places) == list(range(of - len(places), of))


def _few(values: FewValues) -> str:
    known = {
        "ternary": "two magnitudes of opposite sign, with zeros: ternary",
        "fp8": "they look like fp8 in a wider dtype",
        "": "repeated, as those of a table, a symmetric filter or a quantiser",
    }
    looks = known.get(values.looks, f"they look like {values.looks}, dequantised")
    unit = f"a {values.unit}"
    return f"{values.distinct:,} distinct values among {values.of:,} in {unit}: {looks}"


def _rank(directions: Sequence[float]) -> list[str]:
    if not directions:
        return []
    if directions[0] >= ONE_DIRECTION:
        return [f"near rank one: {_percent(directions[0])} of its rows' length is in one direction"]
    enough = next((n for n, share in enumerate(directions, start=1) if share >= FEW_DIRECTIONS), None)
    if enough is None:
        return []
    return [f"near rank {enough}: {_percent(directions[enough - 1])} of its rows' length is in {enough} directions"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.9995 else "all" if share >= 0.99999 else "99.9 %"
