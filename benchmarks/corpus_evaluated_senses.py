"""Families that are evaluated only, of images, sound, series and pairs of them: small models of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
import transformers
from corpus_families import VIT, WIDTH, Batch, Task, images, own_loss, pictures, windows
from corpus_own import wav2vec2
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForAudioClassification


class Pooled(nn.Module):
    """A model of transformers without a head, and a head of ours on the mean of its last hidden states."""

    def __init__(self, kind: str, width: int = WIDTH, **arguments: Any) -> None:
        super().__init__()
        self.body = AutoModel.from_config(CONFIG_MAPPING[kind](**arguments))
        self.head = nn.Linear(width, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden = self.body(pixel_values=pixel_values).last_hidden_state
        places = (2, 3) if hidden.dim() == 4 else 1  # a map of channels, or a sequence
        logits: Tensor = self.head(hidden.mean(places))
        return logits


def classified(model: nn.Module, given: Batch) -> Tensor:
    return F.cross_entropy(model(given["pixel_values"]), given["labels"])


def pooled(kind: str, batch: Any = pictures, **arguments: Any) -> Task:
    return Task(Pooled(kind, **arguments), classified, batch)


def levit() -> Task:
    def batch(random: torch.Generator, size: int) -> Batch:
        pixels, labels = images(random, size, side=64)
        return {"pixel_values": pixels, "labels": labels}

    return pooled(
        "levit", batch, image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1],
        key_dim=[16, 16, 16], down_ops=[["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 3, 4, 2, 2], [""]],
    )  # fmt: skip


def movies(random: torch.Generator, size: int) -> Batch:
    """Four pictures of a pattern that moves, shape (size, 4, 3, 32, 32)."""
    pixels, labels = images(random, size)
    moved = torch.stack([pixels.roll(2 * n, dims=3) for n in range(4)], dim=1)
    return {"pixel_values": moved + 0.5 * torch.randn(moved.shape, generator=random), "labels": labels}


def vit_mae() -> Task:
    config = CONFIG_MAPPING["vit_mae"](
        **VIT, decoder_hidden_size=48, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
        decoder_intermediate_size=96, mask_ratio=0.5,
    )  # fmt: skip

    def batch(random: torch.Generator, size: int) -> Batch:
        return {"pixel_values": images(random, size)[0], "noise": torch.rand(size, 16, generator=random)}

    return Task(transformers.ViTMAEForPreTraining(config), own_loss, batch)


def spectra() -> Task:
    """The Audio Spectrogram Transformer, which tells ten patterns of 32 mel bands apart."""
    config = CONFIG_MAPPING["audio-spectrogram-transformer"](
        hidden_size=WIDTH, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, patch_size=8,
        frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=32, num_labels=10,
    )  # fmt: skip

    def batch(random: torch.Generator, size: int) -> Batch:
        pixels, labels = images(random, size, channels=1)
        return {"input_values": pixels[:, 0], "labels": labels}

    return Task(AutoModelForAudioClassification.from_config(config), own_loss, batch)


def speech_to_text() -> Task:
    config = CONFIG_MAPPING["speech_to_text"](
        vocab_size=257, d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=160, decoder_ffn_dim=160, max_source_positions=64,
        max_target_positions=32, num_conv_layers=1, conv_kernel_sizes=[5], conv_channels=96, input_feat_per_channel=16,
        decoder_start_token_id=2,
    )  # fmt: skip
    sounds = torch.randn(256, 16, generator=torch.Generator().manual_seed(5))

    def batch(random: torch.Generator, size: int) -> Batch:
        tokens = windows(random, size, 16)
        heard = sounds[tokens].repeat_interleave(2, dim=1)  # (size, 32, 16)
        return {"input_features": heard + 0.3 * torch.randn(heard.shape, generator=random), "labels": tokens}

    return Task(transformers.Speech2TextForConditionalGeneration(config), own_loss, batch)


def moonshine() -> Task:
    config = CONFIG_MAPPING["moonshine"](
        vocab_size=257, hidden_size=WIDTH, intermediate_size=128, encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
        max_position_embeddings=64, decoder_start_token_id=1, pad_token_id=0,
    )  # fmt: skip

    def batch(random: torch.Generator, size: int) -> Batch:
        letters = torch.randint(1, 9, (size, 8), generator=random)
        time = torch.arange(512) / 512.0
        wave = torch.sin(2 * math.pi * letters.float()[:, :, None] * 12.0 * time).reshape(size, -1)  # (size, 4096)
        return {"input_values": wave + 0.1 * torch.randn(wave.shape, generator=random), "labels": letters}

    return Task(transformers.MoonshineForConditionalGeneration(config), own_loss, batch)


def waves(random: torch.Generator, size: int, length: int, channels: int) -> Tensor:
    """Sums of two sines with noise, shape (size, length, channels)."""
    time = torch.arange(float(length))[None, :, None]
    parts = [
        torch.sin(
            6.3 * torch.rand(size, 1, channels, generator=random)
            + (0.1 + 0.4 * torch.rand(size, 1, channels, generator=random)) * time
        )
        for _ in range(2)
    ]
    return parts[0] + 0.5 * parts[1] + 0.1 * torch.randn(size, length, channels, generator=random)


def forecast(kind: str, model: str, lags: int = 7, **arguments: Any) -> Task:
    """A forecaster with encoder and decoder: 32 values seen, 8 forecast."""
    config = CONFIG_MAPPING[kind](
        prediction_length=8, context_length=32, lags_sequence=[1, 2, lags], num_time_features=1, d_model=WIDTH,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=160,
        decoder_ffn_dim=160, **arguments,
    )  # fmt: skip
    past = 32 + lags

    def batch(random: torch.Generator, size: int) -> Batch:
        series = waves(random, size, past + 8, 1)[..., 0]
        time = (torch.arange(float(past + 8)) / 40.0).expand(size, -1)[..., None]
        return {
            "past_values": series[:, :past],
            "past_time_features": time[:, :past],
            "past_observed_mask": torch.ones(size, past),
            "future_values": series[:, past:],
            "future_time_features": time[:, past:],
        }

    return Task(getattr(transformers, model)(config), own_loss, batch)


def patchtsmixer() -> Task:
    config = CONFIG_MAPPING["patchtsmixer"](
        context_length=64, prediction_length=16, patch_length=8, patch_stride=8, num_input_channels=3, d_model=48,
        expansion_factor=2, num_layers=3, mode="mix_channel",
    )  # fmt: skip

    def batch(random: torch.Generator, size: int) -> Batch:
        series = waves(random, size, 80, 3)
        return {"past_values": series[:, :64], "future_values": series[:, 64:]}

    return Task(transformers.PatchTSMixerForPrediction(config), own_loss, batch)


def siglip() -> Task:
    """Pairs of images and words, with SigLIP's loss of each pair by itself."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING["siglip"](
        text_config={
            **sizes,
            "vocab_size": 64,
            "max_position_embeddings": 8,
            "projection_size": WIDTH,
            "bos_token_id": 0,
            "eos_token_id": 63,
            "pad_token_id": 1,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )

    def batch(random: torch.Generator, size: int) -> Batch:
        pixels, labels = images(random, size)
        words = torch.randint(30, 60, (size, 8), generator=random)
        words[:, 2] = labels + 2
        return {"pixel_values": pixels, "input_ids": words}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        out: Tensor = model(**given, return_loss=True).loss
        return out

    return Task(transformers.SiglipModel(config), loss, batch)


def decisions() -> Task:
    """Decision Transformer: actions from returns and states of a point that is to be driven to zero."""
    config = CONFIG_MAPPING["decision_transformer"](
        state_dim=4, act_dim=2, hidden_size=WIDTH, max_ep_len=32, n_layer=3, n_head=4, n_positions=64, vocab_size=1
    )

    def batch(random: torch.Generator, size: int) -> Batch:
        states = waves(random, size, 12, 4)
        actions = torch.tanh(states[..., :2] * states[..., 2:])
        return {
            "states": states,
            "actions": actions,
            "returns_to_go": states.square().sum(-1, keepdim=True),
            "timesteps": torch.arange(12).expand(size, -1),
            "attention_mask": torch.ones(size, 12),
        }

    def loss(model: nn.Module, given: Batch) -> Tensor:
        return F.mse_loss(model(**given).action_preds, given["actions"])

    return Task(transformers.DecisionTransformerModel(config), loss, batch)


SENSES: Final[dict[str, Callable[[], Task]]] = {
    "deit": lambda: pooled("deit", **VIT),
    "dinov3": lambda: pooled("dinov3_vit", **VIT, num_register_tokens=2),
    "siglip_vision": lambda: pooled("siglip_vision_model", **VIT),
    "levit": levit,
    "vivit": lambda: pooled("vivit", movies, **{**VIT, "num_frames": 4, "tubelet_size": [2, 8, 8], "patch_size": 8}),
    "videomae": lambda: pooled("videomae", movies, **{**VIT, "num_frames": 4, "tubelet_size": 2}),
    "timesformer": lambda: pooled("timesformer", movies, **{**VIT, "num_frames": 4}),
    "vit_mae": vit_mae,
    "spectra": spectra,
    "wavlm": lambda: wav2vec2("wavlm"),
    "sew": lambda: wav2vec2("sew"),
    "unispeech": lambda: wav2vec2("unispeech"),
    "conformer": lambda: wav2vec2("wav2vec2-conformer"),
    "speech_to_text": speech_to_text,
    "moonshine": moonshine,
    "informer": lambda: forecast("informer", "InformerForPrediction"),
    "autoformer": lambda: forecast("autoformer", "AutoformerForPrediction", label_length=8, moving_average=9),
    "time_series": lambda: forecast("time_series_transformer", "TimeSeriesTransformerForPrediction"),
    "patchtsmixer": patchtsmixer,
    "siglip": siglip,
    "decisions": decisions,
}
