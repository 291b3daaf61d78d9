"""Masks, tables of positions, and scales and zero points of quantisers are not matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint.files import small
from checkpoint.test_scan import monitored
from safetensors.torch import save_file
from torch import Tensor

from weibull_monitor.checkpoint.buffers import BUFFER, FLAT, IGNORED, SCALE
from weibull_monitor.checkpoint.scan import scan_all

SIZE = 32
TRIL = torch.ones(1, 1, SIZE, SIZE).tril()
LINEAR = {"layers.0.self_attn.q_proj.weight": torch.randn(SIZE, SIZE)}


def skipped(tensors: dict[str, Tensor], path: Path) -> dict[str, str]:
    """The tensors beside a linear layer that are skipped; all of them have to be."""
    save_file(LINEAR | tensors, path / "model.safetensors")
    found = scan_all(path / "model.safetensors").checkpoints[0]
    assert list(found.fits) == list(LINEAR)
    return dict(found.skipped)


MASKS = {
    "ones and zeros": TRIL,
    "half precision": TRIL.half(),
    "minus infinity": torch.zeros(SIZE, SIZE).masked_fill(TRIL[0, 0] == 0, float("-inf")),
    "smallest float": torch.zeros(SIZE, SIZE).masked_fill(TRIL[0, 0] == 0, torch.finfo(torch.float32).min),
    "swin": torch.zeros(4, 49, 49).masked_fill(torch.rand(4, 49, 49) < 0.5, -100.0),
    "constant": torch.full((SIZE, SIZE), 0.7),
    "two values": torch.where(TRIL[0, 0] > 0, 0.25, 3.0),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_any_name(name: str, tmp_path: Path) -> None:
    assert skipped({"layers.0.self_attn.bias": MASKS[name].contiguous()}, tmp_path) == {"layers.0.self_attn.bias": FLAT}


def test_a_matrix_that_is_zero_or_diverged_stays(tmp_path: Path) -> None:
    """Both are findings. So is a ternary matrix whose parameter the model's class has."""
    nan = torch.full((SIZE, SIZE), float("nan"))
    nan[0] = 0.0  # the row of the padding
    tensors = {"layers.1.q_proj.weight": torch.zeros(SIZE, SIZE), "layers.1.k_proj.weight": nan}
    save_file(LINEAR | tensors, tmp_path / "model.safetensors")
    found = scan_all(tmp_path / "model.safetensors").checkpoints[0]
    assert set(found.fits) == {*LINEAR, *tensors}
    assert {f.rule for f in found.findings} >= {"zero", "nonfinite"}
    model = small("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(0.5)
    model.save_pretrained(tmp_path / "model")
    measured = scan_all(tmp_path / "model").checkpoints[0]
    assert measured.fits.keys() == monitored(model, tmp_path / "run").fits.keys()


def test_buffers_by_their_names(tmp_path: Path) -> None:
    table = torch.randn(SIZE, SIZE)
    names = [
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
        "attn.masked_bias",
        "alibi",
        "pos_encoder.pe",
        "freqs_cos",
    ]
    tensors = {f"layers.0.{name}": table + n for n, name in enumerate(names)}
    assert skipped(tensors, tmp_path) == dict.fromkeys(tensors, BUFFER)


def test_what_the_class_of_the_model_ignores(tmp_path: Path) -> None:
    """Its buffers by pattern; whole layers that it ignores too are measured."""
    model = small("gpt2")
    model._keys_to_ignore_on_load_unexpected = {"attn.bias", "mtp"}
    model.config.save_pretrained(tmp_path)
    state = {n: w for n, w in model.state_dict().items() if n != "lm_head.weight"}
    state |= {"transformer.h.0.attn.bias": torch.randn(1, 1, 4, 4), "mtp.0.proj.weight": torch.randn(32, 32)}
    save_file(state, tmp_path / "model.safetensors")
    found = scan_all(tmp_path).checkpoints[0]
    assert found.skipped["transformer.h.0.attn.bias"] == IGNORED
    assert "mtp.0.proj.weight" in found.fits


INT8, UINT8, INT32 = (torch.randint(0, 100, (SIZE, SIZE)).to(d) for d in (torch.int8, torch.uint8, torch.int32))
GROUPS = torch.rand(SIZE, 4) + 0.5
QUANTISED: dict[str, tuple[dict[str, Tensor], str]] = {
    "GPTQ": ({"qweight": INT32, "qzeros": INT32.clone(), "scales": GROUPS.half()}, "GPTQ or AWQ"),
    "AWQ": ({"qweight": INT32, "scales": GROUPS, "qzeros": INT32.clone()}, "GPTQ or AWQ"),
    "HQQ": ({"W_q": UINT8, "scale": GROUPS, "zero": GROUPS + 1}, "HQQ"),
    "quanto": ({"weight._data": INT8, "weight._scale": GROUPS, "weight._shift": GROUPS + 1}, "quanto"),
    "torchao": ({"weight._qdata": INT8, "weight._scale": GROUPS}, "torchao"),
    "torchao in safetensors": ({"_weight_qdata": INT8, "_weight_scale": GROUPS}, "torchao"),
    "MLX": ({"weight": INT32, "scales": GROUPS.half(), "biases": GROUPS.half() + 1}, "MLX"),
    "int8": ({"weight": INT8, "scale": GROUPS}, "with scales apart"),
    "int8 of its own": ({"weight": INT8, "my_table": GROUPS}, "with scales apart"),
    "fp8": (
        {"weight": torch.randn(SIZE, SIZE).to(torch.float8_e4m3fn), "weight_scale_inv": GROUPS},
        "with scales apart",
    ),
    "compressed-tensors": ({"weight_packed": INT32, "weight_scale": GROUPS}, "with scales apart"),
    "bitsandbytes 8-bit": ({"weight": INT8, "SCB": GROUPS[:, 0].contiguous()}, "bitsandbytes 8-bit"),
}


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_quantised_modules(name: str, suffix: str, tmp_path: Path) -> None:
    tensors, label = QUANTISED[name]
    named = {f"layers.0.mlp.up_proj.{n}": t for n, t in tensors.items()} | {
        "layers.0.mlp.up_proj.bias": torch.randn(SIZE)
    }
    if suffix == "pt":
        torch.save(LINEAR | named, tmp_path / "model.pt")
        found = dict(scan_all(tmp_path / "model.pt").checkpoints[0].skipped)
    else:
        found = skipped(named, tmp_path)
    assert found == {n: f"its storage is quantised ({label})" for n, t in named.items() if t.dim() > 1}


def test_scales_without_their_matrix(tmp_path: Path) -> None:
    tensors = {"up.weight_scale": GROUPS, "up.input_scale": GROUPS + 1, "attn.k_scale": GROUPS + 2}
    assert skipped(tensors, tmp_path) == dict.fromkeys(tensors, SCALE)


def test_floats_of_one_byte_without_scales_are_weights(tmp_path: Path) -> None:
    save_file(LINEAR | {"up.weight": torch.randn(64, 64).to(torch.float8_e4m3fn)}, tmp_path / "m.safetensors")
    assert "up.weight" in scan_all(tmp_path / "m.safetensors").checkpoints[0].fits
