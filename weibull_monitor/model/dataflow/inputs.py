"""Inputs to follow a forward pass with, where the user gives none."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Called:
    """Arguments by position and by name, as a module was called with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Inputs = Sequence[Any] | Mapping[str, Any] | Called


def example_inputs_of(model: nn.Module) -> Inputs | None:
    """Inputs that a model says or shows it takes; None if it does not.

    Models of transformers are known by their configuration, Lightning modules by their ``example_input_array``. Inputs are
    small: shapes matter, and the values of integers.
    """
    example = getattr(model, "example_input_array", None)
    if example is not None:
        return example if isinstance(example, (tuple, list, Mapping)) else (example,)
    config = getattr(model, "config", None)
    transformers = sys.modules.get("transformers")
    if config is not None and transformers is not None and isinstance(model, transformers.PreTrainedModel):
        return _of_transformers(model, config)
    return None


def parts_of(model: nn.Module) -> Iterator[nn.Module]:
    """The models of transformers within a model, outermost first."""
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        yield from (m for m in model.modules() if m is not model and isinstance(m, transformers.PreTrainedModel))


def _of_transformers(model: Any, config: Any) -> dict[str, Any] | None:
    """The inputs of a model of transformers, by the names of the arguments of its ``forward``."""
    takes = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    out: dict[str, Any] = {}
    text = _first(config, "get_text_config") or config
    vocabulary = _number(text, ("vocab_size",)) or 100
    tokens = 2 + torch.arange(13)[None] % max(min(vocabulary - 3, 50), 1)
    if main == "input_ids" and "input_ids" in takes:
        out["input_ids"] = tokens[None] if type(model).__name__.endswith("MultipleChoice") else tokens
    elif main != "input_ids":
        made = _media(main, config)
        if made is None:
            dummy = getattr(model, "dummy_inputs", None)
            return dict(dummy) if isinstance(dummy, Mapping) and main in dummy else None
        out[main] = made
        if "input_ids" in takes and takes["input_ids"].default is inspect.Parameter.empty:
            out["input_ids"] = tokens
    if "decoder_input_ids" in takes and getattr(config, "is_encoder_decoder", False):
        out["decoder_input_ids"] = tokens
    for name in ("bbox",):
        if name in takes and main == "input_ids":
            out[name] = torch.zeros((1, 13, 4), dtype=torch.int64)
    if "input_ids" in takes and "pixel_values" in takes and main == "input_ids" and _contrastive(model, takes):
        made = _media("pixel_values", config)
        if made is not None:
            out["pixel_values"] = made
    for name in _required(takes) - out.keys():
        made = _needed(name, takes, config)
        if made is not None or "None" in str(takes[name].annotation):
            out[name] = made
    if "use_cache" in takes:
        out["use_cache"] = False
    return out


def is_tower(model: nn.Module) -> bool:
    """Whether a model of transformers has to be given what another model makes."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return False
    main = getattr(model, "main_input_name", "input_ids")
    return bool(_required(inspect.signature(model.forward).parameters) - {main, "input_ids", "decoder_input_ids"})


def _required(takes: Mapping[str, Any]) -> set[str]:
    return {n for n, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}


def _needed(name: str, takes: Mapping[str, Any], config: Any) -> Tensor | None:
    """What a tower of a larger model needs: patches of pictures with their numbers along each side, or what is before it."""
    if name in ("grid_thw", "image_grid_thw"):
        return torch.tensor([[1, 4, 4]])
    if "grid_thw" in takes or "image_grid_thw" in takes:
        patch, channels = (
            _number(config, names) for names in (("patch_size",), ("in_channels", "in_chans", "num_channels"))
        )
        features = (channels or 3) * (patch or 16) ** 2 * (_number(config, ("temporal_patch_size",)) or 1)
        return torch.ones((16, features)) if name in ("hidden_states", "pixel_values") else None
    if name == "pixel_values":
        return _media(name, config)
    wide = _number(config, ("input_size", "input_dim", "hidden_size", "d_model"))
    return torch.zeros((1, 64, wide)) if name in ("hidden_states", "inputs_embeds") and wide else None


def _contrastive(model: Any, takes: Mapping[str, Any]) -> bool:
    return "return_loss" in takes


def _media(name: str, config: Any) -> Tensor | None:
    """Pixels, samples of sound or spectrograms, in the size that a configuration states."""
    vision = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    audio = getattr(config, "audio_config", None) or config
    if name == "pixel_values":
        size = _first(vision, "image_size") or _first(config, "image_size") or 224
        if isinstance(size, Mapping):
            size = (size.get("height", 224), size.get("width", 224))
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        channels = _number(vision, ("num_channels", "in_channels", "in_chans")) or 3
        return torch.zeros((1, channels, int(height), int(width)))
    if name == "pixel_values_videos":
        size = _number(vision, ("image_size", "crop_size")) or 224
        return torch.zeros((1, _number(vision, ("num_frames", "frames_per_clip")) or 16, 3, size, size))
    if name == "input_features":
        bins = _number(audio, ("num_mel_bins", "n_mels", "feature_size", "input_feat_per_channel")) or 80
        frames = _number(audio, ("max_source_positions",))
        if frames and hasattr(audio, "encoder_layers"):
            return torch.zeros((1, bins, 2 * frames))
        return torch.zeros((1, 64, bins))
    if name == "input_values":
        bins = _number(config, ("num_mel_bins",)) or 0
        frames = _number(config, ("max_length",))
        if bins and frames:
            return torch.zeros((1, frames, bins))
        return torch.zeros((1, 8000))
    return None


def _first(holder: Any, name: str) -> Any:
    try:
        value = getattr(holder, name, None)
        return value() if callable(value) else value
    except Exception:
        return None


def _number(holder: Any, names: Sequence[str]) -> int | None:
    for name in names:
        value = _first(holder, name)
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if type(value) is int:
            return value
    return None
