"""How weights are measured: counts of |w| by float bit pattern, and counts to fits."""

from typing import TYPE_CHECKING, Any

from weibull_monitor.measure.weibull import LEVELS as LEVELS

if TYPE_CHECKING:
    from weibull_monitor.measure.bins import Bins as Bins
    from weibull_monitor.measure.bins import bins_of as bins_of
    from weibull_monitor.measure.choose import count_magnitudes as count_magnitudes
    from weibull_monitor.measure.choose import solve as solve
    from weibull_monitor.measure.fit import WeibullFit as WeibullFit
    from weibull_monitor.measure.fit import fit_weibull as fit_weibull

_OF_WEIGHTS = {
    "bins": ("Bins", "bins_of"),
    "choose": ("count_magnitudes", "solve"),
    "fit": ("WeibullFit", "fit_weibull"),
}
"""What needs torch, by module. It is imported when it is first used: who reads a history does not wait for torch."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for module, names in _OF_WEIGHTS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
