"""Families that were added to the corpus later, as rows of tables: small models of transformers."""

from __future__ import annotations

from typing import Any, Final

from corpus_families import BART, BYTES, EXPERTS, GROUPED, HEAD, LLAMA, NEUTRAL, PLAIN, VIT, WIDTH

_GPT: Final = {**NEUTRAL, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}
_PADDED: Final = {**PLAIN, "pad_token_id": 0}
_FULL: Final = {**_PADDED, "embedding_size": WIDTH}
_PYRAMID: Final = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "image_size": 32}

DECODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "phimoe": ("phimoe", {**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "granitemoe": ("granitemoe", {**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "persimmon": ("persimmon", PLAIN),
    "glm": ("glm", {**GROUPED, **HEAD}),
    "codegen": ("codegen", {**_GPT, "n_ctx": 64, "rotary_dim": 8}),
    "gpt_neo": (
        "gpt_neo",
        {
            **NEUTRAL,
            "hidden_size": WIDTH,
            "num_layers": 3,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 16,
        },
    ),
    "cohere2": ("cohere2", {**GROUPED, "sliding_window": 16}),
    "biogpt": ("biogpt", PLAIN),
    "xglm": (
        "xglm",
        {
            **NEUTRAL,
            "d_model": WIDTH,
            "num_layers": 3,
            "attention_heads": 4,
            "ffn_dim": 160,
            "max_position_embeddings": 64,
        },
    ),
    "exaone4": ("exaone4", {**GROUPED, "sliding_window": 16}),
    "hunyuan": ("hunyuan_v1_dense", {**GROUPED, **HEAD}),
    "ernie4_5": ("ernie4_5", {**GROUPED, **HEAD}),
    "recurrent_gemma": (
        "recurrent_gemma",
        {**LLAMA, "lru_width": WIDTH, "attention_window_size": 16, "num_key_value_heads": 1},
    ),
}
ENCODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "roformer": ("roformer", _FULL),
    "data2vec": ("data2vec-text", {**_PADDED, "max_position_embeddings": 80}),
    "mpnet": ("mpnet", {**_PADDED, "max_position_embeddings": 80}),
    "fnet": ("fnet", _PADDED),
    "convbert": ("convbert", _FULL),
    "squeezebert": ("squeezebert", _FULL),
    "megatron": ("megatron-bert", _PADDED),
}
SEQ2SEQ: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "blenderbot": ("blenderbot-small", BART),
    "mbart": ("mbart", BART),
    "pegasus": ("pegasus", BART),
    "m2m": ("m2m_100", {**BART, "pad_token_id": 1}),
    "prophetnet": (
        "prophetnet",
        {
            "vocab_size": BYTES + 1,
            "hidden_size": WIDTH,
            "encoder_ffn_dim": 160,
            "decoder_ffn_dim": 160,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 2,
            "ngram": 1,
        },
    ),
    "umt5": (
        "umt5",
        {
            "vocab_size": BYTES + 1,
            "d_model": WIDTH,
            "d_kv": 16,
            "d_ff": 160,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
}
VISION: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "pvt": ("pvt_v2", {**_PYRAMID, "num_attention_heads": [1, 2, 3, 4]}),
    "poolformer": ("poolformer", _PYRAMID),
    "ijepa": ("ijepa", VIT),
    "vit_msn": ("vit_msn", VIT),
    "data2vec_vision": ("data2vec-vision", VIT),
    "swinv2": (
        "swinv2",
        {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 4},
    ),
}
