"""The formats of checkpoints: which tensors a file holds, and where in the file. Nothing in a file is ever executed.

In the order of the data:

- `locate` finds the checkpoints at a path and says which of the readers below reads each.
- `files` opens files that cannot be trusted and reads them in bounded pieces.
- `safetensors`, `torch_file` and `dcp` read the tables of the three formats; the last two use `pickles`.
- `legacy` reads what `torch.save` wrote before version 1.6; `rebuild` finds the tensors that a pickle describes.
- `foreign` names files of other formats, and says what to do.
- `tensors` has what they return: every tensor with its shape, dtype and place.
"""
