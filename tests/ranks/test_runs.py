"""The monitor on several ranks: what it writes, what it calls, and what happens when something goes wrong on one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weibull_monitor.history.columns import WRITES

from .launch import HERE, launch


def test_the_history_of_many_ranks_is_that_of_one(tmp_path: Path) -> None:
    main, *others = launch("runs:histories", 4, tmp_path)
    alone = main["alone"]
    assert list(alone) == ["0", "2", "4", "6"]
    assert len(alone["6"]["k"]) == len(alone["6"]["eta"]) == len(alone["6"]["force_closure"]) > 15
    assert len(alone["6"]["update_k"]) == len(alone["6"]["update_ratio"]) == len(alone["6"]["k"])
    for layout in ("ddp", "fsdp2", "fsdp1_flat"):
        assert main[layout].keys() == alone.keys()
        for step, columns in alone.items():
            for column, values in columns.items():
                if column in WRITES:  # of other elements, where rows are shared (`test_writes`)
                    continue
                found = {name.replace("_fsdp_wrapped_module.", ""): v for name, v in main[layout][step][column].items()}
                if column.startswith("force"):  # sums of floats, in another order
                    values = pytest.approx(values, rel=1e-4, abs=1e-6)
                assert found == values, (layout, step, column)
    assert all(history is None for other in others for history in other.values())


def test_a_sample_is_three_all_reduces_and_makes_nothing_large(tmp_path: Path) -> None:
    for rank, found in enumerate(launch("runs:collectives", 2, tmp_path)):
        called, largest, step = found["wide"]
        assert called == ["c10d::allreduce_"] * 3
        assert largest <= 5 << 20  # the local shard of the large matrix has 16 MiB
        assert step == (2 if rank == 0 else None)
        called, largest, _ = found["many"]
        assert called == ["c10d::allreduce_"] * 3
        assert largest <= 16 << 20


def test_a_rank_that_fails_is_not_waited_for(tmp_path: Path) -> None:
    main, other = launch("runs:failures", 2, tmp_path)
    history = main["history"]
    assert list(history) == ["0", "1", "2", "3", "8"]
    down = "layers.1.mlp.down_proj[expert 0]"
    assert history["1"]["k"] == {}
    assert len(history["2"]["k"]) == len(history["0"]["k"]) > 15
    assert history["2"]["nonfinite"][down] == 0
    assert sum(history["3"]["nonfinite"].values()) > sum(history["2"]["nonfinite"].values())
    assert any("could not be read on 1 of 2 ranks" in message for message in main["messages"])
    assert any("out of memory, say" in message for message in other["messages"])
    for messages in (main["messages"], other["messages"]):
        assert any("all ranks have to count the same optimizer steps" in message for message in messages)


def test_a_monitor_that_is_not_made_everywhere_is_found_out(tmp_path: Path) -> None:
    main, other = launch("runs:not_everywhere", 2, tmp_path)
    assert "within 1 s not on rank 1 of 2" in main["alone"]
    assert "process_group=None" in main["alone"]
    assert main["by choice"]
    assert "the history cannot be written" in main["unwritable"]
    assert other["unwritable"].startswith(
        "weibull_monitor could not be set up on rank 0: the history cannot be written"
    )
    assert (main["after"], other["after"]) == (True, False)


def test_ranks_that_own_different_modules(tmp_path: Path) -> None:
    main, other = launch("runs:own_modules", 2, tmp_path)
    stages = main["stages"]
    assert {name.split(".")[1] for name in stages if name.startswith("layers")} == {"0", "1"}
    for name, (eta, weight_decay, effective, spent) in stages.items():
        expected = 2e-3 if name.startswith("layers.1") else 1e-3
        assert (eta, weight_decay) == (expected, 0.1)
        assert spent == pytest.approx(2 * expected * 0.1)
        assert effective == pytest.approx((4 * expected**2) ** 0.5, rel=1e-3)
    assert other["stages"] is None
    assert main["different"] == (("0.weight",), 64 * 64)
    read, components = main["frozen"]
    assert read == [components] * 3


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    sizes, state, before = [2, 4, 1], None, dict[str, Any]()
    for size in sizes:
        (tmp_path / "store").unlink(missing_ok=True)
        main, *others = launch("runs:resumed", size, tmp_path, state)
        history: dict[str, Any] = main["history"]
        assert history.items() >= before.items()
        state, before = (others or [main])[-1]["state"], history
    assert list(history) == ["0", "1", "2", "3", "4", "5", "6"]
    for step in ("3", "5"):
        assert history[step]["k"] == history["0"]["k"]  # no step was really taken
    runs = [json.loads(line) for line in (tmp_path / "run/weibull/history.jsonl").read_text().splitlines()]
    assert [run["world_size"] for run in runs if run["type"] == "run"] == sizes


def test_a_rank_that_is_killed_while_it_counts_ends_the_run(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(HERE / "killed.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=400)  # the process group's own timeout is half an hour
    assert done.returncode != 0
    lines = [json.loads(line) for line in (tmp_path / "weibull/history.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines if line["type"] != "plot"] == [None, 0, 1, 2]


def test_ranks_follow_an_alert_of_the_main_process_together(tmp_path: Path) -> None:
    main, other = launch("followed:an_alert", 2, tmp_path)
    assert main["asked"] == other["asked"]
    extra = [step for step, due in main["asked"] if due]
    assert 60 in main["alerts"]  # the regular sample after the fault
    assert extra[:8] == [62, 66, 68, 70, 72, 74, 76, 78]  # 64 is sampled anyway
    assert set(extra) <= set(main["steps"])


def test_a_rate_that_jumps_on_one_rank_alone_stops_nobody(tmp_path: Path) -> None:
    main, other = launch("followed:a_rate_of_one_rank", 2, tmp_path)
    assert main == other
    assert main["None"] == [1, 2, 4, 8, 16, 20, 32, 40, 60]
    assert main["True"] == [1, 2, 4, 8, 16, 20, 32, 33, 34, 36, 40, 48, 60]
