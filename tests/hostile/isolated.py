"""Runs jobs one after the other in a process of their own: what ends it, blocks it or fills its memory is a fault of one job."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hostile.running import Tally

MEGABYTES = 1000
"""Memory that a job may take, with the libraries that are loaded."""
PATIENCE = 60.0
"""Seconds after which a job that neither ends nor uses the processor is one that hangs; `running.SECONDS` bounds the rest."""
Job = tuple[str, Callable[[Tally], object]]


def run_isolated(jobs: Sequence[Job], tally: Tally) -> None:
    """Runs jobs, and counts what they came to.

    Args:
        jobs: Labels and what to run; each is given a tally that counts for it alone.
        tally: Counts all of them.
    """
    done = 0
    while done < len(jobs):
        done += _batch(jobs[done:], tally)


def _batch(jobs: Sequence[Job], tally: Tally) -> int:
    """Runs jobs in one process until one ends it. Returns how many are done, this one included."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            _serve(jobs, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    done, text, fault = 0, b"", ""
    while done < len(jobs):
        if not select.select([reading], [], [], PATIENCE)[0]:
            os.kill(child, signal.SIGKILL)
            fault = f"nothing for {PATIENCE:.0f} s"
            break
        part = os.read(reading, 1 << 20)
        if not part:
            break
        *lines, text = (text + part).split(b"\n")
        for line in lines:
            tried, read, refused, faults = json.loads(line)
            tally += Tally(tried, read, refused, faults)
            done += 1
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    if done < len(jobs):
        tally.tried += 1
        tally.faults.append(f"{jobs[done][0]}: {fault or f'the process ended with status {status}'}")
        done += 1
    return done


def _serve(jobs: Sequence[Job], writing: int) -> None:
    taken = _field("VmData:")
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (taken + (4 << 30), resource.RLIM_INFINITY))
    for label, run in jobs:
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident set from here on
        tally = Tally()
        run(tally)
        if (most := _field("VmHWM:") // 1_000_000) > MEGABYTES:
            tally.faults.append(f"{label}: {most} MB")
        answer = [tally.tried, tally.read, tally.refused, tally.faults]
        os.write(writing, json.dumps(answer).encode() + b"\n")


def _field(name: str) -> int:
    """Bytes that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
