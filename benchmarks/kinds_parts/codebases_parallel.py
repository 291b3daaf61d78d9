"""Small models of code bases that need a group of processes, a GPU or a script, with stand-ins for those."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinds_parts.codebases import (
    DOWN,
    GATE,
    IN,
    NONE,
    OUT,
    QKV,
    UP,
    WO,
    Case,
    K,
    Q,
    V,
    codebase,
    grouped,
    halves,
    latent,
    thirds,
    words,
)
from kinds_parts.judge import rows, sizes, table
from kinds_parts.stand_ins import stand_in, without_cuda


@codebase("Megatron-LM")
def megatron_core(folder: Path) -> Iterator[Case]:
    import contextlib

    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29561",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    os.environ.update(environment)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    importlib.import_module("megatron.core.parallel_state").initialize_model_parallel(1, 1)
    without_cuda()
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    random.CudaRNGStatesTracker.fork = lambda self, *args: contextlib.nullcontext()
    Config = importlib.import_module("megatron.core.transformer.transformer_config").TransformerConfig
    GPTModel = importlib.import_module("megatron.core.models.gpt").GPTModel
    spec = importlib.import_module("megatron.core.models.gpt.gpt_layer_specs").get_gpt_layer_local_spec
    base = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "use_cpu_initialization": True}
    base |= {"hidden_dropout": 0, "attention_dropout": 0, "pipeline_dtype": torch.float32}
    silu = {"gated_linear_unit": True, "activation_func": torch.nn.functional.silu, "add_bias_linear": False}
    experts = {"num_moe_experts": 4, "moe_router_topk": 2}
    time = 16
    mask = torch.ones(1, 1, time, time).triu(1).bool()
    for name, change, of_spec in (
        ("gpt", {}, {}),
        ("grouped swiglu", {"num_query_groups": 2, **silu}, {}),
        ("multi-query", {"num_query_groups": 1}, {}),
        ("swiglu unfused", {**silu, "bias_activation_fusion": False}, {}),
        ("moe", {**experts, **silu}, {"num_experts": 4}),
        ("moe shared", {**experts, **silu, "moe_shared_expert_intermediate_size": 32}, {"num_experts": 4}),
        (
            "qk-norm",
            {"qk_layernorm": True, "normalization": "RMSNorm"},
            {"qk_layernorm": True, "normalization": "RMSNorm"},
        ),
    ):
        groups = change.get("num_query_groups", 4)
        gated = "gated_linear_unit" in change
        made = Config(**base, **change)
        model = GPTModel(made, spec(**of_spec), 64, 32, position_embedding_type="rope")
        entries = [
            (r"linear_qkv", grouped(4, groups, 16, 64)),
            (r"linear_proj", WO),
            (r"linear_fc1", (lambda shape: rows(shape, 0, [GATE, UP], (2, shape[0] // 2, 64))) if gated else IN),
            (r"linear_fc2", DOWN if gated else OUT),
            (r"router", ("router", "other")),
            (r"embedding|output_layer", ("embedding", "lm_head", "other")),
        ]
        inputs = (words(2, time), torch.arange(time).expand(2, -1), mask)
        yield Case(name, model.eval(), inputs, table(entries, {Q: 4, K: groups, V: groups, WO: 4}))


@codebase("torchtitan")
def torchtitan(folder: Path) -> Iterator[Case]:
    stand_in("tyro", "fla")
    time = 16
    for family in ("llama3", "qwen3", "deepseek_v3", "gpt_oss"):
        module = importlib.import_module(f"torchtitan.models.{family}")
        for flavor, make in getattr(
            module, f"{family.replace('deepseek_v3', 'deepseekv3').replace('gpt_oss', 'gptoss')}_configs"
        ).items():
            if not flavor.startswith("debug"):
                continue
            moe = family in ("deepseek_v3", "gpt_oss") or "moe" in flavor
            config = make(attn_backend="flex", **({"moe_comm_backend": "standard"} if moe else {}))
            model = config.build().requires_grad_(False)
            attention = config.layers[0].attention
            heads = attention.n_heads
            groups = getattr(attention, "n_kv_heads", None) or heads
            wide = next((p.shape for n, p in model.named_parameters() if "wqkv" in n), (0, 0))
            size = wide[0] // (heads + 2 * groups)
            entries = [
                (r"wqkv", grouped(heads, groups, size, wide[1])),
                (r"wkv_a", "attn_kv_a"),
                (r"wkv_b", lambda shape, n=heads, a=attention: latent(shape, n, a.qk_nope_head_dim, a.v_head_dim)),
                (r"wq_a", "attn_q_a"),
                (r"wq_b", "attn_q_b"),
                (r"wq\.", Q),
                (r"wk\.", K),
                (r"wv\.", V),
                (r"wo\.", WO),
                (r"mlp1_weight", lambda shape: rows(shape, 2, [GATE, UP], (shape[0], shape[1] // 2, 2, shape[2]))),
                (r"mlp2_weight", DOWN),
                (r"w1", GATE),
                (r"w3", UP),
                (r"w2", DOWN),
                (r"bias", NONE),
                (r"router|gate", ("router", "other")),
                (r"embeddings|lm_head", ("embedding", "lm_head", "other")),
            ]
            ids, positions = torch.arange(time) % 50, torch.arange(time)
            inputs = (ids, positions, model.get_attention_masks(positions))
            of = {} if family == "deepseek_v3" else {Q: heads, K: groups, V: groups, WO: heads}
            yield Case(f"{family} {flavor}", model, inputs, table(entries, of))


@codebase("gpt-neox")
def gpt_neox(folder: Path) -> Iterator[Case]:
    without_cuda()
    stand_in("sentencepiece", "best_download", "lm_dataformat", "mpi4py")
    transformer = importlib.import_module("megatron.model.transformer")
    arguments = importlib.import_module("megatron.neox_arguments").NeoXArgs

    class Plain(nn.Linear):
        """A parallel layer on one rank: gives its output and its bias apart where the bias is added later."""

        def __init__(self, neox_args: Any, input_size: int, output_size: int, bias: bool = True, **rest: Any):
            super().__init__(input_size, output_size, bias)
            self.later = rest.get("skip_bias_add", False)

        def forward(self, x: Any) -> Any:
            out = nn.functional.linear(x, self.weight, None if self.later else self.bias)
            return out, (self.bias if self.later else None)

    transformer.get_parallel_linear = lambda args: (Plain, Plain)
    transformer.mpu.get_model_parallel_world_size = lambda: 1
    tracker = type("Tracker", (), {"fork": lambda self: contextlib.nullcontext()})()
    transformer.mpu.get_cuda_rng_tracker = lambda: tracker
    for change in (
        {},
        {"activation": "swiglu"},
        {"activation": "geglu"},
        {"num_kv_heads": 2},
        {"gpt_j_residual": True},
    ):
        settings = {
            "num_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "seq_length": 32, "max_position_embeddings": 32,
            "pos_emb": "rotary", "hidden_dropout": 0.0, "attention_dropout": 0.0, "train_batch_size": 1, "precision": "fp32",
            "train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "Adam", "params": {"lr": 0.1}}, "global_num_gpus": 1,
            "scaled_upper_triang_masked_softmax_fusion": False, "bias_gelu_fusion": False, "use_bias_in_mlp": True, **change,
        }  # fmt: skip
        args = arguments(**settings)
        normal = nn.init.normal_
        layer = transformer.ParallelTransformerLayer(
            args, lambda scores, mask: scores.masked_fill(mask, -1e4), normal, normal, 0, rotary=True
        )
        groups = change.get("num_kv_heads", 4)
        gated = "activation" in change
        if groups == 4:
            qkv: Any = lambda shape: rows(shape, 1, list(QKV), (4, 3, 16, 64))  # noqa: E731
        else:
            qkv = lambda shape: sizes(shape, attn_q=64, attn_k=32, attn_v=32)  # noqa: E731
        entries = [
            (r"query_key_value", qkv),
            (r"attention\.dense", WO),
            (r"linear1", halves(UP, GATE) if gated else IN),
            (r"linear2", DOWN if gated else OUT),
        ]
        mask = torch.ones(1, 1, 16, 16).triu(1).bool()
        name = ", ".join(f"{k}={v}" for k, v in change.items()) or "plain"
        yield Case(
            name, layer.eval(), (torch.randn(16, 2, 64), mask), table(entries, {Q: 4, K: groups, V: groups, WO: 4})
        )


@codebase("modded-nanogpt", "records")
def modded_nanogpt(folder: Path) -> Iterator[Case]:
    """Classes of records, taken out of their scripts, which train when they are run."""
    files = [*folder.glob("track_*/*/*.py"), *folder.glob("track_*/*.py"), *folder.parent.glob("train_gpt*.py")]
    for path in sorted(files):
        text = path.read_text(errors="replace")
        if "class GPT(" not in text or "class CausalSelfAttention" not in text:
            continue
        try:
            model = _record(text, 16 if "medium" in path.name else 12)
        except Exception as error:
            print(f"{path.parent.name}/{path.name}: {type(error).__name__}: {str(error)[:150]}", file=sys.stderr)
            continue
        entries = [
            (r"attn\.(?:c_)?q\.", Q), (r"attn\.(?:c_)?k\.", K), (r"attn\.(?:c_)?v\.", V),
            (r"attn\.c_proj|attn\.proj\.", WO), (r"c_attn", thirds),
            (r"qkv_w$", lambda s: rows(s, 0, [*QKV][: s[0]]) if len(s) == 3 else thirds(s)),
            (r"qkvo_w$", lambda s: rows(s, 0, [*QKV, WO]) if len(s) == 3 else rows(s, 0, [*QKV, WO], (4, s[0] // 4, s[1]))),
            (r"mlp\.c_fc|mlp\.fc", IN), (r"mlp\.c_proj|mlp\.proj", OUT),
            (r"qk_bank", lambda s: rows(s, 1, [Q, K], (s[0], 2, s[1] // 2, s[2]))),
            (r"vo_bank", (V, WO, "other")),
            (r"mlp_bank", lambda s: rows(s, 1, [IN, OUT])),
            (r".", (*NONE, "attn_gate", "router")),
        ]  # fmt: skip
        model.requires_grad_(False)
        yield Case(f"{path.parent.name}/{path.name}", model, _record_inputs(model), table(entries))


def _record_inputs(model: nn.Module) -> Any:
    takes = inspect.signature(model.forward).parameters
    names = [name for name in list(takes)[:3] if "return" not in name]
    number = re.compile("window|blocksize")  # these scripts have one sequence, without a dimension for the batch
    ids = words(1, 256)[0] if any(number.search(name) for name in names) else words(1, 32)
    return tuple(torch.tensor(1, dtype=torch.int32) if number.search(name) else ids for name in names)


def _record(text: str, layers: int) -> nn.Module:
    """A small model of the classes and functions of a script, without running the rest of it."""
    text = text.replace("_compile=True", "_compile=False")  # its compiler needs a GPU
    tree = ast.parse(re.sub("([\"'])cuda\\1", "'cpu'", text))
    kept = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef))]
    module = types.ModuleType("record")
    names = module.__dict__  # where dataclasses look
    sys.modules["record"] = module
    names.update({"grad_scale": 1.0, "device": "cpu", "world_size": 1, "grad_accum_steps": 1})
    without_cuda()
    stand_in("triton", "kernels", "triton_kernels", "dc_triton_kernels", "tiktoken")
    for node in kept:
        with contextlib.suppress(Exception):  # a kernel or an optimizer that needs what is not here
            exec(compile(ast.Module([node], []), "record", "exec"), names)
    names.setdefault("args", type("Args", (), {"__getattr__": lambda self, name: 0})())
    config, gpt = names.get("GPTConfig"), names["GPT"]
    if config is not None:
        fields = config.__dataclass_fields__ if hasattr(config, "__dataclass_fields__") else {}
        small = {
            "vocab_size": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_embd": 128,
            "block_size": 32,
            "num_layers": layers,
            "model_dim": 128,
        }
        model: nn.Module = gpt(config(**{k: v for k, v in small.items() if k in fields}))
    else:
        takes = inspect.signature(gpt.__init__).parameters
        small = {
            "vocab_size": 64,
            "num_layers": layers,
            "num_heads": 2 if "head_dim" in takes else 1,  # of 128 features
            "head_dim": 64,
            "model_dim": 128,
            "max_seq_len": 256,
        }
        small |= {"mlp_ratio": 4, "num_val_emb": 2}
        model = gpt(**{k: v for k, v in small.items() if k in takes})
    if any(p.dtype == torch.bfloat16 for p in model.parameters()):  # as the scripts do before they train
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.bfloat16()
    return model
