"""The kernels run on the GPU where there is one; elsewhere Triton's interpreter runs them on the CPU, operation by operation."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not on this platform: it comes with torch on Linux")

from weibull_monitor.measure.kernels.launch import Kernels


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    return Kernels(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
