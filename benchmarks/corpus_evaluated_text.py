"""Families that are evaluated only, of text, as rows of tables: small models of transformers."""

from __future__ import annotations

from typing import Any, Final

from corpus_families import BART, BYTES, EXPERTS, GROUPED, HEAD, LLAMA, NEUTRAL, PLAIN, T5, VIT, WIDTH

_WIDE: Final = {**GROUPED, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2}
_DEEP: Final = {**GROUPED, "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 5}
_MIXED: Final = {
    **GROUPED,
    **EXPERTS,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
_STATE: Final = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}
_GPT: Final = {**NEUTRAL, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}
_PADDED: Final = {**PLAIN, "pad_token_id": 0}
_FULL: Final = {**_PADDED, "embedding_size": WIDTH}

DECODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "mistral": ("mistral", {**_WIDE, "sliding_window": 16}),
    "gemma": ("gemma", {**GROUPED, **HEAD}),
    "phi": ("phi", {**_DEEP, "num_key_value_heads": 4}),
    "olmo": ("olmo", _DEEP),
    "olmo3": ("olmo3", {**_WIDE, "sliding_window": 16}),
    "flex_olmo": ("flex_olmo", {**GROUPED, **EXPERTS, "num_experts": 4}),
    "arcee": ("arcee", _WIDE),
    "apertus": ("apertus", GROUPED),
    "doge": ("doge", GROUPED),
    "diffllama": ("diffllama", GROUPED),
    "helium": ("helium", {**_DEEP, "head_dim": 12}),
    "ministral": ("ministral", {**GROUPED, **HEAD, "sliding_window": 16}),
    "minimax": ("minimax", {**GROUPED, **EXPERTS, **HEAD, "num_local_experts": 4, "block_size": 16}),
    "qwen2_moe": (
        "qwen2_moe",
        {
            **GROUPED,
            **EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            **GROUPED,
            **EXPERTS,
            **HEAD,
            "num_experts": 4,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 48,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        },
    ),
    "dots1": ("dots1", {**_MIXED, **HEAD, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "glm4_moe": ("glm4_moe", {**_MIXED, **HEAD, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "deepseek_v2": (
        "deepseek_v2",
        {
            **_MIXED,
            "num_key_value_heads": 4,
            "q_lora_rank": None,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "seed_oss": ("seed_oss", {**GROUPED, **HEAD}),
    "bitnet": ("bitnet", _WIDE),
    "falcon_h1": ("falcon_h1", {**GROUPED, **_STATE, "num_hidden_layers": 2, "mamba_d_ssm": 128}),
    "zamba2": (
        "zamba2",
        {
            **LLAMA,
            "num_key_value_heads": 4,
            "attention_head_dim": 32,
            "mamba_ngroups": 1,
            "n_mamba_heads": 8,
            "mamba_headdim": 16,
            "mamba_d_state": 16,
            "chunk_size": 16,
            "num_mem_blocks": 1,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "hybrid_layer_ids": [1],
            "adapter_rank": 8,
        },
    ),
    "granitemoehybrid": (
        "granitemoehybrid",
        {
            **GROUPED,
            **_STATE,
            **EXPERTS,
            "num_local_experts": 4,
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention", "mamba"],
        },
    ),
    "nemotron_h": (
        "nemotron_h",
        {
            **GROUPED,
            **HEAD,
            "layers_block_type": ["mamba", "attention", "mlp", "attention"],
            "num_hidden_layers": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 16,
            "chunk_size": 16,
        },
    ),
    "gpt1": ("openai-gpt", _GPT),
    "ctrl": ("ctrl", {**_GPT, "dff": 192}),
    "modernbert_decoder": (
        "modernbert-decoder",
        {
            **LLAMA,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "local_attention": 16,
        },
    ),
    "neox_japanese": ("gpt_neox_japanese", {**LLAMA, "intermediate_multiple_size": 3}),
}
ENCODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "mobilebert": (
        "mobilebert",
        {
            **_PADDED,
            "hidden_size": 64,
            "embedding_size": 64,
            "intra_bottleneck_size": 32,
            "intermediate_size": 96,
            "num_feedforward_networks": 2,
        },
    ),
    "rembert": ("rembert", {**_PADDED, "input_embedding_size": 32, "output_embedding_size": 48}),
    "xlm": ("xlm", {"n_words": BYTES + 1, "emb_dim": WIDTH, "n_layers": 3, "n_heads": 4, "pad_index": 0}),
    "big_bird": ("big_bird", {**_PADDED, "attention_type": "original_full"}),
    "nystromformer": (
        "nystromformer",
        {**_PADDED, "num_landmarks": 8, "segment_means_seq_len": 32, "conv_kernel_size": 5},
    ),
    "funnel": (
        "funnel",
        {
            "vocab_size": BYTES + 1,
            "d_model": WIDTH,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 160,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
    ),
    "deberta_v1": (
        "deberta",
        {**_PADDED, "relative_attention": True, "max_relative_positions": 16, "pos_att_type": ["p2c", "c2p"]},
    ),
    "longformer": ("longformer", {**_PADDED, "attention_window": 16, "max_position_embeddings": 80}),
    "esm": (
        "esm",
        {**_PADDED, "mask_token_id": BYTES, "max_position_embeddings": 80, "position_embedding_type": "rotary"},
    ),
    "eurobert": ("eurobert", {**_WIDE, "pad_token_id": 0, "mask_token_id": BYTES}),
    "prelayernorm": ("roberta-prelayernorm", {**_PADDED, "max_position_embeddings": 80}),
}
SEQ2SEQ: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "led": ("led", {**BART, "attention_window": 8, "max_encoder_position_embeddings": 64}),
    "mvp": ("mvp", BART),
    "plbart": ("plbart", BART),
    "switch": (
        "switch_transformers",
        {
            **T5,
            "num_decoder_layers": 2,
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "expert_capacity": 64,
        },
    ),
    "longt5": ("longt5", {**T5, "local_radius": 7, "feed_forward_proj": "gated-gelu"}),
    "fsmt": (
        "fsmt",
        {**BART, "langs": ["en", "de"], "src_vocab_size": BYTES + 1, "tgt_vocab_size": BYTES + 1, "pad_token_id": 1},
    ),
    "pegasus_x": ("pegasus_x", {**BART, "block_size": 8, "num_global_tokens": 4, "stagger_local_blocks": False}),
}
VISION: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "registers": ("dinov2_with_registers", {**VIT, "mlp_ratio": 2, "num_register_tokens": 2}),
    "cvt": (
        "cvt",
        {
            "embed_dim": [16, 32, 64],
            "num_heads": [1, 2, 4],
            "depth": [1, 2, 3],
            "patch_sizes": [3, 3, 3],
            "patch_stride": [2, 2, 2],
            "patch_padding": [1, 1, 1],
            "mlp_ratio": [2.0, 2.0, 2.0],
            "drop_path_rate": [0.0, 0.0, 0.0],
            "stride_kv": [2, 2, 2],
        },
    ),
    "focalnet": (
        "focalnet",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 32,
            "hidden_sizes": [32, 64],
            "depths": [2, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "use_post_layernorm_in_modulation": True,
        },
    ),
    "mobilevit": (
        "mobilevit",
        {
            "image_size": 32,
            "hidden_sizes": [32, 40, 48],
            "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 64],
            "expand_ratio": 2.0,
        },
    ),
    "hiera": (
        "hiera",
        {
            "image_size": [32, 32],
            "embed_dim": 32,
            "patch_size": [7, 7],
            "patch_stride": [4, 4],
            "patch_padding": [3, 3],
            "num_query_pool": 1,
            "masked_unit_size": [4, 4],
            "depths": [1, 2],
            "num_heads": [2, 4],
            "embed_dim_multiplier": 2.0,
        },
    ),
    "regnet": ("regnet", {"embedding_size": 32, "hidden_sizes": [64, 128], "depths": [2, 2], "groups_width": 16}),
    "resnet": (
        "resnet",
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "layer_type": "basic"},
    ),
    "convnextv2": (
        "convnextv2",
        {"hidden_sizes": [24, 48], "depths": [2, 2], "num_stages": 2, "patch_size": 4, "image_size": 32},
    ),
    "swiftformer": (
        "swiftformer",
        {"image_size": 32, "embed_dims": [16, 24, 32, 64], "depths": [1, 1, 1, 1], "mlp_ratio": 2},
    ),
}
