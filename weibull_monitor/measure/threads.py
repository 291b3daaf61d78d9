"""Torch operations of one thread on that thread alone.

Counting divides the elements among Python threads. Were each of their torch operations to start an OpenMP team of its own, the
teams would fight for the cores: measured on two, the same count takes 9.7 ms alone and 12 to 24 ms with teams.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """The OpenMP runtimes of this process; looking them up takes milliseconds."""
    set_by_import = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")  # for the whole process and its children
    before = {name: os.environ.get(name) for name in set_by_import}
    from threadpoolctl import ThreadpoolController

    for name in set_by_import:
        if before[name] is None:
            os.environ.pop(name, None)
    return ThreadpoolController().select(user_api="openmp")


def alone() -> AbstractContextManager[Any]:
    """From the call to the end of the context, the calling thread's torch operations run on it alone.

    `torch.set_num_threads` would do, but it also changes the number for the rest of the process.
    """
    torch.get_num_threads()  # torch sets the number of a thread when it is first asked for: have that behind us
    limit: AbstractContextManager[Any] = _openmp().limit(limits=1)
    return limit
