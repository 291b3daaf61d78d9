"""The public names: there when asked for, and torch with them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import weibull_monitor

FACE = Path(weibull_monitor.__file__).read_text(encoding="utf-8")
NAMES = [
    "Component",
    "ConfigurationError",
    "MemoryTracker",
    "MissingDependencyError",
    "Schedule",
    "Snapshot",
    "Tracker",
    "UnsupportedTensorError",
    "WeibullFit",
    "WeibullMonitor",
    "WeibullMonitorError",
    "autolog",
    "discover_components",
    "fit_weibull",
    "read_history",
]


def test_what_editors_see_is_what_there_is() -> None:
    assert sorted(re.findall(r" as (\w+)$", FACE, flags=re.MULTILINE)) == sorted(weibull_monitor.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_where_it_is_defined(name: str) -> None:
    found = getattr(weibull_monitor, name)
    assert getattr(sys.modules[found.__module__], name) is found
    assert name in dir(weibull_monitor)


def test_what_does_not_exist_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="module 'weibull_monitor' has no attribute 'fit_weibul'"):
        weibull_monitor.fit_weibul  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'weibull_monitor'"):
        from weibull_monitor import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_torch_comes_with_the_first_name() -> None:
    program = "import sys, weibull_monitor as w; before = 'torch' in sys.modules; found = w.fit_weibull; "
    program += "print(before, 'torch' in sys.modules, w.measure.fit_weibull is found)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True True\n"
