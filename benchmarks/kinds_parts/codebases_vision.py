"""Small models of pictures and sound, and of libraries with many options: DiT, whisper, x-transformers, open_clip, timm."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
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
    halves,
    words,
)
from kinds_parts.judge import Label, rows, sizes, table

TIMM = (
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224", "vit_relpos_small_patch16_224"),
    *("beit_base_patch16_224", "beitv2_base_patch16_224", "eva_giant_patch14_224", "eva02_tiny_patch14_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swin_s3_tiny_224", "swinv2_cr_tiny_224"),
    *(
        "davit_tiny",
        "levit_128s",
        "levit_conv_128s",
        "gcvit_xxtiny",
        "caformer_s18",
        "convformer_s18",
        "poolformer_s12",
    ),
    *("cait_xxs24_224", "xcit_nano_12_p16_224", "volo_d1_224", "pvt_v2_b0", "twins_pcpvt_small", "twins_svt_small"),
    *(
        "coat_tiny",
        "crossvit_tiny_240",
        "tnt_s_legacy_patch16_224",
        "visformer_tiny",
        "efficientformer_l1",
        "nest_tiny",
    ),
    *(
        "efficientformerv2_s0",
        "mobilevit_xxs",
        "mobilevitv2_050",
        "edgenext_xx_small",
        "maxvit_tiny_tf_224",
        "coatnet_0_224",
    ),
    *(
        "convit_tiny",
        "mvitv2_tiny",
        "hiera_tiny_224",
        "samvit_base_patch16",
        "mixer_s16_224",
        "convnext_atto",
        "focalnet_tiny_srf",
    ),
    *(
        "vit_dpwee_patch16_reg1_gap_256",
        "vit_pwee_patch16_reg1_gap_256",
        "vit_base_patch14_dinov2",
        "vit_giant_patch14_dinov2",
    ),
    *(
        "vit_so400m_patch14_siglip_224",
        "vit_small_patch16_dinov3",
        "naflexvit_base_patch16_gap",
        "efficientvit_b0",
        "efficientvit_m0",
    ),
    *(
        "tiny_vit_5m_224",
        "repvit_m0_9",
        "fastvit_t8",
        "swiftformer_xs",
        "shvit_s1",
        "vitamin_small_224",
        "rope_vit_reg4_b14_x",
    ),
    *(
        "resnet18",
        "seresnet18",
        "botnet26t_256",
        "halonet26t",
        "lambda_resnet26t",
        "ese_vovnet19b_dw",
        "efficientnet_b0",
    ),
)
"""One model or two of each family that has attention, and some convolutional networks with squeeze-excite."""


@codebase("DiT")
def dit(folder: Path) -> Iterator[Case]:
    models = importlib.import_module("models")
    model = models.DiT(input_size=8, hidden_size=48, depth=2, num_heads=4, num_classes=10)
    entries = [
        (r"attn\.qkv", lambda shape: sizes(shape, attn_q=48, attn_k=48, attn_v=48)),
        (r"attn\.proj", WO),
        (r"mlp\.fc1", IN),
        (r"mlp\.fc2", OUT),
        (r".", NONE),
    ]
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.tensor([3, 4]))
    yield Case("DiT", model, inputs, table(entries, {Q: 4, K: 4, V: 4, WO: 4}))


@codebase("whisper", None)
def whisper(folder: Path) -> Iterator[Case]:
    module = importlib.import_module("whisper.model")
    for tail in (False, True):
        module.MultiHeadAttention.use_sdpa = tail
        model = module.Whisper(module.ModelDimensions(8, 20, 48, 4, 2, 64, 16, 48, 4, 2))
        entries = [
            (r"attn\.query", Q), (r"attn\.key", K), (r"attn\.value", V), (r"attn\.out", WO), (r"mlp\.0", IN), (r"mlp\.2", OUT),
            (r"conv\d", ("other", "embedding", "mixer")), (r"embedding", ("embedding", "lm_head", "other")),
        ]  # fmt: skip
        inputs = (torch.randn(2, 8, 40), words(2, 8))
        yield Case(f"sdpa={tail}", model, inputs, table(entries, {Q: 4, K: 4, V: 4, WO: 4}))


@codebase("x-transformers", None)
def x_transformers(folder: Path) -> Iterator[Case]:
    x = importlib.import_module("x_transformers")
    for change in (
        {}, {"ff_glu": True}, {"ff_swish": True, "ff_glu": True}, {"ff_glu_mult_bias": True, "ff_glu": True},
        {"attn_flash": True},
        {"attn_kv_heads": 2}, {"attn_one_kv_head": True}, {"attn_qk_norm": True}, {"attn_gate_values": True},
        {"attn_talking_heads": True}, {"rotary_pos_emb": True}, {"alibi_pos_bias": True}, {"rel_pos_bias": True},
        {"sandwich_norm": True}, {"use_rmsnorm": True, "rotary_xpos": True}, {"attn_sparse_topk": 4}, {"ff_relu_squared": True},
        {"attn_num_mem_kv": 3}, {"attn_head_scale": True}, {"attn_on_attn": True}, {"macaron": True}, {"resi_dual": True},
        {"attn_add_value_residual": True}, {"attn_sigmoid": True}, {"attn_softclamp_logits": True}, {"attn_l2_distance": True},
        {"attn_use_cope": True}, {"attn_laser": True}, {"attn_shared_kv": True}, {"attn_gate_value_heads": True},
        {"attn_data_dependent_alibi": True}, {"attn_hybrid_fold_axial_dim": 2}, {"attn_forgetting": True},
    ):  # fmt: skip
        name = ", ".join(f"{k}={v}" for k, v in change.items()) or "plain"
        try:
            settings = {"attn_dim_head": 8, **change}
            layers = x.Decoder(dim=48, depth=2, heads=4, **settings)
            model = x.TransformerWrapper(num_tokens=64, max_seq_len=32, attn_layers=layers)
        except Exception as error:  # an option of another version
            print(f"x-transformers {name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        groups = 1 if change.get("attn_one_kv_head") else change.get("attn_kv_heads", 4)
        gated = change.get("ff_glu", False)
        entries = [
            (r"to_q\.", Q),
            (r"to_kv\.", ("attn_kv",)),
            (r"to_k\.", ("attn_kv", "other") if change.get("attn_shared_kv") else K),
            (r"to_v\.", V),
            (r"to_out\.", WO),
            (r"to_v_gate\.|to_v_head_gate\.", "attn_gate"),
            (r"\.1\.ff\.0\.proj", lambda shape: rows(shape, 0, [UP, GATE], (2, shape[0] // 2, shape[1]))),  # x, gate
            (r"ff\.0\.proj", lambda shape: rows(shape, 0, [UP, GATE], (2, shape[0] // 2, shape[1]))),
            (r"ff\.0\.0\.", IN),
            (r"\.ff\.\d\.weight", DOWN if gated else OUT),
            (r"token_emb|pos_emb|to_logits", ("embedding", "lm_head", "other")),
            (r".", NONE),
        ]
        yield Case(name, model, (words(),), table(entries, {Q: 4, K: groups, V: groups, WO: 4}))


@codebase("open_clip", None)
def open_clip(folder: Path) -> Iterator[Case]:
    clip = importlib.import_module("open_clip.model")
    coca = importlib.import_module("open_clip.coca_model")
    text = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 4, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8}

    def at(width: int) -> Callable[[Any], Any]:
        return lambda shape: sizes(shape, attn_q=shape[1], attn_k=shape[1], attn_v=shape[1])

    entries = [
        (r"in_proj_weight", at(0)),
        (r"attn(?:pool)?\.q_proj_weight|attnpool\.q_proj|\.q_proj_weight", Q),
        (r"k_proj", K),
        (r"v_proj", V),
        (r"attnpool\.c_proj", WO),
        (r"out_proj", WO),
        (r"mlp\.c_fc", IN),
        (r"mlp\.c_proj", OUT),
        (r".", NONE),
    ]
    pictures, ids = torch.randn(2, 3, 32, 32), words(2, 12)
    for name, change in (
        ("ViT", {}),
        ("ViT attentional pool", {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}),
        ("ViT layer scale", {"ls_init_value": 0.1, "pool_type": "avg"}),
        ("ResNet", {"layers": [1, 1, 1, 1], "width": 32, "patch_size": None, "head_width": 16}),
    ):
        model = clip.CLIP(24, {**vision, **change}, text)
        yield Case(name, model, (pictures, ids), table(entries))
    decoder = coca.MultimodalCfg(
        context_length=12, vocab_size=64, width=32, heads=4, layers=2, n_queries=4, attn_pooler_heads=4
    )
    pooled = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4, "output_tokens": True}
    words_too = {**text, "embed_cls": True, "output_tokens": True}
    model = coca.CoCa(24, decoder, words_too, {**vision, **pooled})
    yield Case("CoCa", model, (pictures, ids), table(entries))


THREE, NOT_THREE = (
    re.compile(r"\.(?:qkv|kv|qkvs\.\d+|in_proj)\.(?:conv|linear|c)?\.?weight$"),
    re.compile(r"factoratt|xca|lambda|context_module|attn_block\.\d+\.kv"),
)


def _timm_qkv(model: nn.Module) -> Any:
    """Rows of ``qkv`` by the module that holds it."""

    def label(name: str, shape: Any) -> Any:
        module = model.get_submodule(re.split(r"\.(?:q?kv|qkvs|in_proj)\.", name)[0])
        kind, pair = type(module).__name__, ".kv." in name
        if hasattr(module, "dim_head_qk") and pair:  # halo attention: each head's key, then its value
            return [(K, module.dim_head_qk), (V, module.dim_head_v)], module.num_heads
        if ".qkvs." in name or kind == "SHSA":  # a head for itself; one head
            size = module.key_dim if ".qkvs." in name else module.qk_dim
            return [(Q, size), (K, size), (V, shape[0] - 2 * size)], 1
        if kind == "AttentionDownsample":  # LeViT's: each head's key, then its value
            return [(K, module.key_dim), (V, module.val_dim)], module.num_heads
        if hasattr(module, "key_dim") and hasattr(module, "val_dim"):  # LeViT and its kin: three of each head
            return [(Q, module.key_dim), (K, module.key_dim), (V, module.val_dim)], module.num_heads
        if kind in ("Attention2d", "AttentionCl") and getattr(module, "head_first", False):
            return [(r, module.dim_head) for r in QKV], module.num_heads
        if kind == "ChannelAttention":  # DaViT: softmax(k v), then times q: by what they do, v, q and k
            return [(r, shape[0] // 3) for r in (V, Q, K)], 1
        if ".in_proj." in name:  # a block in parallel: its feed-forward part, then q, k and v
            width = shape[1]
            return [(IN, shape[0] - 3 * width), *((r, width) for r in QKV)], 1
        if pair or getattr(module, "use_global", False):
            return [(r, shape[0] // 2) for r in (K, V)], 1
        return [(r, shape[0] // 3) for r in QKV], 1

    return label


@codebase("timm", None)
def timm(folder: Path) -> Iterator[Case]:
    module = importlib.import_module("timm")
    known = set(module.list_models())
    for name in TIMM:
        if name not in known:
            continue
        with torch.device("meta"):
            try:
                model = module.create_model(name, depth=2)
            except Exception:  # not every family has a depth
                try:
                    model = module.create_model(name)
                except Exception as error:
                    print(f"timm {name}: {error}", file=sys.stderr)
                    continue
        size = model.pretrained_cfg["input_size"]
        rows_of = _timm_qkv(model)
        convolutional = name.startswith(
            ("resnet", "seresnet", "ese_", "efficientnet", "convnext", "convformer", "poolformer")
        )

        packed = {f"{n}.fc1.weight": m.gate_last for n, m in model.named_modules() if type(m).__name__ == "GluMlp"}
        odd = name.startswith(("lambda", "swiftformer", "mobilevitv2"))
        plain_label = table(_timm_table(convolutional, packed, odd))

        def label(
            parameter: str, tensor: Any, rows_of: Any = rows_of, plain_label: Any = plain_label, odd: bool = odd
        ) -> Any:
            shape = tuple(tensor.shape)
            if THREE.search(parameter) and not NOT_THREE.search(parameter) and not odd:
                order, repeats = rows_of(parameter, shape)
                kinds = [kind for _ in range(repeats) for kind, n in order for _ in range(n)]
                if len(kinds) == shape[0]:
                    made = rows(shape, 0, kinds)
                    return Label(tuple(made), made)
                return None
            return plain_label(parameter, tensor)

        inputs = (torch.zeros(1, *size),)
        yield Case(name, model.eval(), inputs, label)


HOLDERS = r"blocks|layers|stages|levels|network|blocks_token_only|serial_blocks\d|parallel_blocks|attn_pool|stage\d"
"""Names of what holds the blocks of timm's models."""


def _two_in_one(shape: Any) -> Any:
    """The columns that read an attention, as many as the rows, then those that read the feed-forward block beside it."""
    return rows(shape, 1, [WO] * shape[0] + [OUT] * (shape[1] - shape[0]))


def _timm_table(convolutional: bool, packed: Mapping[str, bool], odd: bool) -> list[tuple[str, Any]]:
    ffn_in = (IN, "other", "mixer") if convolutional else IN
    ffn_out = (OUT, "other", "mixer") if convolutional else OUT
    return [
        (
            r"cpb_mlp|rel_pos|relative_position|pos_embed|patch_embed|stem|\.se\.|\.fc[12]\.weight$(?<=se.fc1.weight)",
            NONE,
        ),
        (r"\.se\d?\.|_se\.|attention_biases|\.gate\.", NONE),
        (
            r"factoratt|xca|meta_mlp|linear_attn|context_module",
            (*NONE, Q, K, V, WO),
        ),  # linear attention, and biases of positions
        *([(r"attn", (*NONE, Q, K, V, WO, "attn_qkv"))] if odd else []),  # no scores of queries and keys
        *((rf"^{re.escape(fc1)}$", halves(UP, GATE) if last else halves(GATE, UP)) for fc1, last in packed.items()),
        *((rf"^{re.escape(fc1.replace('fc1', 'fc2'))}$", DOWN) for fc1 in packed),
        (r"mlp_tokens", ("other", "mixer", IN, OUT)),
        # VOLO's outlook attention has no keys: one matrix makes the weights of the values.
        (r"^network\.0\.\d+\.attn\.attn", NONE),
        (r"^network\.0\.\d+\.attn\.(?:v|proj)", (*NONE, V, WO)),
        (r"\.(?:talking_head\d|proj_[lw])\.", NONE),  # they mix the scores of heads
        (
            r"(?:^|\.)(?:\w*attn\w*|token_mixer|global_mixer)\.(?:q|wq|q_proj|query)\.(?:proj\.conv\.|ln\.linear\.|conv\.)?weight",
            Q,
        ),
        (r"self_attn\.q_proj", Q),
        (r"(?:^|\.)(?:\w*attn\w*|token_mixer)\.(?:k|wk|k_proj|key)\.(?:conv\.)?weight", K),
        (r"(?:^|\.)(?:\w*attn\w*|token_mixer)\.(?:v|wv|v_proj)\.(?:conv\.)?weight", V),
        (r"attn\w*\.kv\.weight", lambda s: rows(s, 0, [K, V], (2, s[0] // 2, *s[1:]))),
        (r"attn\w*\.qk\.weight", lambda s: rows(s, 0, [Q, K], (2, s[0] // 2, *s[1:]))),
        (r"attn\w*\.proj\.(?:ln\.|1\.)?(?:conv\.|linear\.)?weight|token_mixer\.proj\.(?:conv\.)?weight", WO),
        (r"\.mixer\.m\.proj\.1\.c\.weight|attn_out_proj", WO),  # SHViT: of attended channels, and of others beside them
        (r"(?:^|\.)blocks\.\d+\.out_proj\.weight", _two_in_one),
        (r"conv3_1x1", (WO, "other")),  # where a block has an attention, it reads it
        (r"\.modulation\.", NONE),  # what is around a position chooses its channels
        (r"mlp\.fc1_g|mlp\.w0\.", GATE),
        (r"mlp\.fc1_x|mlp\.w1\.", UP),
        (r"mlp\.w12", halves(GATE, UP)),
        (r"mlp\.w2\.", DOWN),
        # Blocks of convolutions of which each reads one position, around one that reads several.
        (r"\.(?:local_representation|blocks\.\d+)\.pwconv1\.", (IN, "other", "mixer")),
        (r"\.(?:local_representation|blocks\.\d+)\.pwconv2\.", (OUT, "other", "mixer")),
        (r"(?:channel_mixer|downsample\.ffn)\.conv1\.", IN),
        (r"(?:channel_mixer|downsample\.ffn)\.conv2\.", OUT),
        (r"\.(?:ffn\d?|res\d\.\d|downsample\.\d)\.m\.pw1\.", IN),
        (r"\.(?:ffn\d?|res\d\.\d|downsample\.\d)\.m\.pw2\.", OUT),
        (r"stage1\..*mlp\.conv", (IN, OUT, "other", "mixer")),  # Visformer's have a third, of groups, between
        (r"mlp\.conv1\.", ffn_in),
        (r"mlp\.conv3\.", ffn_out),
        (r"\.linear\.fc1\.", IN),
        (r"\.linear\.fc2\.", OUT),
        (r"mlp_out_proj", OUT),
        (rf"(?:{HOLDERS})\..*mlp(?:_channels|_in|\d)?\.(?:fc1|ln1\.linear)\.weight", ffn_in),
        (rf"(?:{HOLDERS})\..*mlp(?:_channels|_in|\d)?\.(?:fc2|ln2\.linear)\.weight", ffn_out),
    ]


@codebase("torchvision", None)
def torchvision(folder: Path) -> Iterator[Case]:
    models = importlib.import_module("torchvision.models")
    third = lambda shape: rows(shape, 0, QKV, (3, shape[0] // 3, shape[1]))  # noqa: E731
    entries = [
        (r"cpb_mlp|squeeze_excitation|relative_position|logit_scale|MBconv", NONE),
        (r"in_proj_weight|attn\.qkv|to_qkv", third),
        (r"self_attention\.out_proj|attn\.proj|\.merge\.", WO),
        (r"\.mlp\.0\.|\.mlp_layer\.1\.", IN),
        (r"\.mlp\.3\.|\.mlp_layer\.3\.", OUT),
        (r".", NONE),
    ]
    picture, film = torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 8, 64, 64)
    for name in ("vit_b_32", "swin_t", "swin_v2_t", "maxvit_t", "swin3d_t"):
        make = getattr(models, name, None) or getattr(models.video, name)
        with torch.device("meta"):
            model = make()
        yield Case(name, model.eval(), (film if name == "swin3d_t" else picture,), table(entries))
