"""What the process that all ranks are forked from has imported, so that none of them has to.

What is not installed is passed over. DeepSpeed looks at the environment when it is imported: its extensions for the CPU would
take minutes to compile.
"""

from __future__ import annotations

import gc
import importlib
import os
import warnings
from contextlib import suppress

os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0"}

NAMES = [
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.testing",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "lightning.pytorch.strategies",
    "deepspeed",
]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in NAMES:
        with suppress(ImportError):
            importlib.import_module(name)

gc.collect()
gc.freeze()  # else each rank looks through all of it now and then, and so copies it
