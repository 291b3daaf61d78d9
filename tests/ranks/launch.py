"""Runs a function on real processes that talk over gloo, and gives back what each returned."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import traceback
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HERE = Path(__file__).parent


def launch(function: str, size: int, directory: Path, *args: Any, timeout: float = 180.0) -> list[Any]:
    """What ``module:function(directory, *args)`` returned on every rank.

    Args:
        function: ``module:name`` of a function in this directory.
        size: Number of processes.
        directory: Where the processes may write.
        args: Passed on; must be picklable.
        timeout: Seconds a collective may take.
    """
    (directory / "results").mkdir(parents=True, exist_ok=True)
    _server()
    passed = (dict(os.environ), function, size, str(directory), args, timeout)
    mp.start_processes(_run, args=passed, nprocs=size, join=True, start_method="forkserver")
    return [torch.load(directory / "results" / str(rank), weights_only=False) for rank in range(size)]


def _server() -> Any:
    """Starts the process that the others are forked from, if it is not there yet."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["ranks.preloaded"])
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with mock.patch.dict(os.environ, PYTHONPATH=path):  # before Python 3.13 the server does not get sys.path
        forkserver.ensure_running()
    return context


def started(script: str, *arguments: str, prints_to: str = os.devnull) -> Any:
    """A process that executes a script, which has been started; what it prints goes into a file."""
    process = _server().Process(target=_script, args=(dict(os.environ), script, arguments, prints_to))
    process.start()
    return process


def _script(environment: dict[str, str], script: str, arguments: tuple[str, ...], prints_to: str) -> None:
    file = os.open(prints_to, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= environment
    torch.set_num_threads(1)
    sys.path[:0] = [str(Path(script).parent)]
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()


def _run(
    rank: int,
    environment: dict[str, str],
    function: str,
    size: int,
    directory: str,
    args: tuple[Any, ...],
    timeout: float,
) -> None:
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    torch.set_num_threads(1)
    torch.manual_seed(0)  # a process of a fork server begins with a seed of its own
    os.environ |= environment
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    store = dist.FileStore(str(Path(directory, "store")), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    module, name = function.split(":")
    try:
        result = getattr(importlib.import_module(module), name)(Path(directory), *args)
        torch.save(result, Path(directory, "results", str(rank)))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        raise
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort a process that takes itself down in the usual way
