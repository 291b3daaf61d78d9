"""A sample of what `benchmarks/wild_models.py` does over all model types: three steps under a monitor, against the exact sort."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SAMPLE = (
    "clip",
    "siglip",
    "blip",
    "mamba",
    "t5",
    "whisper",
    "mixtral",
    "deepseek_v3",
    "swin",
    "detr",
    "albert",
)


@pytest.fixture(scope="module")
def wild() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "wild_models.py"
    spec = importlib.util.spec_from_file_location("wild_models", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["wild_models"] = found  # its dataclasses look there
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("model_type", SAMPLE)
def test_every_fit_is_that_of_the_exact_sort(model_type: str, wild: ModuleType, tmp_path: Path) -> None:
    found = wild.measure(wild.small(model_type), tmp_path)
    assert found.fits > 5
    assert found.missing == {}
    assert max(found.worst_k, found.worst_lambda) <= 1.0
