"""Every remark that a scan can make: a matrix that it is made of, and matrices that it is not made of."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from weibull_monitor.checkpoint.export import as_csv
from weibull_monitor.checkpoint.look.values import FP4
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.report.html.page import render as as_html
from weibull_monitor.report.text.checkpoint import render
from weibull_monitor.report.text.table import plain

Q = "layers.0.self_attn.q_proj.weight"
NF4_NEGATIVE = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0.0)
NF4_POSITIVE = (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.562617, 0.7229568, 1.0)
NF4_CODES = torch.tensor([*NF4_NEGATIVE, *NF4_POSITIVE])
FP4_CODES = torch.tensor([0.0, *FP4, *(-x for x in FP4)])


def noise(rows: int = 256, columns: int = 256, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def trained(rows: int = 256, columns: int = 256) -> Tensor:
    """Correlated rows, heavy tails, a decaying spectrum and a few large columns, as trained matrices have."""
    left, right = noise(rows, 64, 1), noise(64, columns, 2)
    spectrum = torch.arange(1, 65).pow(-0.7)
    made = noise(rows, columns, 3) + 3.0 * (left * spectrum) @ right / 0.02
    made[:, 3] *= 20.0
    return made * (1.0 + noise(rows, 1, 4).abs() * 20)


def integers(w: Tensor, most: int, size: int | None = None, dim: int = 1) -> Tensor:
    groups = w.reshape(-1, size) if size else w
    step = groups.abs().amax(dim, keepdim=True) / most
    return ((groups / step).round() * step).reshape(w.shape)


def by_codes(w: Tensor, codes: Tensor) -> Tensor:
    groups = w.reshape(-1, 64)
    largest = groups.abs().amax(1, keepdim=True)
    return (codes[(groups[:, :, None] / largest[:, :, None] - codes).abs().argmin(2)] * largest).reshape(w.shape)


def ternary(w: Tensor) -> Tensor:
    size = w.abs().mean()
    return (w / size).round().clamp(-1, 1) * size


def with_zero(w: Tensor, rows: slice | list[int] | None = None, columns: slice | list[int] | None = None) -> Tensor:
    out = w.clone()
    if rows is not None:
        out[rows] = 0.0
    if columns is not None:
        out[:, columns] = 0.0
    return out


def remark(tmp_path: Path, w: Tensor, name: str = Q) -> str:
    save_file({name: w.contiguous(), "layers.0.mlp.up_proj.weight": noise(512, 256, 9)}, tmp_path / "model.safetensors")
    return "; ".join(scan_all(tmp_path / "model.safetensors").checkpoints[0].remarks.get(name, ()))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: integers(noise(), 127), "like 8-bit integers"),
        (lambda: integers(noise(), 127, dim=0), "in a column: they look like 8-bit integers"),
        (lambda: integers(noise(), 127).bfloat16(), "like 8-bit integers"),
        (lambda: integers(noise(), 127).half(), "like 8-bit integers"),
        (lambda: integers(trained(), 7, 64), "like 4-bit integers"),
        (lambda: integers(noise(), 7, 128).half(), "in a group of 128: they look like 4-bit integers"),
        (lambda: by_codes(noise(), NF4_CODES), "in a group of 64: they look like NF4"),
        (lambda: by_codes(noise(), NF4_CODES).bfloat16(), "like NF4"),
        (lambda: by_codes(trained(), FP4_CODES), "like FP4"),
        (lambda: ternary(noise()), "ternary"),
        (lambda: ternary(trained()).bfloat16(), "ternary"),
        (lambda: noise().to(torch.float8_e4m3fn).float(), "like fp8 in a wider dtype"),
        (lambda: (noise() * 40).tanh().mul(6).round().div(6).mul(trained().abs().mean()), "few"),
    ],
)
def test_few_values(tmp_path: Path, made: object, said: str) -> None:
    text = remark(tmp_path, made())  # type: ignore[operator]
    assert "distinct values" in text
    assert said in text or said == "few"


@pytest.mark.parametrize(
    "made",
    [
        noise,
        trained,
        lambda: noise().bfloat16(),
        lambda: trained().half(),
        lambda: noise().bfloat16().float(),
        lambda: trained().half().float(),
        lambda: noise().to(torch.float8_e4m3fn),
        lambda: noise(17, 40),
        lambda: noise(64, 8),
        lambda: noise(256, 4096).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1)),
        lambda: torch.eye(64) + noise(64, 64),
        lambda: noise(64, 27).reshape(64, 3, 3, 3),
    ],
)
def test_values_of_usual_matrices_are_not_few(tmp_path: Path, made: object) -> None:
    assert "distinct" not in remark(tmp_path, made())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("w", "said"),
    [
        (with_zero(noise(), [3, 77, 78]), "3 of 256 rows are zero"),
        (with_zero(noise(), [3]), "1 of 256 rows is zero (row 3)"),
        (with_zero(noise(), None, [5, 9]), "2 of 256 columns are zero"),
        (torch.cat([noise(250), noise(6) * 1e-4]), "6 of 256 rows are below 1 % of the median RMS"),
    ],
)
@pytest.mark.parametrize("name", [Q, "some.unknown.weight"])
def test_dead_rows_and_columns_of_any_kind(tmp_path: Path, w: Tensor, said: str, name: str) -> None:
    assert said in remark(tmp_path, w, name)


@pytest.mark.parametrize("w", [with_zero(noise(), [0]), with_zero(noise(), slice(240, None)), with_zero(noise(), [1])])
def test_padding_of_an_embedding_is_not_dead(tmp_path: Path, w: Tensor) -> None:
    assert "zero" not in remark(tmp_path, w, "model.embed_tokens.weight")


def test_tokens_that_were_never_trained(tmp_path: Path) -> None:
    text = remark(tmp_path, with_zero(noise(), [5, 9, 60]), "model.embed_tokens.weight")
    assert text == "3 of 256 rows are zero: tokens that were never trained, or removed"


@pytest.mark.parametrize("w", [noise(), trained(), noise(20, 20), torch.cat([noise(250), noise(6) * 50])])
def test_living_rows_are_not_dead(tmp_path: Path, w: Tensor) -> None:
    assert remark(tmp_path, w) == ""


@pytest.mark.parametrize("shape", [(2, 512), (512, 2), (40, 3), (17, 33), (300, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_is_said_of_small_matrices_and_those_with_a_mean(
    tmp_path: Path, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    assert remark(tmp_path, noise(*shape).to(dtype)) == ""
    assert remark(tmp_path, (noise(*shape) + 0.05).to(dtype)) == ""


def test_four_bits_in_groups_of_32(tmp_path: Path) -> None:
    assert "group of 32: they look like 4-bit integers" in remark(tmp_path, integers(noise(256, 1024), 7, 32).half())


def test_share_of_zeros(tmp_path: Path) -> None:
    pruned = noise() * (noise(seed=5) > 0)
    assert "50." in remark(tmp_path, pruned) or "49." in remark(tmp_path, pruned)
    assert "zeros" in remark(tmp_path, pruned)
    some = noise()
    some[0, :3] = 0.0
    assert remark(tmp_path, some) == ""


@pytest.mark.parametrize("size", [1.0, -0.03])
def test_identity(tmp_path: Path, size: float) -> None:
    text = remark(tmp_path, size * torch.eye(256) + noise() * abs(size) * 0.1)
    assert "near a multiple of the identity" in text
    assert "distinct" not in text


@pytest.mark.parametrize(
    "w", [noise(), trained(), torch.eye(256).roll(1, 0), torch.eye(256)[:, :128], noise() + 0.1 * torch.eye(256)]
)
def test_no_identity(tmp_path: Path, w: Tensor) -> None:
    assert "identity" not in remark(tmp_path, w)


def test_one_hot(tmp_path: Path) -> None:
    assert "one-hot" in remark(tmp_path, torch.eye(256)[torch.arange(300) * 7 % 256])
    assert "one-hot" not in remark(tmp_path, noise())


@pytest.mark.parametrize(
    ("w", "said"),
    [
        (noise(256, 1) @ noise(1, 256, 1), "near rank one: all of its rows' length is in one direction"),
        (noise(256, 1) @ noise(1, 256, 1) / 0.02 + 0.1 * noise(seed=3), "near rank one"),
        (noise(256, 3) @ noise(3, 256, 1), "near rank 3"),
        (noise(4096, 4) @ noise(4, 700, 1), "near rank 4"),
    ],
)
def test_low_rank(tmp_path: Path, w: Tensor, said: str) -> None:
    assert said in remark(tmp_path, w)


@pytest.mark.parametrize(
    "w",
    [
        noise(),
        trained(),
        noise(4096, 512),
        noise(256, 4),
        noise(2, 512),
        torch.cat([noise(250), noise(1) * 100 + noise(6)]),
        noise() + 0.02,
        integers(noise(), 127),
    ],
)
def test_full_rank(tmp_path: Path, w: Tensor) -> None:
    assert "rank" not in remark(tmp_path, w)


def test_matrices_without_a_fit(tmp_path: Path) -> None:
    assert remark(tmp_path, torch.zeros(64, 64)) == "no fit: all 4096 finite values are zero"
    assert "no fit: 9 of 4096 values are finite and not zero" in remark(
        tmp_path, with_zero(noise(64, 64), slice(0, 64)) + torch.eye(64) * (torch.arange(64) < 9)
    )
    assert "no fit" not in remark(tmp_path, noise(64, 64))


def test_b_of_an_adapter_begins_at_zero(tmp_path: Path) -> None:
    name = "base_model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({name.format("A"): noise(8, 256), name.format("B"): torch.zeros(256, 8)}, tmp_path / "a.safetensors")
    remarks = scan_all(tmp_path / "a.safetensors").checkpoints[0].remarks
    assert list(remarks.values()) == [("all zero, as the B of an adapter begins",)]


def test_remarks_are_in_every_output(tmp_path: Path) -> None:
    w = {f"layers.{n}.self_attn.q_proj.weight": integers(noise(seed=n), 127) for n in range(3)}
    save_file(w | {"layers.0.mlp.up_proj.weight": noise(512)}, tmp_path / "model.safetensors")
    found = scan_all(tmp_path / "model.safetensors")
    text = " ".join(plain(render(found)).split())
    assert "remarks on 3 matrices:" in text
    assert "8-bit integers" in text
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert ["8-bit integers" in row["remarks"] for row in rows].count(True) == 3
    assert "8-bit integers" in as_html([("x", found.history)])


def test_a_matrix_that_is_larger_than_a_window(tmp_path: Path) -> None:
    w = noise(9000, 300)  # 10.8 MB: a row lies in two windows
    w[8000] = 0.0
    assert remark(tmp_path, w) == "1 of 9,000 rows is zero (row 8000)"


def test_experts_are_a_stack_and_kernels_are_not(tmp_path: Path) -> None:
    stack = noise(4 * 64, 128).reshape(4, 64, 128)
    stack[2, 5] = 0.0
    assert "1 of 256 rows is zero (row 133)" in remark(tmp_path, stack, "layers.0.mlp.experts.gate_up_proj")
    kernel = noise(64, 27).reshape(64, 3, 3, 3)
    kernel[7] = 0.0
    assert "1 of 64 rows is zero (row 7)" in remark(tmp_path, kernel, "conv.weight")


@pytest.mark.parametrize("name", ["layers.{}.self_attn.q_proj.weight", "stages.{}.odd.weight"])
def test_a_dead_layer_of_any_kind(tmp_path: Path, name: str) -> None:
    w = {name.format(n): noise(seed=n) * (1e-4 if n == 3 else 1.0 + n) for n in range(6)}
    save_file(w, tmp_path / "model.safetensors")
    remarks = scan_all(tmp_path / "model.safetensors").checkpoints[0].remarks
    assert list(remarks) == [name.format(3)]
    assert "of the median of those like it: dead" in remarks[name.format(3)][0]
