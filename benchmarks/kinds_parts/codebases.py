"""Small models of foreign code bases, and what each of their matrices is: read in their code by hand.

A code base is a folder that holds a checkout, or an installed package. Nothing of it is part of this project.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinds_parts.judge import Label, rows, sizes, table
from kinds_parts.stand_ins import stand_in

Labelling = Callable[[str, Tensor], Label | None]


@dataclass(frozen=True)
class Case:
    """A model to judge: its name, the model, example inputs, and the labels."""

    name: str
    model: nn.Module
    inputs: Any
    label: Labelling


Builder = Callable[[Path], Iterator[Case]]
CODEBASES: dict[str, tuple[str, Builder]] = {}
"""Name of a code base -> the folder in the checkout that is imported from (empty: an installed package), and its models."""

EMBEDDING, HEAD, NONE = ("embedding", "other"), ("lm_head", "other"), ("other", "embedding", "norm", "mixer", "lm_head")
Q, K, V, WO = "attn_q", "attn_k", "attn_v", "attn_o"
GATE, UP, DOWN, IN, OUT = "ffn_gate", "ffn_up", "ffn_down", "ffn_in", "ffn_out"
QKV = (Q, K, V)


def codebase(name: str, folder: str | None = "") -> Callable[[Builder], Builder]:
    def keep(builder: Builder) -> Builder:
        CODEBASES[name] = ("" if folder is None else f"{name}/{folder}".rstrip("/"), builder)
        return builder

    return keep


def words(batch: int = 2, time: int = 16, most: int = 50) -> Tensor:
    return torch.arange(batch * time).view(batch, time) % most


def grouped(heads: int, groups: int, size: int, width: int) -> Callable[[Any], Any]:
    """Each group's queries, then its key, then its value."""
    kinds = [Q] * (heads // groups) + [K, V]
    return lambda shape: rows(shape, 1, kinds, (groups, heads // groups + 2, size, width))


def latent(shape: Any, heads: int, key: int, value: int) -> Any:
    """What is made of the latents: each head's key, then its value."""
    return rows(shape, 1, [K] * key + [V] * value, (heads, key + value, shape[1]))


def thirds(shape: Any) -> Mapping[str, Any]:
    return sizes(shape, attn_q=shape[0] // 3, attn_k=shape[0] // 3, attn_v=shape[0] // 3)


def halves(first: str, second: str) -> Any:
    return lambda shape: rows(shape, 0, [first, second], (2, shape[0] // 2, *shape[1:]))


@codebase("nanoGPT")
def nanogpt(folder: Path) -> Iterator[Case]:
    gpt = importlib.import_module("model")
    for bias in (True, False):
        model = gpt.GPT(gpt.GPTConfig(block_size=32, vocab_size=64, n_layer=2, n_head=4, n_embd=48, bias=bias))
        entries = [
            (r"attn\.c_attn", lambda shape: sizes(shape, attn_q=48, attn_k=48, attn_v=48)),
            (r"attn\.c_proj", WO),
            (r"mlp\.c_fc", IN),
            (r"mlp\.c_proj", OUT),
            (r"wte|wpe|lm_head", ("embedding", "lm_head")),
        ]
        label = table(entries, {Q: 4, K: 4, V: 4, WO: 4})
        yield Case(f"bias={bias}", model, (words(),), label)


@codebase("nanochat")
def nanochat(folder: Path) -> Iterator[Case]:
    gpt = importlib.import_module("nanochat.gpt")
    for groups in (4, 2):
        config = gpt.GPTConfig(sequence_len=32, vocab_size=64, n_layer=4, n_head=4, n_kv_head=groups, n_embd=64)
        model = gpt.GPT(config)
        model.init_weights()
        entries = [
            (r"attn\.c_q", Q),
            (r"attn\.c_k", K),
            (r"attn\.c_v", V),
            (r"attn\.c_proj", WO),
            (r"mlp\.c_fc", IN),
            (r"mlp\.c_proj", OUT),
            (r"ve_gate|smear", ("other", "attn_gate", "router")),
            (r"wte|value_embeds", EMBEDDING),
            (r"lm_head", HEAD),
        ]
        yield Case(f"groups={groups}", model, (words(),), table(entries, {Q: 4, K: groups, V: groups, WO: 4}))


@codebase("litgpt")
def litgpt(folder: Path) -> Iterator[Case]:
    config_module = importlib.import_module("litgpt.config")
    model_module = importlib.import_module("litgpt.model")
    seen = set()
    for config in config_module.configs:
        shrunk = dict(config)
        heads = config.get("n_head", 32)
        groups = config.get("n_query_groups") or heads
        ratio = heads // groups
        heads = min(heads, 4 * ratio) if ratio <= 4 else 2 * ratio
        heads = heads if groups > 1 else min(ratio, 4)
        groups = max(1, heads // ratio) if groups > 1 else 1
        shrunk |= {"n_layer": 2, "n_head": heads, "n_query_groups": groups, "head_size": 8, "vocab_size": 64}
        shrunk |= {"n_embd": 48, "padded_vocab_size": 64, "block_size": 32, "sliding_window_size": None}
        shrunk["intermediate_size"] = 80 if config.get("intermediate_size") or "mlp_class_name" in config else None
        if config.get("moe_intermediate_size"):
            shrunk["moe_intermediate_size"] = 40
        if config.get("n_expert"):
            shrunk |= {"n_expert": 8, "n_expert_per_token": 2}
        if config.get("latent_attention"):
            shrunk["latent_attention"] = {
                **config["latent_attention"], "q_lora_rank": 20, "kv_lora_rank": 24, "qk_rope_head_dim": 4,
                "qk_nope_head_dim": 8, "v_head_dim": 8,
            }  # fmt: skip
            shrunk.pop("head_size")
        key = repr(sorted((k, repr(v)) for k, v in shrunk.items() if k not in ("name", "hf_config")))
        if key in seen:
            continue
        seen.add(key)
        made = config_module.Config(**shrunk)
        model = model_module.GPT(made)
        q, kv = heads * 8, groups * 8
        gated = made.mlp_class_name != "GptNeoxMLP"
        entries = [
            (r"attn\.qkv", lambda shape, q=q, kv=kv: sizes(shape, attn_q=q, attn_k=kv, attn_v=kv)),
            (r"attn\.proj", WO),
            (r"q_a_proj", "attn_q_a"),
            (r"q_b_proj", "attn_q_b"),
            (r"kv_a_proj", "attn_kv_a"),
            (r"kv_b_proj", lambda shape, heads=heads: latent(shape, heads, 8, 8)),
            (r"fc_1", GATE),
            (r"fc_2", UP),
            (r"mlp\..*proj", DOWN if gated else OUT),
            (r"mlp\.fc\.", IN),
            (r"mlp\.gate\.", ("router", "other")),
            (r"wte|lm_head", ("embedding", "lm_head")),
        ]
        heads_of = {Q: heads, K: groups, V: groups, WO: heads} if not made.latent_attention else {}
        yield Case(config["name"], model, (words(),), table(entries, heads_of))


@codebase("OLMo")
def olmo(folder: Path) -> Iterator[Case]:
    stand_in("cached_path", "google", "boto3", "botocore")
    OLMo = importlib.import_module("olmo.model").OLMo
    Config = importlib.import_module("olmo.config").ModelConfig
    base = {"activation_type": "swiglu", "block_type": "sequential"}
    for change in (
        {}, {"block_type": "llama"}, {"n_kv_heads": 2}, {"multi_query_attention": True}, {"activation_type": "gelu"},
        {"activation_type": "relu"}, {"attention_layer_norm": True}, {"norm_after": True}, {"alibi": True, "rope": False},
        {"weight_tying": True}, {"scale_logits": True, "clip_qkv": 8.0},
    ):  # fmt: skip
        settings: dict[str, Any] = {
            "d_model": 64, "n_heads": 4, "n_layers": 2, "mlp_ratio": 4, "vocab_size": 64, "embedding_size": 64, "rope": True,
            "max_sequence_length": 32, "init_device": "cpu", "include_bias": False, "weight_tying": False, **base, **change,
        }  # fmt: skip
        groups = 1 if change.get("multi_query_attention") else change.get("n_kv_heads", 4)
        kv = groups * 16
        gated = settings["activation_type"] == "swiglu"
        entries = [
            (r"att_proj", lambda shape, kv=kv: sizes(shape, attn_q=64, attn_k=kv, attn_v=kv)),
            (r"q_proj", Q),
            (r"k_proj", K),
            (r"v_proj", V),
            (r"attn_out", WO),
            (r"ff_proj", (lambda shape: sizes(shape, ffn_up=128, ffn_gate=128)) if gated else IN),  # x, gate = chunk
            (r"blocks\.\d+\.ff_out", DOWN if gated else OUT),
            (r"wte|wpe|transformer\.ff_out", ("embedding", "lm_head", "other")),
        ]
        name = ", ".join(f"{k}={v}" for k, v in change.items()) or "swiglu"
        yield Case(name, OLMo(Config(**settings)), (words(),), table(entries, {Q: 4, K: groups, V: groups, WO: 4}))


@codebase("OLMo-core", "src")
def olmo_core(folder: Path) -> Iterator[Case]:
    stand_in("cached_path", "bettermap", "google", "boto3", "botocore")
    T = importlib.import_module("olmo_core.nn.transformer").TransformerConfig
    small = {"d_model": 64, "vocab_size": 64, "n_layers": 2, "n_heads": 4}
    moe = {"num_experts": 4, "top_k": 2, "expert_hidden_size": 32}
    for name, make, groups in (
        ("olmo2_1M", lambda: T.olmo2_1M(vocab_size=64), None),
        ("olmo3_1M", lambda: T.olmo3_1M(vocab_size=64), None),
        ("llama", lambda: T.llama_like(**small), 4),
        ("llama grouped", lambda: T.llama_like(**small, n_kv_heads=2), 2),
        ("llama qk-norm", lambda: T.llama_like(**small, qk_norm=True), 4),
        ("ngpt", lambda: T.ngpt_like(**small), 4),
        ("moe", lambda: T.llama_like_moe(**small, **moe), 4),
        ("moe dropless", lambda: T.llama_like_moe(**small, **moe, dropless=True), 4),
        ("moe shared", lambda: T.llama_like_moe(**small, **moe, shared_expert_hidden_size=32), 4),
    ):
        entries = [
            (r"w_q", Q),
            (r"w_k", K),
            (r"w_v", V),
            (r"attention\.w_out", WO),
            (r"\.w1", GATE),
            (r"\.w3", UP),
            (r"\.w2", DOWN),
            (r"router", ("router", "other")),
            (r"embeddings|lm_head", ("embedding", "lm_head", "other")),
        ]
        heads = {Q: 4, K: groups, V: groups, WO: 4} if groups else {}
        yield Case(name, make().build(init_device="cpu"), (words(),), table(entries, heads))


@codebase("lingua")
def lingua(folder: Path) -> Iterator[Case]:
    stand_in("xformers")
    transformer = importlib.import_module("apps.main.transformer")
    for groups in (4, 2):
        args = transformer.LMTransformerArgs(
            dim=64, n_layers=2, n_heads=4, n_kv_heads=groups, vocab_size=64, max_seqlen=32, multiple_of=16
        )
        model = transformer.LMTransformer(args)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        entries = [
            (r"wq", Q), (r"wk", K), (r"wv", V), (r"wo", WO), (r"w1", GATE), (r"w3", UP), (r"w2", DOWN),
            (r"embeddings|output", ("embedding", "lm_head", "other")),
        ]  # fmt: skip
        inputs = {"token_values": words(), "attn_impl": "sdpa"}
        yield Case(f"groups={groups}", model, inputs, table(entries, {Q: 4, K: groups, V: groups, WO: 4}))
