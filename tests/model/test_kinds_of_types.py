"""A sample of what `benchmarks/kinds.py transformers` does over all model types: kinds by use and by name, against effects."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

SAMPLE = {
    "llama": 14,
    "gpt2": 12,
    "bert": 12,
    "t5": 32,
    "mixtral": 14,
    "gpt_oss": 14,
    "deepseek_v3": 18,
    "swin": 24,
    "gpt_neox": 12,
}
"""Model types, and how many attention and feed-forward matrices of each have a label."""


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> ModuleType:
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
    return importlib.import_module("kinds_parts.transformers_types")


@pytest.mark.parametrize("model_type", SAMPLE)
def test_kinds_are_what_effects_show(model_type: str, types: ModuleType) -> None:
    found = types.judged(model_type)
    assert found["problem"] == ""
    assert found["use"]["wrong"] == found["use"]["missed"] == found["name"]["wrong"] == found["apart"] == []
    assert found["use"]["right"] == found["use"]["matrices"] == SAMPLE[model_type]


def test_a_run_goes_on_where_it_was_cut(types: ModuleType, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    into = tmp_path / "types.jsonl"
    into.write_text('{"type": "llama", "problem": "kept"}\n{"type": "gpt')
    monkeypatch.setattr(types, "judged", lambda model_type: {"type": model_type, "problem": "judged again"})
    monkeypatch.setattr(types.wild_models, "in_child", lambda make, argument, *_: (make(argument), ""))
    found = {one["type"]: one["problem"] for one in types.all_types(["llama", "gpt2"], into, 60, 1.0)}
    assert found == {"llama": "kept", "gpt2": "judged again"}
