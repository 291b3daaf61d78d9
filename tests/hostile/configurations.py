"""Settings of a ``config.json`` that ask for what no model is: each is laid over those of a small Llama."""

from __future__ import annotations

from typing import Any

GOOD: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
_MOE = {"decoder_sparse_step": 1, "moe_intermediate_size": 8}
CASES: dict[str, dict[str, Any]] = {
    "attention of the hub": {"_attn_implementation": "someone/evil"},
    "attention of the hub by part": {"attn_implementation": {"": "someone/evil"}},
    "attention of the hub inside": {"model_type": "llava", "text_config": {"_attn_implementation": "someone/evil"}},
    "kernels": {"use_kernels": True, "kernel_config": {"a": "someone/evil"}, "_experts_implementation": "someone/evil"},
    "remote code": {"auto_map": {"AutoConfig": "someone/evil--c.C", "AutoModel": "someone/evil--m.M"}},
    "backbone of the hub": {
        "model_type": "detr",
        "backbone": "someone/evil",
        "use_pretrained_backbone": True,
        "use_timm_backbone": False,
    },
    "backbone of timm": {"model_type": "detr", "backbone": "resnet50", "use_pretrained_backbone": True},
    "backbone of timm's hub": {"model_type": "timm_backbone", "backbone": "hf_hub:someone/evil"},
    "own dictionary": {"__class__": "x", "__dict__": {"_attn_implementation": "someone/evil"}},
    "own methods": {"to_dict": 5, "from_dict": "x", "get_text_config": 1},
    "labels": {"num_labels": 10**9},
    "names of labels": {"id2label": {str(n): "x" for n in range(200_000)}},
    "architectures as a number": {"architectures": 5},
    "architectures that are none": {"architectures": ["AutoModel", "pipeline", "__doc__", 5, None]},
    "layers and experts": {"model_type": "qwen3_moe", "num_hidden_layers": 60, "num_experts": 60, **_MOE},
    "many layers": {"num_hidden_layers": 400, "model_type": "mixtral", "num_local_experts": 2000},
    "codebooks": {"model_type": "musicgen_decoder", "num_codebooks": 100_000},
    "codebooks of dac": {"model_type": "dac", "n_codebooks": 10**6},
    "convolutions": {
        "model_type": "wav2vec2",
        "conv_dim": [8] * 9000,
        "conv_stride": [1] * 9000,
        "conv_kernel": [1] * 9000,
    },
    "languages": {"model_type": "xmod", "languages": [f"a{n}" for n in range(50_000)]},
    "depths": {"model_type": "resnet", "depths": [1500] * 4},
    "positions": {"model_type": "bert", "max_position_embeddings": 10**9},
    "vocabulary": {"vocab_size": 10**15},
    "integer of many digits": {"hidden_size": 10**400},
    "negative": {"hidden_size": -5},
    "zero": {"num_attention_heads": 0},
    "text": {"hidden_size": "64"},
    "dtype": {"torch_dtype": "set_num_threads", "dtype": "hub"},
    "model type": {"model_type": ["a"]},
    "no model type": {"model_type": None},
    "rope": {"rope_scaling": {"rope_type": "dynamic", "factor": 1e308}, "rope_theta": -1},
    "deep": {"text_config": {"a": [[[[[[[[[[1]]]]]]]]]]}},
}
