"""Architectures drawn at random from what people build, and the names that well-known code bases give to their parts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from corpus_drawn import one
from corpus_unseen_tasks import TASKS
from torch import Tensor, nn
from torch.nn import functional as F

USUAL: Final = (
    "embed=embed places=pos_embed blocks=blocks norm=norm head=head attn=attn cross=cross_attn q=q k=k v=v qkv=qkv o=proj "
    "ffn=mlp up=fc1 down=fc2 gate=gate both=gate_up router=router experts=experts shared=shared_expert n1=norm1 n2=norm2"
)
STYLES: Final[dict[str, str]] = {
    "llama": "embed=model.embed_tokens places=model.embed_positions blocks=model.layers norm=model.norm head=lm_head "
    "attn=self_attn cross=encoder_attn q=q_proj k=k_proj v=v_proj qkv=qkv_proj o=o_proj up=up_proj "
    "down=down_proj gate=gate_proj both=gate_up_proj router=gate n1=input_layernorm "
    "n2=post_attention_layernorm",
    "gpt2": "embed=transformer.wte places=transformer.wpe blocks=transformer.h norm=transformer.ln_f head=lm_head "
    "q=c_q k=c_k v=c_v qkv=c_attn o=c_proj up=c_fc down=c_proj gate=c_gate n1=ln_1 n2=ln_2",
    "neox": "embed=gpt_neox.embed_in blocks=gpt_neox.layers norm=gpt_neox.final_layer_norm head=embed_out "
    "attn=attention qkv=query_key_value q=query k=key v=value o=dense up=dense_h_to_4h down=dense_4h_to_h "
    "n1=input_layernorm n2=mlp_norm",
    "bert": "embed=bert.embeddings.word_embeddings places=bert.embeddings.position_embeddings "
    "blocks=bert.encoder.layer norm=bert.norm head=cls.decoder attn=attention q=self.query k=self.key "
    "v=self.value qkv=self.qkv o=output.dense ffn= up=intermediate.dense down=output.dense "
    "gate=intermediate.gate n1=attention_norm n2=output_norm",
    "meta": "embed=tok_embeddings blocks=layers norm=norm head=output attn=attention q=wq k=wk v=wv qkv=wqkv o=wo "
    "ffn=feed_forward up=w3 gate=w1 down=w2 both=w13 n1=attention_norm n2=ffn_norm",
    "lucidrains": "embed=token_emb places=pos_emb.emb blocks=attn_layers.layers norm=final_norm head=to_logits q=to_q "
    "k=to_k v=to_v qkv=to_qkv o=to_out ffn=ff up=net.0 down=net.3 gate=net.1 both=net.0.proj",
    "timm": "embed=patch_embed.proj places=pos_embed",
    "fairseq": "embed=decoder.embed_tokens places=decoder.embed_positions blocks=decoder.layers norm=decoder.layer_norm "
    "head=decoder.output_projection attn=self_attn cross=encoder_attn q=q_proj k=k_proj v=v_proj o=out_proj "
    "ffn= gate=fc_gate n1=self_attn_layer_norm n2=final_layer_norm",
    "torch": "embed=embedding places=positions blocks=encoder.layers head=fc_out attn=self_attn o=out_proj ffn= "
    "up=linear1 down=linear2 qkv=in_proj gate=linear3",
    "t5": "embed=shared blocks=decoder.block norm=decoder.final_layer_norm head=lm_head attn=layer.0.SelfAttention "
    "cross=layer.1.EncDecAttention o=o ffn=layer.2.DenseReluDense up=wi_1 gate=wi_0 down=wo "
    "n1=layer.0.layer_norm n2=layer.2.layer_norm",
    "mingpt": "embed=tok_emb places=pos_emb norm=ln_f q=query k=key v=value qkv=c_attn up=0 down=2 gate=1 n1=ln1 n2=ln2",
    "megatron": "embed=embedding.word_embeddings blocks=decoder.layers norm=decoder.final_layernorm head=output_layer "
    "attn=self_attention cross=cross_attention q=linear_q k=linear_k v=linear_v qkv=linear_qkv o=linear_proj "
    "up=linear_fc1 down=linear_fc2 both=linear_fc1 gate=linear_gate router=router.weight_in "
    "n1=input_layernorm n2=pre_mlp_layernorm",
    "mpt": "embed=transformer.wte places=transformer.wpe blocks=transformer.blocks norm=transformer.norm_f q=Wq k=Wk "
    "v=Wv qkv=Wqkv o=out_proj ffn=ffn up=up_proj down=down_proj gate=gate_proj n1=norm_1 n2=norm_2",
    "hooked": "embed=embed.W_E places=pos_embed.W_pos norm=ln_final head=unembed.W_U q=W_Q k=W_K v=W_V o=W_O up=W_in "
    "down=W_out gate=W_gate router=W_router n1=ln1 n2=ln2",
    "einsum": "embed=embedder.input_embedding blocks=layers norm=final_norm head=readout.w q=q_einsum.w k=k_einsum.w "
    "v=v_einsum.w o=attn_vec_einsum.w up=linear_up.w gate=gating_einsum.w down=linear.w n1=pre_attention_norm "
    "n2=pre_ffw_norm",
    "own": "embed=lookup blocks=stack norm=last head=readout attn=look cross=look_over q=asks k=answers v=says "
    "qkv=three o=back ffn=think up=widen down=narrow gate=valve both=widen_twice router=choose "
    "experts=choices n1=even1 n2=even2",
}
"""Where each role stands in the names of a code base; what is not there stands as in `USUAL`."""
RAW: Final = ("hooked", "einsum")
"""Styles that store each matrix as a parameter of its own: attention's have shapes (heads, in, dim) and (heads, dim, out)."""
INITS: Final = {
    "0.02": 20, "scaled": 14, "xavier": 10, "kaiming": 6, "mup": 10, "uniform": 10, "zero": 8, "orthogonal": 6, "tiny": 3,
    "wide": 4, "truncated": 8,
}  # fmt: skip
ACTS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@dataclass(frozen=True)
class Arch:
    """A drawn architecture; the fields say what `drawn_arch` chooses among."""

    style: str
    task: str
    width: int
    blocks: int
    length: int
    heads: int
    keys: int
    attention: str = "full"
    fused: bool = False
    store: str = "linear"
    norm: str = "rms"
    where: str = "before"
    places: str = "rotary"
    qk_norm: bool = False
    bias: str = "none"
    act: str = "gelu"
    gated: str = ""
    ratio: float = 4.0
    experts: int = 0
    top: int = 1
    shared: bool = False
    stacked: bool = False
    others: str = ""
    every: int = 2
    init: str = "0.02"
    embedding: float = 0.02
    scale: float = 0.0
    tied: bool = False
    wrap: str = ""
    dropout: float = 0.0

    @property
    def elements(self) -> int:
        """About how many weights a token meets in the blocks."""
        ffn = (3 if self.gated else 2) * self.ratio * (max(1, self.experts) + self.shared)
        towers = 2 if self.task in ("translate", "gan") else 1
        return int(towers * self.blocks * self.width**2 * (4 + ffn))


def drawn_arch(chance: random.Random) -> Arch:
    """An architecture whose blocks have no more than a million weights a token."""
    while True:
        a = _drawn_arch(chance)
        if a.elements <= 1e6:
            return a


def _drawn_arch(chance: random.Random) -> Arch:
    style, task = chance.choice([*STYLES]), one(chance, {name: t.share for name, t in TASKS.items()})
    width, heads = chance.choice((32, 48, 64, 64, 64, 96, 96, 128, 192)), chance.choice((2, 4, 4, 8))
    raw, gated = style in RAW, one(chance, {"": 10, "apart": 7, "fused": 3})
    norm = one(chance, {"rms": 10, "layer": 9, "none": 1})
    places = one(chance, {"rotary": 8, "learned": 5, "alibi": 2, "none": 2})
    init = one(chance, INITS)
    experts = one(chance, {0: 17, 4: 2, 6: 1})
    store = "raw" if raw else "conv1d" if chance.random() < (0.7 if style == "gpt2" else 0.04) else "linear"
    sizes = TASKS[task]
    a = Arch(
        style, task, width, chance.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 8, 10, 12)),
        sizes.length or chance.choice((16, 24, 32, 48)),
        heads, chance.choice((heads, heads, heads, max(1, heads // 2), 1)),
        attention=one(chance, {"full": 12, "low rank": 2, "window": 2, "linear": 1}) if not raw else "full",
        fused=not raw and chance.random() < (0.8 if style in ("neox", "gpt2", "timm", "megatron", "mpt") else 0.15),
        store=store, norm=norm, places=places, init="zero" if norm == "none" and init != "scaled" else init,
        where="before" if norm == "none" else one(chance, {"before": 12, "after": 3, "sandwich": 2, "output": 2, "parallel": 3}),
        qk_norm=chance.random() < 0.25, bias=one(chance, {"none": 9, "all": 7, "qkv": 2}), act=chance.choice([*ACTS]),
        gated="apart" if gated and raw else gated, ratio=chance.choice((1.0, 2.0, 8 / 3, 3.0, 4.0, 4.0)), experts=experts,
        top=chance.choice((1, 2)), shared=chance.random() < 0.4, stacked=chance.random() < 0.5,
        others=one(chance, {"": 16, "conv": 2, "state space": 3, "gru": 1, "linear": 1}), every=chance.choice((1, 2, 3)),
        embedding=chance.choice((0.02, 0.02, 0.1, 1.0, 0.0)), scale=one(chance, {0.0: 12, 1.0: 1, 0.1: 2, 1e-4: 1}),
        tied=sizes.tokens == sizes.outputs and chance.random() < 0.4, dropout=chance.choice((0.0, 0.0, 0.0, 0.1, 0.2)),
        wrap=one(chance, {"": 24, "weight norm": 1, "spectral norm": 1}) if store == "linear" and init != "zero" else "",
    )  # fmt: skip
    return replace(a, embedding=0.02 if a.tied else a.embedding or width**-0.5)


def first(a: Arch, role: str, n_out: int, n_in: int) -> Tensor:
    """First values of a matrix, shape (out, in)."""
    w, output = torch.empty(n_out, n_in), role in ("o", "down")
    if a.init == "xavier":
        return nn.init.xavier_uniform_(w)
    if a.init == "kaiming":
        return nn.init.kaiming_normal_(w)
    if a.init == "orthogonal":
        return nn.init.orthogonal_(w)
    if a.init == "uniform":
        return nn.init.kaiming_uniform_(w, math.sqrt(5))
    if a.init == "truncated":
        return nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04)
    if a.init == "zero" and output:
        return w.zero_()
    std = {"mup": n_in**-0.5, "tiny": 1e-4, "wide": 0.1}.get(a.init, 0.02)
    return w.normal_(std=std / math.sqrt(2 * a.blocks) if a.init == "scaled" and output else std)


def normed(a: Arch, width: int) -> nn.Module:
    return {"rms": nn.RMSNorm, "layer": nn.LayerNorm, "none": lambda _: nn.Identity()}[a.norm](width)  # type: ignore[no-any-return, operator]
