"""A matrix has one name in all checkpoints of a run, whatever is before it in their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from weibull_monitor.checkpoint.prefixes import differing_prefixes
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.errors import CheckpointError


def test_a_trajectory_of_files_with_different_prefixes(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=64, max_position_embeddings=32, **sizes)
    model = BertForMaskedLM(config)
    whole = model.state_dict()
    base = {name.removeprefix("bert."): w for name, w in whole.items() if name.startswith("bert.")}
    saved = [
        base,
        whole,
        {f"module.{name}": w for name, w in base.items()},
        {f"_orig_mod.{name}": w for name, w in whole.items()},
        {"state_dict": {f"net._orig_mod.{name}": w for name, w in whole.items()}},
        {"state_dict": {f"model.{name}": w for name, w in base.items()}, "global_step": 6},
    ]
    for step, state in enumerate(saved, start=1):
        torch.save(state, tmp_path / f"step={step}.ckpt")
    found = scan_all(tmp_path).checkpoints
    first, head = set(found[0].fits), {"cls.predictions.transform.dense.weight"}
    assert [set(c.fits) - first for c in found] == [set(), head, set(), head, head, set()]
    assert all(first <= set(c.fits) for c in found)
    towers = [{c.name: (c.tower, c.block, c.label) for c in one.components if c.name in first} for one in found]
    assert all(tower == towers[0] for tower in towers)
    # The other way round: the longest names come first.
    back = scan_all([tmp_path / "step=5.ckpt", tmp_path / "step=1.ckpt"]).checkpoints
    assert {c.name for c in back[0].components} <= {c.name for c in back[1].components}


def test_other_models_are_not_taken_for_the_same(tmp_path: Path) -> None:
    torch.save({"encoder.0.weight": torch.randn(8, 8)}, tmp_path / "step=1.ckpt")
    torch.save({"decoder.proj.weight": torch.randn(8, 8)}, tmp_path / "step=2.ckpt")
    with pytest.raises(CheckpointError, match="no matrix in common"):
        scan_all(tmp_path)


def test_differing_prefixes() -> None:
    layers = {f"layers.{n}.{m}.weight" for n in range(4) for m in ("q", "k")}
    for theirs, ours in (("", "bert."), ("model.model.", "model."), ("a.b.c.d.", ""), ("x.", "y.z.")):
        found = differing_prefixes({theirs + n for n in layers}, {ours + n for n in layers})
        renamed = {found[0] + (ours + name).removeprefix(found[1]) for name in layers}
        assert renamed == {theirs + name for name in layers}
    assert differing_prefixes(layers, layers | {"head.weight"}) == ("", "")
