"""The kernels run on the GPU where there is one; elsewhere Triton's interpreter runs them on the CPU, operation by operation.

What the compiler makes of them for GPUs that are not here is read, and run too: Triton brings its own assembler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not on this platform: it comes with torch on Linux")

from weibull_monitor.measure.kernels.launch import Kernels

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    return Kernels(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))


@pytest.fixture(scope="session")
def ptx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


@pytest.fixture(scope="session")
def code(ptx_folder: Path) -> list[dict[str, Any]]:
    """What there is to know about the compiled kernels; their PTX lies in the folder."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "benchmarks" / "kernel_code.py"), "--capability", "80", "90"]
    command += ["--json", "--ptx", str(ptx_folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
