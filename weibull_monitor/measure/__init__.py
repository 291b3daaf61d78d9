"""How weights are measured: counts of |w| by float bit pattern, and counts to fits."""

from weibull_monitor.measure.bins import Bins as Bins
from weibull_monitor.measure.bins import bins_of as bins_of
from weibull_monitor.measure.choose import count_magnitudes as count_magnitudes
from weibull_monitor.measure.choose import solve as solve
from weibull_monitor.measure.fit import WeibullFit as WeibullFit
from weibull_monitor.measure.fit import fit_weibull as fit_weibull
from weibull_monitor.measure.plain.solve import LEVELS as LEVELS
