"""λ against √(η/λ_wd): what optimizers spend, where the law puts λ, where it is going and why it moves.

In the order of the data:

- `bounds`: how far one step of each optimizer can move a weight.
- `optimizers`: the table of optimizers: the size of a step, how weight decay acts, the bound of an update, where its state is.
- `deepspeed`: which parameters of the model DeepSpeed's optimizers step, and with which learning rates.
- `resets`: whether an optimizer's own state was reset.
- `tracking`: follows the optimizers through the steps and adds up a `budget` for each parameter group.
- `budget`: I, S and Σ η of a parameter group; the budget ratio c of a matrix.
- `wire`: the same for the parameters that other ranks step, as floats.
- `learning_rates`: the learning rates to come, read from the scheduler.
- `forecast`: λ at the end of the run, and its equilibrium, from samples and the rates to come.
- `law`: all of it for every matrix at each sample.
- `kept`: what an optimizer keeps for a parameter, as floats or as codes of 8 bits.
- `forces`: the terms of AdamW's step that change the norm of a matrix, computed from the optimizer's state.
- `updates`, `update_reader`: the last update of each matrix, from the optimizer's state, fitted like the weights.
- `force_reader`: these terms for a whole model, on one rank or on many.
"""

from weibull_monitor.scaling.budget import StepInfo
from weibull_monitor.scaling.counts import steps_taken
from weibull_monitor.scaling.deepspeed import engine_of
from weibull_monitor.scaling.force_reader import ForceReader, PendingForces
from weibull_monitor.scaling.law import Outlook, ScalingLaw
from weibull_monitor.scaling.learning_rates import Rule
from weibull_monitor.scaling.optimizers import innermost
from weibull_monitor.scaling.tracking import BudgetTracker
from weibull_monitor.scaling.wire import pack, unpack

__all__ = [
    "BudgetTracker",
    "ForceReader",
    "Outlook",
    "PendingForces",
    "Rule",
    "ScalingLaw",
    "StepInfo",
    "engine_of",
    "innermost",
    "pack",
    "steps_taken",
    "unpack",
]
