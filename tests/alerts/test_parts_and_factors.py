"""Fused matrices, whose parts are populations of their own, and the factors of W_q and W_k in latent attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alerts.simulated import (
    ATTENTION,
    KINDS,
    Columns,
    begun_in,
    component,
    components,
    healthy,
    index,
    scale_by,
    window_in,
)
from weibull_monitor.history.alert import Alert
from weibull_monitor.model.components import Component, Part

AT = 20
FUSED = ATTENTION | {"sharing": "MHA", "fused": True}
SIZE = len(KINDS)


def fused(blocks: int = 4) -> tuple[Component, ...]:
    """W_q, W_k and W_v of each block are parts of one parameter; the wholes come after all other components."""
    of = []
    for c in components(blocks):
        if c.kind in ("attn_q", "attn_k", "attn_v"):
            stored = f"model.layers.{c.block}.qkv.weight"
            row = 256 * ("q", "k", "v").index(c.kind[-1])
            part = Part(c.kind[-1], (768, 256), ((row, row + 256), (0, 256)))
            c = replace(c, name=f"{stored}[{c.kind[-1]}]", parameter=stored, part=part)
        of.append(c)
    wholes = (component(b, "attn_qkv", shape=(768, 256)) for b in range(blocks))
    return (
        *of,
        *(
            replace(c, name=c.name.replace("attn_qkv", "qkv"), parameter=c.parameter.replace("attn_qkv", "qkv"))
            for c in wholes
        ),
    )


def with_wholes(columns: list[Columns], blocks: int = 4) -> list[Columns]:
    """Adds columns of the wholes: those of W_v."""
    places = [*range(blocks * SIZE), *(index(b, "attn_v") for b in range(blocks))]
    return [{name: values[places] for name, values in now.items()} for now in columns]


def warnings_of(columns: list[Columns], of: tuple[Component, ...], attention: dict[str, object]) -> list[Alert]:
    return [a for a in begun_in(columns, of=of, attention=attention) if a.finding.severity != "info"]


@pytest.mark.parametrize("suddenly", [True, False])
def test_a_fused_matrix_whose_parts_are_as_before_has_no_shape_of_its_own(suddenly: bool) -> None:
    """Where W_v grows and W_q and W_k do not, the whole is a mixture of two sizes: k and R² of it fall to any value."""
    columns = with_wholes(healthy(AT + 8))
    for n, now in enumerate(columns):
        share = min(max((n - AT) / 4.0, float(suddenly and n >= AT)), 1.0) if n >= AT else 0.0
        now["k"][-4:] -= 0.6 * share
        now["r2"][-4:] -= 0.12 * share
    assert window_in(columns, of=fused(), attention=FUSED).components.whole.tolist() == [False] * 28 + [True] * 4
    assert not warnings_of(columns, fused(), FUSED)


@pytest.mark.parametrize("kind", ["attn_q", "attn_v"])
def test_what_is_written_to_a_fused_matrix_is_found_in_its_parts(kind: str) -> None:
    columns = with_wholes(healthy(AT + 4))
    for now in columns[AT:]:
        for i in (index(2, kind), 4 * SIZE + 2):
            now["k"][i] -= 0.3
            now["r2"][i] -= 0.05
    found = warnings_of(columns, fused(), FUSED)
    assert {a.step for a in found} == {10 * AT}
    assert {a.finding.component for a in found} == {f"model.layers.2.qkv.weight[{kind[-1]}]"}


def test_a_fused_matrix_with_a_part_that_is_too_small_to_be_judged_is_judged_itself() -> None:
    few = tuple(replace(c, shape=(3, 256)) if c.kind == "attn_k" else c for c in fused())
    assert not window_in(with_wholes(healthy(3)), of=few, attention=FUSED).components.whole.any()


@pytest.mark.parametrize(("kind", "found"), [("attn_q_a", False), ("attn_kv_a", False), ("attn_o", True)])
def test_a_factor_of_w_q_or_w_k_grows_with_them(kind: str, found: bool) -> None:
    """Attention that wakes grows in W_q, W_k and the matrices that they are products of; no other matrix may grow with them."""
    columns, i, awake = healthy(AT + 4), index(2, "attn_o"), index(2, "attn_q")
    for now in columns[AT:]:
        scale_by(now, 1.4, [i, awake])
    of = tuple(replace(c, kind=kind) if n == i else c for n, c in enumerate(components()))
    names = {a.finding.component for a in warnings_of(columns, of, ATTENTION) if a.finding.rule == "scale_shift"}
    assert (of[i].name in names) == found
    assert np.flatnonzero(window_in(columns[:3], of=of).components.wakes).tolist() == sorted(
        {*(index(b, k) for b in range(4) for k in ("attn_q", "attn_k")), *(() if found else (i,))}
    )
