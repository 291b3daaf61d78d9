"""Which elements of each parameter this rank holds, and how the ranks agree on who counts them."""

from weibull_monitor.model.sharding.fsdp1 import inside as inside
from weibull_monitor.model.sharding.join import UNDER_JOIN as UNDER_JOIN
from weibull_monitor.model.sharding.join import JoinWatch as JoinWatch
from weibull_monitor.model.sharding.layout import Box as Box
from weibull_monitor.model.sharding.layout import Flat as Flat
from weibull_monitor.model.sharding.layout import Grid as Grid
from weibull_monitor.model.sharding.layout import Layout as Layout
from weibull_monitor.model.sharding.local import ParameterWatch as ParameterWatch
from weibull_monitor.model.sharding.local import local_parameters as local_parameters
from weibull_monitor.model.sharding.parameter import LocalParameter as LocalParameter
from weibull_monitor.model.sharding.ranks import Ranks as Ranks
