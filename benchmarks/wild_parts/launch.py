"""Runs somebody's training script in this process, and writes down what it did: every loss, every step, the last weights.

    python launch.py REPORT.json SCRIPT [ARGUMENT ...]
    python launch.py REPORT.json -m MODULE [ARGUMENT ...]

It watches from below, by `torch.autograd.backward` and by the hook that torch runs after every `Optimizer.step`, so that the
script need not be changed to be compared with itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import runpy
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class Watch:
    """What is seen of a training.

    Attributes:
        losses: Every scalar that `backward` was called on, as hexadecimal digits: no bit is lost.
        clock: Wall seconds and seconds of CPU time after each optimizer step.
        optimizers: The optimizers that have stepped.
        said: What the log `weibull_monitor` said, from WARNING on.
        warned: The warnings of Python, by category and text.
    """

    def __init__(self) -> None:
        self.losses: list[str] = []
        self.clock: list[tuple[float, float]] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.said: list[str] = []
        self.warned: set[str] = set()

    def begin(self) -> None:
        """Looks from now on."""
        backward, show = torch.autograd.backward, warnings.showwarning

        def noted(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(tensors, torch.Tensor) and tensors.numel() == 1:
                self.losses.append(float(tensors.detach().double()).hex())
            return backward(tensors, *args, **kwargs)

        def stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            self.clock.append((time.perf_counter(), time.process_time()))
            if not any(optimizer is known for known in self.optimizers):
                self.optimizers.append(optimizer)

        def shown(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
            self.warned.add(f"{category.__name__}: {message}")
            show(message, category, *args, **kwargs)

        class Said(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:
                self.said.append(f"{record.levelname}: {record.getMessage()}")

        torch.autograd.backward = noted  # `Tensor.backward` looks it up at each call
        register_optimizer_step_post_hook(stepped)
        warnings.showwarning = shown
        logging.getLogger("weibull_monitor").addHandler(Said(logging.WARNING))

    def report(self) -> dict[str, Any]:
        """Everything, as JSON can hold it. The weights and the states of the generators are given as digests."""
        weights, states = hashlib.sha256(), hashlib.sha256()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    weights.update(parameter.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        states.update(torch.get_rng_state().numpy().tobytes())
        states.update(repr((random.getstate(), np.random.get_state()[1].tolist())).encode())  # noqa: NPY002
        return {
            "losses": self.losses,
            "steps": len(self.clock),
            "wall": self.clock[-1][0] - self.clock[0][0] if self.clock else 0.0,
            "cpu": self.clock[-1][1] - self.clock[0][1] if self.clock else 0.0,
            "weights": weights.hexdigest(),
            "random": states.hexdigest(),
            "said": self.said,
            "warned": sorted(self.warned),
        }


def main() -> None:
    place, script, *arguments = sys.argv[1:]
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    watch = Watch()
    watch.begin()
    sys.path[0] = os.getcwd()
    try:
        if script == "-m":
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(script).resolve().parent)  # as `python SCRIPT` does
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise
    finally:
        Path(place).write_text(json.dumps(watch.report()))


if __name__ == "__main__":
    main()
