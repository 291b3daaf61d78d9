"""Where k and λ stand: in the ranges of their kind, over the depth of the model, and beside what it began with."""

from __future__ import annotations

from typing import Any

import numpy as np

from alerts.simulated import ATTENTION, Columns, alerts_in, alerts_of, components, healthy, index
from alerts.test_rules import drifting, only_infos


def test_ranges_follow_the_kind_of_attention() -> None:
    """A median of 0.80 is what separate heads come to, and beyond anything grouped ones do."""

    def fallen(columns: list[Columns]) -> None:
        drifting(columns, ("attn_q", "attn_k"), 0.80)

    def range_of(attention: dict[str, Any]) -> set[str]:
        columns = healthy()
        fallen(columns)
        return {a.finding.severity for a in alerts_in(columns, "selection_range", attention=attention)}

    separate = ATTENTION | {"sharing": "MHA"}
    assert range_of(separate) == set()
    assert range_of(ATTENTION) == {"info"}  # no published model with grouped heads has it, but others do
    assert range_of(separate | {"qk_norm": True}) == {"info"}
    assert "selection_drift" not in {a.finding.rule for a in alerts_of(fallen, attention=separate)}


def test_models_that_begin_elsewhere_have_not_left_anything() -> None:
    """PyTorch's default initialisation begins at k = 1.375, a fine-tuned model where it was left."""
    for start in (1.375, 0.80, 1.05):
        columns = healthy()
        for now in columns:
            now["k"] += start - 1.2054
        assert only_infos(columns) == []


def test_the_shallow_anomaly_has_its_own_words_and_is_no_warning() -> None:
    columns, i = healthy(blocks=8), index(1, "ffn_gate")
    for n, now in enumerate(columns):
        now["k"][i] -= 0.018 * n
    found = alerts_in(columns, "layer_outlier", blocks=8)
    assert [(a.phase, a.finding.severity) for a in found] == [("begins", "info")]
    assert "shallow feed-forward anomaly" in found[0].finding.meaning
    late = healthy(blocks=8)
    for now in late:
        now["k"][i] = 0.60  # as it was loaded
    loaded = alerts_in(late, "layer_outlier", blocks=8)
    assert [a.finding.severity for a in loaded if a.phase == "begins"] == ["info"]
    deep = healthy(blocks=8)
    for n, now in enumerate(deep):
        now["k"][index(7, "ffn_gate")] -= 0.018 * n
    assert "warning" in {a.finding.severity for a in alerts_in(deep, "layer_outlier", blocks=8)}


def test_a_layer_that_was_loaded_at_another_scale_is_found_at_the_first_samples() -> None:
    columns, i = healthy(blocks=8), index(5, "attn_v")
    for now in columns:
        now["lambda"][i] *= 8.0
        now["rms"][i] *= 8.0
    found = alerts_in(columns, "layer_outlier", blocks=8)
    assert found[0].step == 10
    assert found[0].finding.component == components(8)[i].name
    assert found[0].finding.severity == "warning"


def test_a_slope_over_depth_is_no_outlier() -> None:
    columns = healthy(blocks=12)
    for now in columns:
        for block in range(12):
            for kind in ("attn_o", "ffn_down"):
                factor = 1.0 / np.sqrt(block + 1.0)  # a usual initialisation by depth
                now["lambda"][index(block, kind)] *= factor
                now["rms"][index(block, kind)] *= factor
    found = alerts_in(columns, "layer_outlier", blocks=12)
    assert [a for a in found if a.finding.severity != "info"] == []
