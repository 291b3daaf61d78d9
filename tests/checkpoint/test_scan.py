"""A scan gives what a monitor of the loaded model gives: in every format, dtype and architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint.files import CONFIGS, save_dcp, small
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from weibull_monitor import WeibullMonitor
from weibull_monitor.checkpoint import scan
from weibull_monitor.checkpoint.scan import scan_all
from weibull_monitor.errors import CheckpointError, ConfigurationError
from weibull_monitor.history.snapshot import Snapshot
from weibull_monitor.measure import WeibullFit


def monitored(model: nn.Module, folder: Path, resolution: str = "auto") -> Snapshot:
    monitor = WeibullMonitor(model, output_dir=folder, resolution=resolution, alerts=False)  # type: ignore[arg-type]
    sample = monitor.sample()
    assert sample is not None
    return sample


def counts(fit: WeibullFit) -> tuple[int, ...]:
    """Integers that tell two counts apart: the checksum is of every bin."""
    return fit.checksum, fit.n, fit.zeros, fit.nonfinite


def assert_same(path: Path, expected: Snapshot, resolution: str = "auto") -> None:
    found = scan_all(path, resolution=resolution).checkpoints[0]  # type: ignore[arg-type]
    assert found.components == expected.components
    assert {n: counts(f) for n, f in found.fits.items()} == {n: counts(f) for n, f in expected.fits.items()}
    for name, fit in expected.fits.items():
        assert found.fits[name].k == pytest.approx(fit.k, rel=1e-13, nan_ok=True)
        assert found.fits[name].lambda_ == pytest.approx(fit.lambda_, rel=1e-13, nan_ok=True)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_folder_in_shards(kind: str, tmp_path: Path) -> None:
    """Fused and interleaved q, k and v; experts stored one by one and together; tied embeddings; two towers."""
    small(kind).save_pretrained(tmp_path / "model", max_shard_size="20kB")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "model")
    for resolution in ("matrix", "head"):
        assert_same(tmp_path / "model", monitored(loaded, tmp_path / resolution, resolution), resolution)


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small("gpt_neox", dtype)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    model.config.save_pretrained(tmp_path / "model")
    save_file(state, tmp_path / "model" / "model.safetensors")
    assert_same(tmp_path / "model", monitored(model, tmp_path / "run"))


def torch_save(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def torch_save_in_shards(model: nn.Module, folder: Path) -> None:
    names = list(model.state_dict())
    files = {name: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({n: t for n, t in model.state_dict().items() if files[n] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def wrapped_and_trained(model: nn.Module, folder: Path) -> None:
    """As a training loop saves: a compiled model in DDP beside its optimizer."""
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "iteration": 12}, folder / "last.pt")


def distributed(model: nn.Module, folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states, of_optimizer = get_state_dict(model, optimizer)
    save_dcp({"app": {"model": states, "optim": of_optimizer}, "step": 4}, folder)


@pytest.mark.parametrize("save", [torch_save, torch_save_in_shards, wrapped_and_trained, distributed])
def test_other_formats(save: Callable[[nn.Module, Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = small("llama")
    model.config.save_pretrained(folder)
    save(model, folder)
    assert_same(folder, monitored(model, tmp_path / "run"))


def test_an_untied_file_of_a_tied_model(tmp_path: Path) -> None:
    """The file holds the embedding under the head's name alone."""
    model = small("llama")
    state = {n: t for n, t in model.state_dict().items() if n != "model.embed_tokens.weight"}
    model.config.save_pretrained(tmp_path / "model")
    save_file(state, tmp_path / "model" / "model.safetensors")
    assert_same(tmp_path / "model", monitored(model, tmp_path / "run"))


def test_the_base_model_of_a_head(tmp_path: Path) -> None:
    """As `AutoModel.save_pretrained` writes it: without the prefix that the whole model has."""
    model = small("llama")
    model.config.save_pretrained(tmp_path / "model")
    state = {name.removeprefix("model."): t for name, t in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, tmp_path / "model" / "model.safetensors")
    assert_same(tmp_path / "model", monitored(model, tmp_path / "run"))


def test_stored_transposed(tmp_path: Path) -> None:
    """torch.save keeps strides: the elements lie column by column."""
    model = small("gpt_neox")
    for layer in model.gpt_neox.layers:
        weight = layer.attention.query_key_value.weight
        weight.data = weight.data.t().contiguous().t()
    model.config.save_pretrained(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    assert_same(tmp_path / "model", monitored(model, tmp_path / "run", "head"), "head")


@pytest.mark.parametrize("window", [64, 1024, 4096])
def test_windows_that_cut_anywhere(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor larger than what is read at once, cut within rows, heads and experts."""
    for kind in ("gpt_neox", "mixtral", "gpt_oss"):
        small(kind).save_pretrained(tmp_path / kind)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
        expected = monitored(model, tmp_path / f"run-{kind}", "head")
        with monkeypatch.context() as patch:
            patch.setattr("weibull_monitor.checkpoint.stream.WINDOW", window)
            assert_same(tmp_path / kind, expected, "head")


def test_without_a_configuration(tmp_path: Path) -> None:
    """Names and shapes alone: the stored matrices are the same, and so are their kinds and blocks."""
    for kind in CONFIGS:
        model = small(kind)
        expected = {c.name: c for c in monitored(model, tmp_path / f"run-{kind}").components if c.part is None}
        torch.save(model.state_dict(), tmp_path / f"{kind}.pt")
        found = scan_all(tmp_path / f"{kind}.pt").checkpoints[0]
        assert found.notes[:2] == ("no config.json was found", "matrices are recognised by names and shapes")
        here = {c.name: c for c in found.components if c.part is None}
        assert {n: (c.label, c.block, c.tower) for n, c in here.items()} == {
            n: (c.label, c.block, c.tower) for n, c in expected.items()
        }


def test_the_history(tmp_path: Path) -> None:
    small("llama").save_pretrained(tmp_path)
    history = scan(tmp_path, include="mlp", kinds={"up_proj": "other"})
    assert {c.kind for c in history.components} == {"ffn_gate", "other", "ffn_down"}
    assert history.runs[-1].model["source"] == str(tmp_path)
    assert history.runs[-1].model["model_type"] == "llama"
    (snapshot,), (plot,) = history.snapshots, history.plots
    assert snapshot.values("k").keys() == {c.name for c in history.components}
    assert plot.of(history.components[0].name)
    assert snapshot.seconds is not None
    assert snapshot.seconds > 0


def test_progress_ends_where_the_bytes_do(tmp_path: Path) -> None:
    small("llama").save_pretrained(tmp_path)
    told: list[tuple[str, int, int]] = []
    scan(tmp_path, progress=lambda *now: told.append(now))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == told[-1][2] > 10_000


def test_what_has_nothing_to_measure(tmp_path: Path) -> None:
    save_file({"norm.weight": torch.ones(8)}, tmp_path / "norm.safetensors")
    with pytest.raises(ConfigurationError, match="no matrix to measure"):
        scan(tmp_path / "norm.safetensors")
    save_file({"a.weight": torch.ones(8, 8, dtype=torch.int8)}, tmp_path / "int.safetensors")
    with pytest.raises(ConfigurationError, match="its dtype is I8, not a float type"):
        scan(tmp_path / "int.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        scan(tmp_path / "empty")


def test_quantised_storage_is_named_and_skipped(tmp_path: Path) -> None:
    linear = {"q_proj.weight": torch.randn(64, 64)}
    gptq = {
        "k_proj.qweight": torch.zeros(8, 64, dtype=torch.int32),
        "k_proj.qzeros": torch.zeros(1, 8, dtype=torch.int32),
        "k_proj.scales": torch.ones(4, 64, dtype=torch.float16),
    }
    fp8 = {"v_proj.weight": torch.ones(64, 64).to(torch.float8_e4m3fn), "v_proj.weight_scale_inv": torch.ones(2, 2)}
    nf4 = {
        "o_proj.weight": torch.zeros(2048, 1, dtype=torch.uint8),
        "o_proj.weight.absmax": torch.ones(64),
        "o_proj.weight.quant_map": torch.ones(16),
    }
    tensors = {f"layers.0.self_attn.{name}": t for name, t in (linear | gptq | fp8 | nf4).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = scan_all(tmp_path).checkpoints[0]
    assert [c.kind for c in found.components] == ["attn_q"]
    assert {name.split(".")[3]: reason for name, reason in found.skipped.items()} == {
        "k_proj": "its storage is quantised (GPTQ or AWQ)",
        "v_proj": "its storage is quantised (with scales apart)",
        "o_proj": "its storage is quantised (bitsandbytes 4-bit)",
    }


def test_a_configuration_of_another_model_is_not_forced(tmp_path: Path) -> None:
    small("gpt2").config.save_pretrained(tmp_path)
    save_file({"layers.0.self_attn.q_proj.weight": torch.randn(64, 64)}, tmp_path / "model.safetensors")
    found = scan_all(tmp_path).checkpoints[0]
    assert [c.kind for c in found.components] == ["attn_q"]
    assert "not those of GPT2" in found.notes[0]


def test_what_is_no_parameter_of_the_model_is_measured_by_its_name(tmp_path: Path) -> None:
    model = small("llama")
    model.config.save_pretrained(tmp_path)
    extra = {"value_head.summary.weight": torch.randn(8, 32)}
    save_file(
        {n: t for n, t in model.state_dict().items() if n != "lm_head.weight"} | extra, tmp_path / "model.safetensors"
    )
    found = scan_all(tmp_path).checkpoints[0]
    assert "value_head.summary.weight" in found.fits
    assert any("value_head.summary.weight" in note and "LlamaForCausalLM" in note for note in found.notes)


def test_adapters(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(small("llama"), peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    adapted.save_pretrained(tmp_path / "adapter")
    found = scan_all(tmp_path / "adapter").checkpoints[0]
    assert {c.kind for c in found.components} == {"adapter_a", "adapter_b"}
    expected = monitored(adapted, tmp_path / "run")
    same = {n.replace(".default", ""): counts(f) for n, f in expected.fits.items() if "lora" in n}
    assert {n: counts(f) for n, f in found.fits.items()} == same


def test_dtypes_that_cannot_be_counted_are_named_and_skipped(tmp_path: Path) -> None:
    """Every dtype of the format that is not counted, those of less than a byte included: the matrix after them is found."""
    bits = {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "F8_E8M0": 8,
        "I8": 8,
        "U16": 16,
        "I32": 32,
        "U64": 64,
        "C64": 64,
    }
    values = torch.randn(32, 32)
    header, at = {}, 0
    for kind, size in bits.items():
        header[f"of_{kind}.weight"] = {"dtype": kind, "shape": [8, 4], "data_offsets": [at, at + 4 * size]}
        at += 4 * size
    header["layers.0.mlp.up_proj.weight"] = {"dtype": "F32", "shape": [32, 32], "data_offsets": [at, at + 4096]}
    text = json.dumps(header).encode()
    data = bytes(at) + values.view(torch.uint8).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = scan_all(tmp_path).checkpoints[0]
    for kind in bits:
        assert found.skipped[f"of_{kind}.weight"] == f"its dtype is {kind}, not a float type"
    assert found.fits["layers.0.mlp.up_proj.weight"].rms == pytest.approx(
        float(values.square().mean().sqrt()), rel=1e-2
    )


def test_a_configuration_without_a_model_type(tmp_path: Path) -> None:
    """Of the time when the name of a folder told the type: the names of the tensors tell it, or their shapes."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(**sizes, vocab_size=97, max_position_embeddings=32))
    settings = {**sizes, "vocab_size": 97, "max_position_embeddings": 32, "initializer_range": 0.02}
    for name, prefix in (("named", "bert."), ("plain", "")):
        folder = tmp_path / name
        folder.mkdir()
        save_file({prefix + n: t.contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(settings))
        one = scan_all(folder).checkpoints[0]
        assert one.model["architecture"] == "encoder", one.notes
        assert one.model["initial"]
    # Settings of something else are not those of such a model.
    (tmp_path / "plain" / "config.json").write_text(json.dumps({"d_model": 32, "layers": 2}))
    one = scan_all(tmp_path / "plain").checkpoints[0]
    assert any("it names no model_type" in note for note in one.notes)
    assert "architecture" not in one.model
    (tmp_path / "plain" / "config.json").unlink()
    assert "no config.json was found" in scan_all(tmp_path / "plain").checkpoints[0].notes
