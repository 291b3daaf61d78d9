"""The real Trainers on two processes: the history is that of the gathered weights, to the last bit, at the right rates."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from weibull_monitor import read_history

from .launch import launch

pytest.importorskip("transformers", reason="needs the transformers extra")
pytest.importorskip("accelerate", reason="needs the transformers extra")

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs DeepSpeed: pip install deepspeed",
)
ENGINES = [
    ["ddp"],
    ["fsdp2"],
    ["fsdp1", "fsdp1_flat"],
    pytest.param(["zero2", "zero3"], marks=needs_deepspeed),
]
STRATEGIES = [
    ["ddp"],
    ["model_parallel"],
    ["fsdp"],
    pytest.param(["deepspeed2", "deepspeed3"], marks=needs_deepspeed),
]


def agree(history: dict[int, Any], fits: dict[int, Any], name: str) -> None:
    """k and λ of every sample after the baseline are those of the gathered weights."""
    for step in list(history)[1:]:
        columns = history[step]
        assert len(fits[step]) > 10, name
        for matrix, (k, lambda_) in fits[step].items():
            assert columns["k"][matrix] == pytest.approx(k, rel=1e-8), (name, step, matrix)
            assert columns["lambda"][matrix] == pytest.approx(lambda_, rel=1e-8), (name, step, matrix)


@pytest.mark.parametrize("engines", ENGINES, ids="-".join)
def test_the_hugging_face_trainer(engines: list[str], tmp_path: Path) -> None:
    main, other = launch("hosts:with_the_trainer", 2, tmp_path, engines)
    for name in engines:
        found = main[name]
        history = found["history"]
        assert list(history) == [0, 1, 2, 4, 6], name
        agree(history, found["fits"], name)
        agree({0: {}, **found["resumed"]}, found["fits"] | found["again"], name)
        if not name.startswith("fsdp1"):  # of which the Trainer does not resume a sharded state exactly
            assert found["resumed"] == history, name  # the second half was trained again, from the checkpoint
        for step in (1, 2, 4, 6):
            matrices = len(history[step]["k"])
            assert list(history[step]["eta"].values()) == pytest.approx([found["rates"][step]] * matrices), (name, step)
            assert list(history[step]["weight_decay"].values()) == [0.1] * matrices, (name, step)
        assert other[name]["history"] == {}
        assert {run.world_size for run in read_history(tmp_path / name).runs} == {2}


def test_all_ranks_stop_at_the_same_step(tmp_path: Path) -> None:
    """Only the main one has seen the alert; training ends on both, with one checkpoint."""
    assert launch("stop:stopped", 2, tmp_path) == [{"is main": True, "step": 4}, {"is main": False, "step": 4}]
    assert (tmp_path / "run/checkpoint-4/model.safetensors").is_file()


@pytest.mark.parametrize("strategies", STRATEGIES, ids="-".join)
def test_lightning(strategies: list[str], tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the lightning extra")
    main, other = launch("lit:with_the_trainer", 2, tmp_path, strategies)
    for name in strategies:
        found = main[name]
        history = found["history"]
        assert found["steps"] == 6, name
        assert list(history) == [0, 1, 2, 4, 6], name
        agree(history, found["fits"], name)
        for step in list(history)[1:]:
            matrices = len(history[step]["k"])
            assert list(history[step]["eta"].values()) == pytest.approx([1e-2 / step] * matrices), (name, step)
            assert list(history[step]["weight_decay"].values()) == [0.1] * matrices, (name, step)
        assert other[name]["history"] == {}
        assert [run.world_size for run in read_history(tmp_path / name).runs] == [2]


def test_accelerate_and_a_bare_loop(tmp_path: Path) -> None:
    main, other = launch("loops:all_loops", 2, tmp_path)
    assert list(main) == ["accelerate ddp", "accelerate fsdp2", "accelerate fsdp1", "bare fsdp2"]
    for name, found in main.items():
        history = found["history"]
        assert list(history) == [0, 1, 2, 4, 6], name
        agree(history, found["fits"], name)
        for step in list(history)[1:]:
            matrices = len(history[step]["k"])
            assert list(history[step]["eta"].values()) == pytest.approx([1e-2 / step] * matrices), (name, step)
        assert other[name]["history"] == {}


def test_a_bare_loop_on_a_mesh_of_two_dimensions(tmp_path: Path) -> None:
    main, *_ = launch("loops:on_a_mesh", 4, tmp_path)
    assert list(main["history"]) == [0, 1, 2, 4, 6]
    agree(main["history"], main["fits"], "FSDP2 and tensor parallelism")


def test_what_an_fsdp1_module_outside_of_the_model_holds_is_named_and_not_mismeasured(tmp_path: Path) -> None:
    for found in launch("loops:a_part_of_fsdp1", 2, tmp_path):
        assert {"model.embed_tokens.weight", "lm_head.weight"} <= found["skipped"].keys()
        assert all("pass that module as the model" in reason for reason in found["skipped"].values())
        assert len(found["components"]) == 14
        assert all(name.startswith("model.layers.") for name in found["components"])
