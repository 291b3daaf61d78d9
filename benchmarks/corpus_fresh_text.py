"""Families that no rule was chosen with, of text, as rows of tables: small models of transformers in other shapes."""

from __future__ import annotations

from typing import Any, Final

from corpus_families import BART, BYTES, EXPERTS, GROUPED, HEAD, LLAMA, NEUTRAL, PLAIN, T5, VIT, WIDTH

_TWO: Final = {**GROUPED, "num_hidden_layers": 2, "hidden_size": 80, "intermediate_size": 208}
_FOUR: Final = {**GROUPED, "num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 128}
_SIX: Final = {**GROUPED, "num_hidden_layers": 6, "hidden_size": 40, "intermediate_size": 104}
_ONE_KEY: Final = {**LLAMA, "num_key_value_heads": 1}
_LATENT: Final = {
    **LLAMA,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
_ROUTED: Final = {
    **EXPERTS,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
_DELTA: Final = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
_MAMBA: Final = {"mamba_d_state": 8, "mamba_dt_rank": 8, "use_mamba_kernels": False}
_PADDED: Final = {**PLAIN, "pad_token_id": 0}
_PLACES: Final = {**_PADDED, "max_position_embeddings": 80}
_ENCODER: Final = {**_PLACES, "num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 144}

DECODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "afmoe": (
        "afmoe",
        {**GROUPED, **HEAD, **EXPERTS, "num_experts": 4, "num_shared_experts": 1, "moe_intermediate_size": 64,
         "num_dense_layers": 1, "sliding_window": 16},
    ),
    "cwm": ("cwm", {**_TWO, "head_dim": 20, "sliding_window": 16, "bos_token_id": 1, "eos_token_id": 2}),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {**GROUPED, "moe_intermediate_size": 64, "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1,
         "moe_layer_end_index": 2},
    ),
    "exaone_moe": (
        "exaone_moe",
        {**GROUPED, **HEAD, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 64, "sliding_window": 16,
         "num_shared_experts": 1, "n_group": 1, "topk_group": 1},
    ),
    "falcon_mamba": ("falcon_mamba", {**NEUTRAL, "hidden_size": 48, "num_hidden_layers": 4, "state_size": 8}),
    "gemma3n": (
        "gemma3n_text",
        {**_ONE_KEY, **HEAD, "sliding_window": 16, "vocab_size_per_layer_input": BYTES + 1, "laurel_rank": 8,
         "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 3,
         "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "gemma4": (
        "gemma4_text",
        {**GROUPED, **HEAD, "sliding_window": 16, "vocab_size_per_layer_input": BYTES + 1, "global_head_dim": 16,
         "hidden_size_per_layer_input": 16, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "glm4_moe_lite": ("glm4_moe_lite", {**_LATENT, **_ROUTED, "mlp_layer_types": ["dense", "sparse", "sparse"]}),
    "granitemoeshared": (
        "granitemoeshared",
        {**_FOUR, **EXPERTS, "num_local_experts": 4, "shared_intermediate_size": 48, "embedding_multiplier": 6.0,
         "residual_multiplier": 0.3, "attention_multiplier": 0.08, "logits_scaling": 2.0},
    ),
    "hunyuan_moe": ("hunyuan_v1_moe", {**GROUPED, **HEAD, "intermediate_size": 80, "num_experts": 4, "moe_topk": 2}),
    "jais2": ("jais2", {**_TWO, "head_dim": 20}),
    "jamba": (
        "jamba",
        {**GROUPED, **_MAMBA, **EXPERTS, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "kimi_linear": (
        "kimi_linear",
        {**_LATENT, "q_lora_rank": None, "num_experts": 4, "num_experts_per_token": 2, "moe_intermediate_size": 64,
         "layer_types": ["linear_attention", "full_attention"], "linear_head_dim": 8,
         "linear_num_heads": 2, "mlp_layer_types": ["dense", "sparse"], "num_hidden_layers": 2},
    ),
    "lfm2_moe": (
        "lfm2_moe",
        {**GROUPED, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 64, "num_dense_layers": 1,
         "layer_types": ["conv", "conv", "full_attention"]},
    ),
    "llama4": (
        "llama4_text",
        {**GROUPED, **HEAD, "intermediate_size": 96, "intermediate_size_mlp": 160, "num_local_experts": 4,
         "interleave_moe_layer_step": 2, "attention_chunk_size": 16},
    ),
    "longcat": (
        "longcat_flash",
        {**_LATENT, "num_layers": 2, "ffn_hidden_size": 128, "moe_topk": 2, "n_routed_experts": 4, "zero_expert_num": 2,
         "expert_ffn_hidden_size": 48, "head_dim": 8},
    ),
    "minicpm3": ("minicpm3", {**_LATENT, "dim_model_base": 32, "scale_emb": 4}),
    "minimax_m2": ("minimax_m2", {**GROUPED, **HEAD, **EXPERTS, "num_local_experts": 4}),
    "ministral3": ("ministral3", {**_SIX, "head_dim": 10}),
    "mimo": (
        "mimo_v2_flash",
        {**GROUPED, **_ROUTED, "head_dim": 24, "v_head_dim": 16, "sliding_window": 16,
         "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    ),
    "nanochat": ("nanochat", {**_FOUR, "num_key_value_heads": 4, "intermediate_size": 192}),
    "olmo_hybrid": ("olmo_hybrid", {**GROUPED, **_DELTA}),
    "qwen3_5": ("qwen3_5_text", {**GROUPED, **HEAD, **_DELTA}),
    "solar_open": ("solar_open", {**GROUPED, **HEAD, **_ROUTED}),
    "vaultgemma": ("vaultgemma", {**_ONE_KEY, **HEAD, "query_pre_attn_scalar": 16, "sliding_window": 16}),
    "youtu": ("youtu", _LATENT),
    "zamba": (
        "zamba",
        {**LLAMA, **_MAMBA, "attention_hidden_size": 2 * WIDTH, "attention_head_dim": 32, "num_key_value_heads": 4,
         "n_mamba_heads": 2, "layers_block_type": ["hybrid", "linear_attention", "hybrid"]},
    ),
    "zaya": (
        "zaya",
        {**GROUPED, **HEAD, "moe_intermediate_size": 96, "num_experts_per_tok": 1, "num_experts": 4,
         "router_hidden_size": 16},
    ),
    "bert_generation": ("bert-generation", {**_PADDED, "is_decoder": True, "num_hidden_layers": 5, "hidden_size": 48}),
    "trocr": (
        "trocr",
        {**NEUTRAL, "pad_token_id": 1, "d_model": WIDTH, "decoder_layers": 3, "decoder_attention_heads": 4,
         "decoder_ffn_dim": 192, "max_position_embeddings": 64},
    ),
    "hyperclovax": ("hyperclovax", {**_FOUR, "head_dim": 12, "attention_multiplier": 0.08, "logits_scaling": 0.5}),
    "xlm_roberta_decoder": ("xlm-roberta-xl", {**_ENCODER, "is_decoder": True}),
}  # fmt: skip
ENCODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "camembert": ("camembert", {**_ENCODER, "num_hidden_layers": 8, "hidden_size": 32, "intermediate_size": 64}),
    "ernie": ("ernie", {**_ENCODER, "use_task_id": True}),
    "ibert": ("ibert", _PLACES),
    "layoutlm": ("layoutlm", {**_PADDED, "max_2d_position_embeddings": 16}),
    "luke": ("luke", {**_PLACES, "entity_vocab_size": 16, "entity_emb_size": 16}),
    "nomic_bert": ("nomic_bert", {**_PADDED, **HEAD}),
    "xlm_roberta_xl": ("xlm-roberta-xl", {**_PLACES, "num_hidden_layers": 6, "hidden_size": 40}),
    "xmod": ("xmod", {**_PLACES, "default_language": "en_XX", "pre_norm": True}),
    "yoso": ("yoso", {**_PADDED, "use_expectation": True, "use_fast_hash": False}),
}
SEQ2SEQ: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bigbird_pegasus": ("bigbird_pegasus", {**BART, "attention_type": "original_full", "encoder_layers": 3}),
    "mt5": ("mt5", {**T5, "num_layers": 3, "num_decoder_layers": 1, "d_ff": 96}),
    "nllb_moe": (
        "nllb-moe",
        {**BART, "num_experts": 4, "expert_capacity": 32, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
    ),
    "t5gemma": (
        "t5gemma",
        {"encoder": {**GROUPED, **HEAD, "num_hidden_layers": 2, "query_pre_attn_scalar": 16, "sliding_window": 16,
                     "bos_token_id": 2, "pad_token_id": 0},
         "decoder": {**GROUPED, **HEAD, "num_hidden_layers": 2, "query_pre_attn_scalar": 16, "sliding_window": 16,
                     "cross_attention_hidden_size": WIDTH, "bos_token_id": 2, "pad_token_id": 0},
         "vocab_size": BYTES + 1, "bos_token_id": 2, "pad_token_id": 0},
    ),
}  # fmt: skip
VISION: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bit": ("bit", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "num_groups": 4}),
    "donut_swin": (
        "donut-swin",
        {"embed_dim": 32, "depths": [1, 3], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 4},
    ),
    "hgnet": (
        "hgnet_v2",
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "stem_channels": [3, 16, 16],
         "stage_in_channels": [16, 32], "stage_mid_channels": [16, 24], "stage_out_channels": [32, 64],
         "stage_num_blocks": [1, 1], "stage_downsample": [False, True], "stage_downsample_strides": [2, 2],
         "stage_light_block": [False, True], "stage_kernel_size": [3, 5], "stage_numb_of_layers": [3, 3]},
    ),
    "mobilenet_v1": ("mobilenet_v1", {"image_size": 32, "depth_multiplier": 0.25, "classifier_dropout_prob": 0.1}),
    "mobilenet_v2": ("mobilenet_v2", {"image_size": 32, "depth_multiplier": 0.25, "classifier_dropout_prob": 0.1}),
    "pvt_v1": (
        "pvt",
        {"image_size": 32, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
         "mlp_ratios": [4, 4, 2, 2]},
    ),
    "textnet": (
        "textnet",
        {"stem_out_channels": 16, "hidden_sizes": [16, 24, 32, 48, 64], "image_size": [32, 32],
         "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [3, 1]], [[3, 3]], [[1, 3]]],
         "conv_layer_strides": [[1], [2, 1], [2], [2]]},
    ),
    "siglip_classifier": ("siglip", {"vision_config": {**VIT, "num_hidden_layers": 4, "hidden_size": 48}}),
    "vit_deep": ("vit", {**VIT, "num_hidden_layers": 8, "hidden_size": 40, "intermediate_size": 80, "qkv_bias": False}),
}  # fmt: skip
