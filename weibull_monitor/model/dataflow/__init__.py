"""What matrices do in a forward pass, which is followed without data and without weights.

In the order of the data: `clone` copies a model's modules without its weights, `inputs` finds something to run it with, `follow`
runs it with `mode` and `rules` (with `moves`, `elementwise`, `sums`, `crossed`, `sampled`, `contract`, `products`, `writes`,
`making` and `weights`), which note in a `graph` where every element of every tensor came from; `roles` reads off what the rows
of each parameter did, and `verdict` their kinds and parts, as `boxes`.
"""

from weibull_monitor.model.dataflow.follow import SECONDS as SECONDS
from weibull_monitor.model.dataflow.follow import Pass as Pass
from weibull_monitor.model.dataflow.follow import follow as follow
from weibull_monitor.model.dataflow.inputs import Called as Called
from weibull_monitor.model.dataflow.inputs import Inputs as Inputs
from weibull_monitor.model.dataflow.inputs import example_inputs_of as example_inputs_of
from weibull_monitor.model.dataflow.inputs import is_tower as is_tower
from weibull_monitor.model.dataflow.inputs import parts_of as parts_of
from weibull_monitor.model.dataflow.verdict import Verdict as Verdict
from weibull_monitor.model.dataflow.verdict import verdicts as verdicts
