"""What matrices do in the models of transformers is what their names say, where these are known to be right."""

from __future__ import annotations

import pytest
from tiny_models import CAUSAL, causal

from weibull_monitor.model.components import discover_components


@pytest.mark.parametrize("family", CAUSAL)
def test_use_and_names_agree(family: str) -> None:
    model = causal(family)
    by_use = {c.name: c for c in discover_components(model)}
    by_name = {c.name: c for c in discover_components(model, example_inputs=False)}
    assert {n: c.label for n, c in by_use.items() if c.part is None} == {
        n: c.label for n, c in by_name.items() if c.part is None
    }
    # Names do not know every layout: what they do not know they leave whole.
    assert {n: c.label for n, c in by_name.items() if c.part}.items() <= {n: c.label for n, c in by_use.items()}.items()
    roles = [c for c in by_use.values() if c.kind.startswith(("attn_", "ffn_"))]
    assert roles
    assert all(c.evidence == "use" for c in roles)
