"""What small models of transformers need besides smaller numbers: settings that agree, buffers, and inputs of many sorts."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
import wild_models
from torch import Tensor, nn

from weibull_monitor.model.dataflow import example_inputs_of

FEW: Final = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token")
TOKENS: Final = 13


def fit(config: Any) -> None:
    """Makes settings agree that a smaller size set at odds."""
    values = vars(config)
    for value in list(values.values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            fit(value)
    for name in FEW:
        if name in values and (values[name] is None or (type(values[name]) is int and values[name] > 2)):
            values[name] = 2
    if (values.get("n_group") or 0) > 2:
        values["n_group"] = values["topk_group"] = 1
    hidden, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if type(hidden) is int and type(heads) is int and heads:
        code = type(config).__module__.replace("configuration_", "modeling_")
        with contextlib.suppress(ImportError):
            by_axes = '"mrope_section"' in inspect.getsource(importlib.import_module(code))
            _rotation(values, values.get("head_dim") or hidden // heads, by_axes)
    if type(hidden) is int:
        for count, size, expand in (
            ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
            ("num_heads", "head_dim", "expand"),
        ):
            if all(isinstance(values.get(name), int) for name in (count, size, expand)):
                inner = values.get("mamba_d_ssm") or values[expand] * hidden
                values[size] = max(inner // values[count], 1)
    if (
        "sliding_window" in values
        and values["sliding_window"] is None
        and "sliding_attention" in str(values.get("layer_types"))
    ):
        values["sliding_window"] = 4
    if values.get("pad_token_id", 0) is None:
        values["pad_token_id"] = 1


def _rotation(values: dict[str, Any], size: int, by_axes: bool) -> None:
    """Sections of a rotary embedding of several axes: as large together as half of what is rotated."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = values.get(name)
        if not isinstance(settings, dict) or not ("mrope_section" in settings or by_axes):
            continue
        sections = settings.get("mrope_section") or [8, 12, 12]
        whole = int(size * settings.get("partial_rotary_factor", 1.0)) // 2
        parts = [max(whole * part // sum(sections), 1) for part in sections[:-1]]
        settings["mrope_section"] = [*parts, max(whole - sum(parts), 1)]


def fill(model: nn.Module) -> None:
    """Values for a model without any: buffers as its own code makes them, normal parameters."""
    wild_models.materialise(model)
    with contextlib.suppress(Exception), torch.no_grad():
        model.initialize_weights()  # type: ignore[operator]
    wild_models.materialise(model)


def attempts(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """Inputs that a model may take: those that the package makes first, then others by the names of its arguments."""
    takes = inspect.signature(model.forward).parameters
    given = example_inputs_of(model)
    base = dict(given) if isinstance(given, Mapping) else {}
    if base:
        yield base
    config: Any = getattr(model, "config", None)
    made = {name: value for name in takes if (value := _made(name, config, takes)) is not None}
    needed = {n for n, p in takes.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    yield {**base, **{n: made[n] for n in needed if n in made}}
    for more in (
        ("input_ids",),
        ("pixel_values",),
        ("input_ids", "pixel_values"),
        ("attention_mask",),
        ("input_features",),
    ):
        if all(name in made for name in more):
            yield {**base, **{n: made[n] for n in (*needed, *more) if n in made}}
    for name in ("input_features", "input_values"):
        if name in takes:
            for bins in _bins(config):
                for shape in ((1, 64, bins), (1, bins, 64), (1, bins, 3000), (1, 1, 64, bins)):
                    yield {**base, **{n: made[n] for n in needed if n in made}, name: torch.randn(shape)}
            yield {**base, name: torch.randn(1, 1, 9600)}
    yield {name: value for name, value in made.items() if name in needed or name not in ("input_ids", "attention_mask")}


def _bins(config: Any) -> list[int]:
    """Numbers of features of a spectrogram that a configuration, or one in it, names."""
    found = []
    for holder in (config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))):
        for name in (
            "num_mel_bins",
            "n_mels",
            "feature_size",
            "input_feat_per_channel",
            "input_size",
            "input_dim",
            "mel_bins",
        ):
            value = getattr(holder, name, None)
            if type(value) is int:
                found.append(value)
    return list(dict.fromkeys(found)) or [80, 128]


def _number(config: Any, *names: str, default: int = 0) -> int:
    for name in names:
        for holder in (config, getattr(config, "vision_config", None)):
            value = getattr(holder, name, None)
            value = value[0] if isinstance(value, (list, tuple)) and value else value
            if type(value) is int:
                return value
    return default


def _made(name: str, config: Any, takes: Mapping[str, Any]) -> Any:
    """A value for an argument by its name; None if nothing is known of it."""
    patch, channels = (
        _number(config, "patch_size", default=16),
        _number(config, "in_channels", "num_channels", default=3),
    )
    wide = _number(config, "hidden_size", "d_model", "embed_dim", "input_dim", default=32)
    size = _number(config, "image_size", default=224)
    grid = torch.tensor([[1, 4, 4]])
    pixels = _number(config, "temporal_patch_size", default=1) * channels * patch * patch
    codebooks = _number(config, "num_codebooks", "num_channels")
    ids = 2 + torch.arange(TOKENS)[None]
    flat = "grid_thw" in takes or "image_grid_thw" in takes
    known: dict[str, Any] = {
        "input_ids": ids.repeat(codebooks, 1) if codebooks > 1 and "pixel_values" not in takes else ids,
        "attention_mask": torch.ones_like(ids),
        "grid_thw": grid,
        "image_grid_thw": grid,
        "merge_sizes": torch.tensor([1]),
        "hidden_states": torch.randn(16, pixels) if flat else torch.randn(1, 16, _number(config, "input_dim", default=wide)),
        "pixel_values": torch.randn(16, pixels) if flat else torch.randn(1, channels, size, size),
        "inputs_embeds": torch.randn(1, TOKENS, wide),
        "query_embeds": torch.randn(1, 4, wide),
        "visual_feats": torch.randn(1, 5, _number(config, "visual_feat_dim")),
        "visual_pos": torch.randn(1, 5, _number(config, "visual_pos_dim")),
        "input_features_mask": torch.ones(1, 64, dtype=torch.bool),
        "lang_ids": torch.zeros(1, dtype=torch.int64),
        "past_values": torch.randn(1, _number(config, "context_length"), _number(config, "num_input_channels", default=1)),
        "inputs": torch.randn(1, 20, wide),
    }  # fmt: skip
    if "spatial_shapes" in takes:
        known["spatial_shapes"] = torch.tensor([[4, 4]])
        known["pixel_attention_mask"] = torch.ones(1, 16, dtype=torch.int64)
        known["pixel_values"] = torch.randn(1, 16, channels * patch * patch)
    value = known.get(name)
    return None if isinstance(value, Tensor) and not value.numel() else value
