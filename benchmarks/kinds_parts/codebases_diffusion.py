"""Small models of diffusers: diffusion transformers, UNets and an autoencoder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kinds_parts.codebases import (
    DOWN,
    GATE,
    IN,
    NONE,
    OUT,
    UP,
    WO,
    Case,
    K,
    Q,
    V,
    codebase,
)
from kinds_parts.judge import rows, table


@codebase("diffusers", None)
def diffusers(folder: Path) -> Iterator[Case]:
    d = importlib.import_module("diffusers")
    ids = torch.zeros(16, 3)
    time, text, pooled = torch.tensor([3.0]), torch.randn(1, 6, 32), torch.randn(1, 32)
    joint = {"num_attention_heads": 4, "attention_head_dim": 12, "pooled_projection_dim": 32}
    flux = {"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": 32}
    flux_inputs = {
        "hidden_states": torch.randn(1, 16, 16), "encoder_hidden_states": text, "pooled_projections": pooled, "timestep": time,
        "img_ids": ids, "txt_ids": torch.zeros(6, 3), "guidance": time,
    }  # fmt: skip
    picture = torch.randn(1, 4, 16, 16)
    cases: list[tuple[str, Any, Any]] = [
        ("Flux", lambda: d.FluxTransformer2DModel(**flux, **joint, axes_dims_rope=(4, 4, 4), guidance_embeds=True), flux_inputs),
        (
            "SD3",
            lambda: d.SD3Transformer2DModel(
                sample_size=16, patch_size=2, in_channels=4, num_layers=2, joint_attention_dim=32,
                caption_projection_dim=48, **joint,
            ),
            {"hidden_states": picture, "encoder_hidden_states": text, "pooled_projections": pooled, "timestep": time},
        ),
        (
            "SD3.5",
            lambda: d.SD3Transformer2DModel(
                sample_size=16, patch_size=2, in_channels=4, num_layers=2, joint_attention_dim=32, caption_projection_dim=48,
                qk_norm="rms_norm", dual_attention_layers=(0,), **joint,
            ),
            {"hidden_states": picture, "encoder_hidden_states": text, "pooled_projections": pooled, "timestep": time},
        ),
        (
            "Stable Diffusion's UNet",
            lambda: d.UNet2DConditionModel(
                sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ),
            {"sample": picture, "timestep": time, "encoder_hidden_states": text},
        ),
        (
            "UNet2D",
            lambda: d.UNet2DModel(
                sample_size=16, in_channels=4, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=8,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            ),
            {"sample": picture, "timestep": time},
        ),
        (
            "DiT",
            lambda: d.DiTTransformer2DModel(
                num_attention_heads=4, attention_head_dim=12, in_channels=4, num_layers=2, sample_size=16
            ),
            {"hidden_states": picture, "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])},
        ),
        (
            "PixArt",
            lambda: d.PixArtTransformer2DModel(
                num_attention_heads=4, attention_head_dim=12, in_channels=4, num_layers=2, sample_size=16, cross_attention_dim=48,
                caption_channels=32, use_additional_conditions=False,
            ),
            {"hidden_states": picture, "timestep": torch.tensor([3]), "encoder_hidden_states": text,
             "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
        ),
        (
            "AuraFlow",
            lambda: d.AuraFlowTransformer2DModel(
                sample_size=16, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=12, num_attention_heads=4,
                joint_attention_dim=32, caption_projection_dim=48,
            ),
            {"hidden_states": picture, "timestep": time, "encoder_hidden_states": text},
        ),
        (
            "Sana",
            lambda: d.SanaTransformer2DModel(
                in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=12, num_layers=2,
                num_cross_attention_heads=4,
                cross_attention_head_dim=12, cross_attention_dim=48, caption_channels=32, sample_size=16,
            ),
            {"hidden_states": picture, "timestep": time, "encoder_hidden_states": text},
        ),
        (
            "Wan",
            lambda: d.WanTransformer3DModel(
                num_attention_heads=4, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=32, freq_dim=16, ffn_dim=64,
                num_layers=2,
            ),
            {"hidden_states": torch.randn(1, 4, 2, 8, 8), "timestep": time, "encoder_hidden_states": text},
        ),
        (
            "Lumina",
            lambda: d.LuminaNextDiT2DModel(
                sample_size=16, hidden_size=48, num_layers=2, num_attention_heads=4, num_kv_heads=2, cross_attention_dim=32
            ),
            None,
        ),
        (
            "AutoencoderKL",
            lambda: d.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4),
            {"sample": torch.randn(1, 3, 16, 16)},
        ),
    ]  # fmt: skip
    for name, make, inputs in cases:
        try:
            model = make()
        except Exception as error:
            print(f"diffusers {name}: {error}", file=sys.stderr)
            continue
        gated = {n.rsplit(".net", 1)[0] for n, m in model.named_modules() if type(m).__name__ in ("GEGLU", "SwiGLU")}
        first = lambda shape: rows(shape, 0, [UP, GATE], (2, shape[0] // 2, shape[1]))  # noqa: E731
        linear = name == "Sana"
        entries = [
            (r"single_transformer_blocks\.\d+\.proj_out", (WO, OUT, "other")),  # both, by its columns
            (r"proj_mlp", IN),
            (r"attn1\.to_[qkv]\.weight", ("mixer", "other", Q, K, V) if linear else None),
            (r"attn1\.to_out", ("mixer", "other", WO) if linear else None),
            (r"\.(?:to_q|add_q_proj)\.weight", Q),
            (r"\.(?:to_k|add_k_proj)\.weight", K),
            (r"\.(?:to_v|add_v_proj)\.weight", V),
            (r"\.(?:to_out\.0|to_add_out)\.weight", WO),
            (r"feed_forward\.linear_1|ff\w*\.linear_1", GATE),
            (r"feed_forward\.linear_3|ff\w*\.linear_2(?=.*aura)", UP),
            (r"feed_forward\.linear_2", DOWN),
            *((rf"^{path}\.net\.0\.proj", first) for path in gated),
            *((rf"^{path}\.net\.2", DOWN) for path in gated),
            (r"\.(?:ff\w*|ffn)\.net\.0\.proj", IN),
            (r"\.(?:ff\w*|ffn)\.net\.2", OUT),
            (r"ff\w*\.(?:linear_2|out_projection)|ff\.conv", (UP, DOWN, IN, OUT, GATE, "other", "mixer")),
            (r".", NONE),
        ]
        yield Case(name, model.eval(), inputs, table([(p, v) for p, v in entries if v is not None]))
