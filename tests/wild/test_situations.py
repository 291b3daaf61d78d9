"""Every situation under every host: the same losses, no false alert, no needless word, and every value that of an exact sort."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks.launch import launch

pytest.importorskip("accelerate", reason="needs the transformers extra")
pytest.importorskip("lightning", reason="needs the lightning extra")
pytest.importorskip("transformers", reason="needs the transformers extra")

from .checked import check
from .hosts import HOSTS, Host
from .situations import SITUATIONS, Situation

IN_SHARE = ["another optimizer", "two models"]
"""What every host is tried with on two ranks; a bare loop is tried with all that can happen there."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.name.replace(" ", "-"))
def test_one_process(situation: Situation, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(situation, host, tmp_path, monkeypatch.chdir)


@pytest.mark.parametrize(("host", "size"), [("bare", 4), ("accelerate", 2), ("transformers", 2), ("lightning", 2)])
def test_several_ranks(host: str, size: int, tmp_path: Path) -> None:
    names = [] if host == "bare" and size == 2 else IN_SHARE
    expected = len(names) or sum(s.ranks for s in SITUATIONS)
    assert launch("wild.on_ranks:checked", size, tmp_path, host, names) == [expected] * size
