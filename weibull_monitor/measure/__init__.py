"""How weights are measured: counts of |w| by float bit pattern, and counts to fits."""

from typing import TYPE_CHECKING

from weibull_monitor.measure.weibull import LEVELS as LEVELS
from weibull_monitor.model.lazy import on_first_use

if TYPE_CHECKING:
    from weibull_monitor.measure.bins import Bins as Bins
    from weibull_monitor.measure.bins import bins_of as bins_of
    from weibull_monitor.measure.choose import count_magnitudes as count_magnitudes
    from weibull_monitor.measure.choose import solve as solve
    from weibull_monitor.measure.fit import WeibullFit as WeibullFit
    from weibull_monitor.measure.fit import fit_weibull as fit_weibull

# What needs torch is imported when it is first used: who reads a history does not wait for torch.
__getattr__ = on_first_use(
    __name__,
    {
        "bins": ("Bins", "bins_of"),
        "choose": ("count_magnitudes", "solve"),
        "fit": ("WeibullFit", "fit_weibull"),
    },
)
