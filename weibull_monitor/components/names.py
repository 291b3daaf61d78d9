"""Names: of parameters, without what wrappers add to them, and of modules, with the kinds they stand for.

The table below is read from top to bottom; the first row whose pattern matches the end of a module's path decides. The path
is the clean one, without ``.weight``. A row may ask for its context: that the path leads through an attention or a
feed-forward block, by the name or the class of a module above. Everything that depends on siblings (is there a
gate beside this up-projection?) is in `discover`.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.(?=.)"
)


def clean_name(parameter: str, peft: bool = False) -> str:
    """A parameter's name without the prefixes that wrappers add.

    Args:
        parameter: A name from ``model.named_parameters()``.
        peft: Whether the model is wrapped by PEFT, whose ``base_model.model.`` and ``.base_layer`` are then removed too.

    >>> clean_name("_orig_mod.module.model.layers.0.self_attn.q_proj.weight")
    'model.layers.0.self_attn.q_proj.weight'
    >>> clean_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", peft=True)
    'model.layers.0.self_attn.q_proj.weight'
    """
    name = _WRAPPERS.sub("", parameter)
    if peft:
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name


Context = Literal["attention", "ffn", "any"]


class Row(NamedTuple):
    """A row of the table: a kind, where it applies, and the ends of module paths that mean it."""

    kind: str
    context: Context
    names: str  # alternatives, each the last segments of a path; matched whole


TABLE: Final[tuple[Row, ...]] = (
    # Attention, stored apart.
    Row("attn_q", "attention", r"q_proj|query|q|wq|to_q|q_lin|q_attn"),
    Row("attn_k", "attention", r"k_proj|key|k|wk|to_k|k_lin"),
    Row("attn_v", "attention", r"v_proj|value|v|wv|to_v|v_lin"),
    Row("attn_o", "attention", r"o_proj|out_proj|o|wo|to_out|to_out\.0|out_lin|c_proj|dense|output\.dense|proj"),
    # Attention, fused.
    Row("attn_qkv", "attention", r"qkv_proj|qkv|query_key_value|c_attn|Wqkv|in_proj|wqkv"),
    Row("attn_kv", "attention", r"kv_proj|kv|to_kv|key_value"),
    # Feed-forward; `ffn_up` and `ffn_down` become `ffn_in` and `ffn_out` where there is no gate beside them.
    Row("ffn_gate_up", "ffn", r"gate_up_proj"),
    Row("ffn_gate", "ffn", r"gate_proj|wi_0|w1"),
    Row("ffn_up", "ffn", r"up_proj|wi_1|w3"),
    Row("ffn_down", "ffn", r"down_proj|w2|wo"),
    Row("ffn_in", "ffn", r"dense_h_to_4h|c_fc|fc1|fc_in|lin1|wi|intermediate\.dense"),
    Row("ffn_out", "ffn", r"dense_4h_to_h|c_proj|fc2|fc_out|lin2|output\.dense"),
    # Outside of blocks.
    Row("lm_head", "any", r"lm_head|embed_out"),
    Row("embedding", "any", r"patch_embed\w*(?:\.proj\w*)?|position_embeddings|cls_token|mask_token"),
)

ATTENTION: Final = re.compile(r"attn|attention", re.IGNORECASE)
"""What the name or class of an attention module contains."""
FEED_FORWARD: Final = re.compile(
    r"mlp|ffn|feed_?forward|densereludense|dense_?gated|^intermediate$|^output$", re.IGNORECASE
)
"""What the name or class of a feed-forward module contains; BERT has no module for it, but two parts of one."""
CROSS: Final = re.compile(r"cross_?att|encdecattention|encoder_attn|multi_?head_?cross", re.IGNORECASE)
"""What the name or class of a cross-attention module contains."""
ADAPTER: Final = re.compile(r"\blora_|\bmodules_to_save\b|\badapters?\b")
"""What the path of a PEFT adapter's parameter contains."""


def kind_by_name(path: str, context: Context) -> str | None:
    """The kind that a module's path stands for within its context, or None.

    >>> kind_by_name("encoder.layer.3.attention.output.dense", "attention")
    'attn_o'
    >>> kind_by_name("encoder.layer.3.output.dense", "ffn")
    'ffn_out'
    """
    for row in TABLE:
        if row.context in (context, "any") and re.search(rf"(?:^|\.)(?:{row.names})$", path):
            return row.kind
    return None
