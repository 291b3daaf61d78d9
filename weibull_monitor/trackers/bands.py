"""The published bands of the two classes, as curves beside k in the charts of W&B and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from weibull_monitor.model.components import Component

CLASSES: Final = ("selection", "transmission")
PREFIX: Final = "weibull_band"


def bands_of(components: Iterable[Component], attention: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The edges of the published range of k for each class of a run. A class without published figures has none.

    Args:
        components: The components of the run.
        attention: The kinds of attention of the model, as in the history's ``run`` line.

    Returns:
        ``weibull_band/<class>_low`` and ``…_high``.

    >>> from torch import nn
    >>> from weibull_monitor.model.components import discover_components
    >>> for key, edge in bands_of(discover_components(nn.TransformerEncoderLayer(8, 2, 16)), ()).items():
    ...     print(key, round(edge, 2))
    weibull_band/transmission_low 1.18
    weibull_band/transmission_high 1.2
    """
    from weibull_monitor.analysis import (
        ComparedSample,
        attention_of,
        expected_range,
    )  # 20 ms: only when needed

    members = tuple(components)
    main = ComparedSample(0, members, {}, {}, {}, {}).towers[:1]
    known = attention_of([c for c in members if c.tower in main], attention)
    edges: dict[str, float] = {}
    for name in CLASSES:
        expected = expected_range(name, known) if any(c.component_class == name for c in members) else None
        if expected is not None:
            edges |= {f"{PREFIX}/{name}_low": expected.low, f"{PREFIX}/{name}_high": expected.high}
    return edges
