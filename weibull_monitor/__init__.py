"""A thermometer for weight matrices: live Weibull shape k and scale λ of |w| for every matrix while a transformer trains."""

from weibull_monitor.components import discover_components as discover_components
from weibull_monitor.measure import fit_weibull as fit_weibull
