"""The limits of the process that builds models from configurations: no network, no other programs, bounded time and memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

OFFLINE: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_KERNEL_MAPPING": "1",
    "USE_HUB_KERNELS": "NO",
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
"""Environment variables of the process, which libraries for the hub and for devices respect."""
_REFUSED: Final = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostby",
    "socket.sendto",
    "socket.sendmsg",
    "socket.bind",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.startfile",
    "pty.spawn",
    "urllib.Request",
    "ftplib.connect",
    "http.client.connect",
)
"""Beginnings of the audit events of https://docs.python.org/3/library/audit_events.html that are refused."""


def refuse_contacts() -> None:
    """From here on, connections and other programs raise an error in this process. This cannot be taken back."""

    def hook(event: str, _: object) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"{event} is refused while a model is built from a configuration")

    sys.addaudithook(hook)


def environment(cache: str) -> dict[str, str]:
    """The environment of the process: that of this one, offline, with an empty cache of the hub, without credentials of it.

    Args:
        cache: An empty directory.
    """
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    return {**kept, **OFFLINE, "HF_HOME": cache}


def limit(megabytes: int, seconds: int) -> None:
    """Bounds what this process may take from here on; what it has taken so far does not count.

    Memory is bounded on Linux; time wherever there is `resource`.

    Args:
        megabytes: Memory.
        seconds: Time of the processor.
    """
    try:
        import resource
    except ImportError:  # Windows: the process that waits for this one bounds its time
        return
    _set(resource, "RLIMIT_CPU", int(time.process_time()) + 1 + seconds)
    _set(resource, "RLIMIT_CORE", 0)
    if (taken := _data_of_this_process()) is not None:
        _set(resource, "RLIMIT_DATA", taken + (megabytes << 20))


def _set(resource: Any, name: str, soft: int) -> None:
    number = getattr(resource, name, None)
    if number is None:
        return
    hard = resource.getrlimit(number)[1]
    resource.setrlimit(number, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _data_of_this_process() -> int | None:
    """Bytes of private writable memory, as Linux counts them for RLIMIT_DATA; None elsewhere."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmData:")]
    return int(lines[0].split()[1]) << 10 if lines else None
