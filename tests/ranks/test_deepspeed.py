"""DeepSpeed's engine at every stage of ZeRO: counts as on one process, η and λ_wd of the step just taken."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from weibull_monitor.history.columns import UPDATES

from .launch import launch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs DeepSpeed: pip install deepspeed",
)


DTYPES = pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return launch("zero:everything", 2, tmp_path_factory.mktemp("zero"))


@DTYPES
def test_counts_are_those_of_one_process(dtype: str, results: list[Any]) -> None:
    main, other = (found[dtype]["counts"] for found in results)
    assert len(main) == 10
    for stage, (sharded, alone) in main.items():
        assert len(alone) > 60
        assert sharded == alone, stage
        assert other[stage][0] == {}


@DTYPES
def test_rates_are_those_of_the_step_taken_though_the_engine_moves_the_scheduler(
    dtype: str, results: list[Any]
) -> None:
    main, other = (found[dtype]["rates"] for found in results)
    assert list(main) == ["ZeRO-0", "ZeRO-1", "ZeRO-2", "ZeRO-3", "ZeRO-3 offloaded"]
    for stage, by_step in main.items():
        assert list(by_step) == [0, 1, 2, 3], stage
        assert set(by_step[0]) == {(None, None)}, stage
        for step in (1, 2, 3):
            assert len(by_step[step]) > 20
            assert by_step[step] == [pytest.approx((1e-3 / step, 0.1))] * len(by_step[step]), (stage, step)
    assert other == {}


def test_updates_of_partitioned_states_are_those_of_one_that_is_whole(results: list[Any]) -> None:
    found = results[0]["torch.float32"]["updates"]
    whole = found["ZeRO-0"]  # without ZeRO, every rank has the state of torch's AdamW
    assert len(whole["update_rms"]) == len(whole["update_ratio"]) > 20
    for stage in ("ZeRO-1", "ZeRO-2", "ZeRO-3", "ZeRO-3 offloaded"):
        for column in ("update_lambda", "update_rms"):  # after a few equal steps all |u| are near 1: no k
            assert found[stage][column] == pytest.approx(whole[column], rel=2e-3), (stage, column)
    in_bfloat16 = results[0]["torch.bfloat16"]["updates"]
    assert in_bfloat16.pop("ZeRO-0") == {
        column: {} for column in UPDATES
    }  # its optimizer does not say where its state is
    for stage, columns in in_bfloat16.items():
        assert columns["update_rms"].keys() == whole["update_rms"].keys(), stage
        assert all(0.05 < rms < 1.5 for rms in columns["update_rms"].values()), stage
