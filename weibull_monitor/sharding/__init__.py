"""Which elements of which parameters this rank holds, and what the ranks have to agree on so that each is counted once."""

from weibull_monitor.sharding.held import Held as Held
from weibull_monitor.sharding.held import held_parameters as held_parameters
from weibull_monitor.sharding.layout import Box as Box
from weibull_monitor.sharding.layout import Flat as Flat
from weibull_monitor.sharding.layout import Grid as Grid
from weibull_monitor.sharding.layout import Layout as Layout
from weibull_monitor.sharding.ranks import Ranks as Ranks
