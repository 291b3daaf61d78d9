"""Which elements of which parameters this rank holds, and what the ranks have to agree on so that each is counted once."""

from weibull_monitor.model.sharding.layout import Box as Box
from weibull_monitor.model.sharding.layout import Flat as Flat
from weibull_monitor.model.sharding.layout import Grid as Grid
from weibull_monitor.model.sharding.layout import Layout as Layout
from weibull_monitor.model.sharding.local import local_parameters as local_parameters
from weibull_monitor.model.sharding.parameter import LocalParameter as LocalParameter
from weibull_monitor.model.sharding.ranks import Ranks as Ranks
