"""When the kernels cannot be used, the log says so once, and plain torch counts."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch

from weibull_monitor.measure import kernels as package
from weibull_monitor.measure.kernels import kernels_for
from weibull_monitor.measure.kernels.launch import Kernels

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_found", {})


def test_there_are_none_for_the_cpu_or_for_other_dtypes() -> None:
    assert kernels_for(torch.device("cpu"), torch.float32) is None
    assert kernels_for(GPU, torch.float64) is None
    assert kernels_for(GPU, torch.float8_e4m3fn) is None


def test_they_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WEIBULL_MONITOR_KERNELS", "0")
    assert kernels_for(GPU, torch.bfloat16) is None
    assert not caplog.records


@pytest.mark.parametrize("what", ["no Triton", "it does not compile", "it does not start"])
def test_a_failure_is_logged_once_and_plain_torch_counts(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if what == "no Triton":
        for name in [name for name in sys.modules if name.startswith("weibull_monitor.measure.kernels.")]:
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(package, name.rpartition(".")[2], raising=False)  # else it is not imported again
        monkeypatch.setitem(sys.modules, "triton", None)
    elif what == "it does not compile":

        def failing(self: Kernels, *args: Any) -> None:
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

        monkeypatch.setattr(package, "_kernels", lambda device: Kernels(torch.device("cpu")))
        monkeypatch.setattr(Kernels, "_prove", failing)
    elif torch.cuda.is_available():
        pytest.skip("the GPU is there")
    with caplog.at_level(logging.WARNING, "weibull_monitor"):
        for _ in range(3):
            assert kernels_for(GPU, torch.bfloat16) is None
        assert kernels_for(GPU, torch.float32) is None
    (record,) = caplog.records
    assert "cannot be used on cuda:0" in record.message
    assert "WEIBULL_MONITOR_KERNELS=0" in record.message
    assert what != "no Triton" or "triton" in record.message


@pytest.mark.parametrize("wrong", ["count", "solve", "tally", "compare"])
def test_kernels_that_compute_something_else_are_not_used(
    kernels: Kernels, wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a compiler might: each is held to plain torch before its first use."""
    broken = Kernels(kernels.device)
    right = getattr(Kernels, wrong)

    def off_by_one(self: Kernels, *args: Any, **kwargs: Any) -> None:
        right(self, *args, **kwargs)
        if wrong == "count":
            args[2][2, 9000] += 1
        elif wrong == "solve":
            args[3][2, 0] += 1e-3
        elif wrong == "compare":
            args[3][1, 2] += 1
        else:
            args[2][1, 3] += 1

    monkeypatch.setattr(Kernels, wrong, off_by_one)
    monkeypatch.setattr(package, "_kernels", lambda device: broken)
    with caplog.at_level(logging.WARNING, "weibull_monitor"):
        assert kernels_for(GPU, torch.bfloat16) is None
    what = {"tally": "find grids of", "compare": "compare elements of"}.get(wrong, wrong)
    assert f"the kernel does not {what} torch.bfloat16 as plain torch does" in caplog.text
    monkeypatch.setattr(Kernels, wrong, right)
    assert broken.prepare(torch.bfloat16) is None
