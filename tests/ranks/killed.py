"""A training of which rank 1 is killed while it counts step 3; started by torchrun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from weibull_monitor import WeibullMonitor
from weibull_monitor.measure.reader import distributed as together

torch.set_num_threads(1)
dist.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)))
optimizer = torch.optim.AdamW(model.parameters())
count = together.tallied


def killed(*args: Any) -> Any:
    if dist.get_rank() == 1 and monitor._step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return count(*args)


together.tallied = killed
with WeibullMonitor(model, optimizer, output_dir=Path(sys.argv[1]), every_n_steps=1) as monitor:
    for _ in range(6):
        model(torch.randn(4, 64)).sum().backward()
        optimizer.step()
        monitor.step()
