"""Checkpoints measured on disk: the same counts and fits as of the loaded model, in bounded memory.

In the order of the data:

- `formats` reads the tables: which tensors a checkpoint holds, and where.
- `quantised` marks tensors whose values alone are not the weights, `buffers` masks and other tensors that are not weights.
- `config` builds the model of a ``config.json`` on the meta device, and `match` assigns the tensors to its parameters;
  without a configuration, `skeleton` makes a tree of modules from names and shapes.
- `layout` combines these: the components of the checkpoint, and where the elements of each are.
- `prefixes` gives the matrices of several checkpoints the same names.
- `stream` reads the files once and counts.
- `findings` says what is worth a look, `as_history` makes a history of the fits, `export` writes JSON and CSV.
- `scan` does all of this for one or several checkpoints.
"""

from weibull_monitor.checkpoint.scan import scan as scan
