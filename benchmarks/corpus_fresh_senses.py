"""Families that no rule was chosen with, of images, sound, series and pairs of them: small models of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
import transformers
from corpus_evaluated_senses import pooled, waves
from corpus_families import BYTES, GROUPED, NEUTRAL, PLAIN, VIT, WIDTH, Batch, Task, images, own_loss, pictures, windows
from corpus_own import wav2vec2
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING

_SMALL: Final = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_WORDS: Final = {**_SMALL, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 63, "bos_token_id": 0}
_EYES: Final = {**_SMALL, "image_size": 32, "patch_size": 8}
_SHORT: Final = {**PLAIN, "num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 96}


def made(name: str, kind: str, batch: Any, loss: Any = own_loss, **arguments: Any) -> Task:
    """A model of transformers by the name of its class."""
    return Task(getattr(transformers, name)(CONFIG_MAPPING[kind](**arguments)), loss, batch)


def regions(random: torch.Generator, size: int) -> Batch:
    """Images of 32 × 32 whose left and right half have patterns of their own; each pixel's label is its half's pattern."""
    left, ones = images(random, size)
    right, others = images(random, size)
    border = torch.randint(8, 25, (size, 1, 1), generator=random)
    is_left = (torch.arange(32) < border).expand(-1, 32, -1)  # (size, 32, 32)
    return {
        "pixel_values": torch.where(is_left[:, None], left, right),
        "labels": torch.where(is_left, ones[:, None, None], others[:, None, None]),
    }


def depths(random: torch.Generator, size: int) -> Batch:
    pixels, labels = images(random, size)
    return {"pixel_values": pixels, "labels": 1.0 + labels[:, None, None] * 0.2 + pixels.mean(1).abs()}


def hidden(random: torch.Generator, size: int) -> Batch:
    """Images with which of 64 patches are hidden, as SimMIM has it."""
    return {"pixel_values": images(random, size)[0], "bool_masked_pos": torch.rand(size, 64, generator=random) < 0.5}


def coarse(random: torch.Generator, size: int) -> Batch:
    """Images of 8 × 8 and the same of 16 × 16, without noise."""
    pixels, _ = images(random, size, side=16)
    fine = F.avg_pool2d(pixels, 3, stride=1, padding=1)
    return {"pixel_values": F.avg_pool2d(fine, 2), "wanted": fine}


def restored(model: nn.Module, given: Batch) -> Tensor:
    return F.l1_loss(model(pixel_values=given["pixel_values"]).reconstruction, given["wanted"])


def shades(random: torch.Generator, size: int) -> Batch:
    """The pixels of images of 6 × 6 in 16 shades, row by row."""
    pixels, _ = images(random, size, channels=1, side=8)
    tokens = (4.0 * pixels[:, 0, :6, :6] + 8.0).long().clamp(0, 15).flatten(1)
    return {"input_ids": tokens, "labels": tokens.clone()}


def pairs(random: torch.Generator, size: int) -> Batch:
    """Images and eight words, of which the fourth names the pattern."""
    pixels, labels = images(random, size)
    words = torch.randint(30, 60, (size, 8), generator=random)
    words[:, 0], words[:, 3], words[:, 7] = 0, labels + 2, 63
    return {"pixel_values": pixels, "input_ids": words}


def contrasted(model: nn.Module, given: Batch) -> Tensor:
    out: Tensor = model(**given, return_loss=True).loss
    return out


def captions(random: torch.Generator, size: int) -> Batch:
    """Images and what is written under them: the number of the pattern, spelt in six of its own letters."""
    pixels, labels = images(random, size)
    words = 3 + (labels[:, None] * 7 + torch.arange(6) * (1 + labels[:, None] % 3)) % 50
    return {"pixel_values": pixels, "input_ids": words, "labels": words.clone()}


def described(random: torch.Generator, size: int) -> Batch:
    given = captions(random, size)
    return {name: given[name] for name in ("pixel_values", "labels")}


def asked(random: torch.Generator, size: int) -> Batch:
    """Images with one of two questions in words: whether their pattern has an even number, or one under five."""
    given = pairs(random, size)
    number, question = given["input_ids"][:, 3] - 2, torch.randint(2, (size,), generator=random)
    words = given["input_ids"].clone()
    words[:, 3] = 20 + question
    labels = torch.where(question == 0, number % 2 == 0, number < 5).long()
    return {"pixel_values": given["pixel_values"], "input_ids": words, "labels": labels}


def spoken(random: torch.Generator, size: int, bands: int, each: int, name: str = "input_features") -> Batch:
    """Six of eight sounds in turn as ``bands`` bands of ``each`` frames, and which they are; for CTC."""
    letters = torch.randint(1, 9, (size, 6), generator=random)
    heard = torch.randn(9, bands, generator=torch.Generator().manual_seed(11))[letters].repeat_interleave(each, dim=1)
    heard = heard + 0.4 * torch.randn(heard.shape, generator=random)
    return {name: heard, "labels": letters, "attention_mask": torch.ones(heard.shape[:2], dtype=torch.long)}


def _spoken(bands: int, each: int) -> Callable[[torch.Generator, int], Batch]:
    return lambda random, size: spoken(random, size, bands, each)


def heard(kind: str) -> Task:
    """A CTC model on bands whose encoder has a configuration of its own."""
    encoder = {**_SHORT, "hidden_size": WIDTH, "num_mel_bins": 16, "subsampling_conv_channels": 16, "layerdrop": 0.0}
    encoder = {key: encoder[key] for key in encoder if key not in NEUTRAL} | {"conv_kernel_size": 5}
    name = {"parakeet_ctc": "ParakeetForCTC", "lasr_ctc": "LasrForCTC"}[kind]
    return made(name, kind, _spoken(16, 16), vocab_size=16, pad_token_id=0, encoder_config=encoder)


def speech_bert() -> Task:
    return made(
        "Wav2Vec2BertForCTC", "wav2vec2-bert", _spoken(16, 4), **{**_SHORT, "vocab_size": 16, "pad_token_id": 0},
        feature_projection_input_dim=16, layerdrop=0.0, mask_time_prob=0.0, conv_depthwise_kernel_size=5,
        ctc_loss_reduction="mean", ctc_zero_infinity=True, classifier_proj_size=32,
    )  # fmt: skip


def sew_d() -> Task:
    config = CONFIG_MAPPING["sew-d"](
        **{**_SHORT, "vocab_size": 32, "pad_token_id": 0}, conv_dim=(32, 32, 32), conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0,
        position_buckets=16, ctc_loss_reduction="mean", ctc_zero_infinity=True,
    )  # fmt: skip
    return Task(transformers.SEWDForCTC(config), own_loss, wav2vec2().batch)


def timesfm() -> Task:
    """TimesFM, which forecasts a patch of 8 values after each of 8 patches."""

    def batch(random: torch.Generator, size: int) -> Batch:
        series = waves(random, size, 72, 1)[..., 0]
        return {"past_values": series[:, :64], "future_values": series[:, 64:]}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        out: Tensor = model(
            past_values=list(given["past_values"]), freq=[0] * len(given["past_values"]),
            future_values=given["future_values"], forecast_context_len=64,
        ).loss  # fmt: skip
        return out

    return made(
        "TimesFmModelForPrediction", "timesfm", batch, loss, patch_length=8, context_length=64, horizon_length=8,
        num_hidden_layers=4, hidden_size=48, intermediate_size=48, head_dim=12, num_attention_heads=4,
    )  # fmt: skip


def together(name: str, encoder: tuple[str, dict[str, Any]], decoder: tuple[str, dict[str, Any]], batch: Any) -> Task:
    """An encoder and a decoder of different kinds, joined by attention."""
    configs = [CONFIG_MAPPING[kind](**arguments) for kind, arguments in (encoder, decoder)]
    config = getattr(transformers, name.replace("Model", "Config")).from_encoder_decoder_configs(*configs)
    config.decoder_start_token_id, config.pad_token_id = 2, 1
    return Task(getattr(transformers, name)(config=config), own_loss, batch)


def melody() -> Task:
    """MusicGen's decoder: two lines of notes, of which the second follows the first a step later."""

    def batch(random: torch.Generator, size: int) -> Batch:
        steps = torch.randint(-2, 3, (size, 24), generator=random)
        line = (steps.cumsum(1) + 24).remainder(48)
        notes = torch.stack([line, (line.roll(1, 1) * 3 + 5) % 48], dim=1)  # (size, 2, 24)
        return {"input_ids": notes.flatten(0, 1), "wanted": notes}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        logits = model(input_ids=given["input_ids"]).logits.unflatten(0, (-1, 2))  # (size, 2, 24, 64)
        return F.cross_entropy(logits[:, :, :-1].flatten(0, 2), given["wanted"][:, :, 1:].flatten())

    return made(
        "MusicgenForCausalLM", "musicgen_decoder", batch, loss, vocab_size=64, hidden_size=WIDTH, num_hidden_layers=3,
        num_attention_heads=4, ffn_dim=160, num_codebooks=2, max_position_embeddings=64, pad_token_id=63,
        bos_token_id=None,
    )  # fmt: skip


def canine() -> Task:
    """CANINE, which tells from 32 characters which of four alphabets they are written in."""

    def batch(random: torch.Generator, size: int) -> Batch:
        alphabet = torch.randint(4, (size,), generator=random)
        return {"input_ids": windows(random, size) + 300 * alphabet[:, None], "labels": alphabet}

    return made(
        "CanineForSequenceClassification", "canine", batch, **{**_SHORT, "pad_token_id": 0, "bos_token_id": 1},
        num_labels=4, num_hash_functions=4, num_hash_buckets=64, local_transformer_stride=16,
    )  # fmt: skip


def clap() -> Task:
    """CLAP: pairs of spectrograms and words."""
    words = {**_WORDS, "pad_token_id": 1, "max_position_embeddings": 24}
    sounds = {
        "spec_size": 32, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "patch_embeds_hidden_size": 24,
        "depths": [1, 1], "num_attention_heads": [2, 4], "window_size": 4, "hidden_size": 48,
        "num_hidden_layers": 2, "drop_path_rate": 0.0, "enable_patch_layer_norm": True,
    }  # fmt: skip

    def batch(random: torch.Generator, size: int) -> Batch:
        given = pairs(random, size)
        return {
            "input_features": given["pixel_values"][:, :1].reshape(size, 1, 64, 16),
            "input_ids": given["input_ids"],
        }

    return made("ClapModel", "clap", batch, contrasted, text_config=words, audio_config=sounds, projection_dim=32)


def lxmert() -> Task:
    """LXMERT, which fills in masked words from what it sees of an image's 16 patches."""

    def batch(random: torch.Generator, size: int) -> Batch:
        given = pairs(random, size)
        patches = F.unfold(F.avg_pool2d(given["pixel_values"], 2), 4, stride=4).transpose(1, 2)  # (size, 16, 48)
        places = torch.rand(size, 16, 4, generator=random)
        words = given["input_ids"].clone()
        words[:, 3] = 1
        labels = given["input_ids"].masked_fill(torch.arange(8) != 3, -100)
        return {"input_ids": words, "labels": labels, "visual_feats": patches, "visual_pos": places}

    return made(
        "LxmertForPreTraining", "lxmert", batch, vocab_size=64, hidden_size=48, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=16, l_layers=2, x_layers=1, r_layers=1, visual_feat_dim=48,
        task_matched=False, task_obj_predict=False, task_qa=False, num_qa_labels=4,
    )  # fmt: skip


def speecht5() -> Task:
    """SpeechT5's text-to-speech: bands of sound for letters."""

    def batch(random: torch.Generator, size: int) -> Batch:
        given = spoken(random, size, 16, 4)
        return {"input_ids": given["labels"] + 3, "labels": given["input_features"]}

    def loss(model: nn.Module, given: Batch) -> Tensor:
        out: Tensor = model(**given, speaker_embeddings=torch.zeros(len(given["labels"]), 8)).loss
        return out

    return made(
        "SpeechT5ForTextToSpeech", "speecht5", batch, loss, vocab_size=16, hidden_size=48, encoder_layers=2,
        encoder_attention_heads=4, encoder_ffn_dim=96, decoder_layers=2, decoder_ffn_dim=96, decoder_attention_heads=4,
        num_mel_bins=16, speech_decoder_prenet_units=32, speaker_embedding_dim=8, speech_decoder_postnet_layers=2,
        speech_decoder_postnet_units=32, encoder_layerdrop=0.0, decoder_layerdrop=0.0, use_guided_attention_loss=False,
        encoder_max_relative_position=16, max_speech_positions=64, max_text_positions=32,
    )  # fmt: skip


_DECODER: Final = ("gpt2", {**NEUTRAL, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64})
_READER: Final = ("bert", {**_SHORT, "pad_token_id": 0})


def _translated(random: torch.Generator, size: int) -> Batch:
    """Text whose second half is to be written first."""
    tokens = windows(random, size, 16)
    return {"input_ids": tokens, "labels": tokens.roll(8, 1)}


def _sounds(random: torch.Generator, size: int) -> Batch:
    letters = torch.randint(3, 11, (size, 6), generator=random)
    wave = torch.sin(2 * math.pi * letters.float()[:, :, None] * 6.0 * torch.arange(320) / 320.0).reshape(size, -1)
    return {"input_values": wave + 0.1 * torch.randn(wave.shape, generator=random), "labels": letters}


_EARS: Final = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "layerdrop": 0.0,
    "conv_dim": (24, 24, 24), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0, "num_feat_extract_layers": 3,
}  # fmt: skip


def data2vec() -> Task:
    config = CONFIG_MAPPING["data2vec-audio"](
        **_EARS | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, vocab_size=32, pad_token_id=0,
        ctc_loss_reduction="mean", ctc_zero_infinity=True,
    )  # fmt: skip
    return Task(transformers.Data2VecAudioForCTC(config), own_loss, wav2vec2().batch)


_GROUPS: Final = {**_EYES, "depths": [1, 1], "num_group_tokens": [8, 0], "num_output_groups": [8, 4]}
_SEGMENTS: Final = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 2, 4]}
_REASSEMBLED: Final = {
    **VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 48],
    "fusion_hidden_size": 24, "num_labels": 10, "semantic_classifier_dropout": 0.0,
}  # fmt: skip

SENSES: Final[dict[str, Callable[[], Task]]] = {
    "aimv2": lambda: pooled("aimv2_vision_model", **{**VIT, "num_hidden_layers": 4}),
    "mlcd": lambda: pooled("mlcd_vision_model", **VIT),
    "pixio": lambda: pooled("pixio", **{**VIT, "num_hidden_layers": 5, "n_cls_tokens": 2, "mlp_ratio": 2}),
    "vitdet": lambda: pooled(
        "vitdet", hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=32, patch_size=8,
        pretrain_image_size=32, window_block_indices=[0, 2], window_size=2, use_relative_position_embeddings=True,
    ),
    "dinov3_convnext": lambda: pooled("dinov3_convnext", width=48, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1]),
    "clip_classifier": lambda: made("CLIPForImageClassification", "clip", pictures, vision_config=VIT, num_labels=10),
    "dpt": lambda: made("DPTForSemanticSegmentation", "dpt", regions, **_REASSEMBLED),
    "segments": lambda: made("SegformerForSemanticSegmentation", "segformer", regions, **_SEGMENTS, num_labels=10,
        decoder_hidden_size=32),
    "glpn": lambda: made("GLPNForDepthEstimation", "glpn", depths, **_SEGMENTS, decoder_hidden_size=16),
    "simmim": lambda: made(
        "SwinForMaskedImageModeling", "swin", hidden, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4,
        image_size=32, patch_size=4, encoder_stride=8,
    ),
    "swin2sr": lambda: made(
        "Swin2SRForImageSuperResolution", "swin2sr", coarse, restored, image_size=8, embed_dim=32, depths=[2, 2],
        num_heads=[4, 4], window_size=4, upscale=2,
    ),
    "imagegpt": lambda: made(
        "ImageGPTForCausalImageModeling", "imagegpt", shades, vocab_size=17, n_positions=64, n_embd=WIDTH, n_layer=4,
        n_head=4,
    ),
    "unispeech_sat": lambda: wav2vec2("unispeech-sat"),
    "data2vec_audio": data2vec,
    "sew_d": sew_d,
    "wav2vec2_bert": speech_bert,
    "parakeet": lambda: heard("parakeet_ctc"),
    "lasr": lambda: heard("lasr_ctc"),
    "timesfm": timesfm,
    "musicgen": melody,
    "canine": canine,
    "metaclip": lambda: made(
        "MetaClip2Model", "metaclip_2", pairs, contrasted, text_config=_WORDS, vision_config=_EYES, projection_dim=32
    ),
    "chinese_clip": lambda: made(
        "ChineseCLIPModel", "chinese_clip", pairs, contrasted, text_config={**_WORDS, "pad_token_id": 1},
        vision_config={**_EYES, "num_hidden_layers": 4}, projection_dim=32,
    ),
    "groupvit": lambda: made(
        "GroupViTModel", "groupvit", pairs, contrasted, text_config=_WORDS, vision_config=_GROUPS, projection_dim=32,
        projection_intermediate_dim=64,
    ),
    "clap": clap,
    "lxmert": lxmert,
    "vilt": lambda: made(
        "ViltForImagesAndTextClassification", "vilt", asked, **{**_WORDS, **VIT}, num_images=1, num_labels=2
    ),
    "blip": lambda: made(
        "BlipForConditionalGeneration", "blip", captions, text_config={**_WORDS, "encoder_hidden_size": 48,
        "pad_token_id": 1, "sep_token_id": 62}, vision_config=_EYES, image_text_hidden_size=32,
    ),
    "git": lambda: made(
        "GitForCausalLM", "git", captions, **{**_WORDS, "pad_token_id": 1, "hidden_size": 64}, vision_config=_EYES
    ),
    "speecht5": speecht5,
    "bert_to_gpt2": lambda: together("EncoderDecoderModel", _READER, _DECODER, _translated),
    "vit_to_gpt2": lambda: together("VisionEncoderDecoderModel", ("vit", _EYES), _DECODER, described),
    "hubert_to_gpt2": lambda: together("SpeechEncoderDecoderModel", ("hubert", _EARS), _DECODER, _sounds),
    "llava": lambda: made(
        "LlavaForConditionalGeneration", "llava", _shown, image_token_id=BYTES, text_config={**GROUPED, "model_type":
        "llama"}, vision_config={**_EYES, "model_type": "clip_vision_model"}, vision_feature_layer=-1,
    ),
}  # fmt: skip


def _shown(random: torch.Generator, size: int) -> Batch:
    """Texts that begin with the 16 patches of an image, and go on with what is written under it."""
    given = captions(random, size)
    words = torch.cat([torch.full((size, 16), BYTES), given["input_ids"]], dim=1)
    return {**given, "input_ids": words, "labels": words.masked_fill(words == BYTES, -100)}
