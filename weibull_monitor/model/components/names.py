"""Names of parameters without the additions of wrappers, and the places and kinds that names of modules stand for.

Spelling is the last resort. The class of a matrix's owner (`nn.Embedding`, `nn.MultiheadAttention`, an experts module that states
its layout), the matrices beside it and the shapes that fit together come first, in `feed_forward` and `identify`. The tables
below have the rest; a new spelling needs a new entry there and nothing else.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, Literal, NamedTuple

from weibull_monitor.errors import visible

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(?=.)")
_OUTERMOST = re.compile(r"^(?:(?:module|_forward_module)\.)+(?=.)")


def clean_name(parameter: str, peft: bool = False) -> str:
    """A parameter's name without the prefixes that wrappers add, and with characters that are not visible as escapes.

    Args:
        parameter: A name from ``model.named_parameters()``.
        peft: Whether the model is wrapped by PEFT, whose ``base_model.model.`` and ``.base_layer`` are then removed too.

    >>> clean_name("_orig_mod.module.model.layers.0.self_attn.q_proj.weight")
    'model.layers.0.self_attn.q_proj.weight'
    >>> clean_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", peft=True)
    'model.layers.0.self_attn.q_proj.weight'
    """
    name = _OUTERMOST.sub("", _WRAPPERS.sub("", parameter))
    if peft:
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return visible(name)


Place = Literal["attention", "ffn", "mixer", "router", "indexer", "norm", "outside", "block", "anywhere"]
"""Where a matrix is, by the innermost module above it that shows it; ``anywhere`` if none does."""


class Surroundings(NamedTuple):
    """A row of the table of places: patterns in the name or the class of a module."""

    place: Place
    names: str  # of the attribute that holds the module
    classes: str  # of its class, unless it ends in a word such as ``Layer`` or ``Encoder``, which means a whole block


PLACES: Final[tuple[Surroundings, ...]] = (
    # Small modules that are named after their neighbours: read first.
    Surroundings(
        "norm",
        r"norm|_hc$",
        r"(?<!dropoutlayer)norm\d*$|attention_?residual|hyper_?connection|ada_?(?:layer|rms)?_?norm",
    ),
    Surroundings("indexer", r"indexer", r"indexer"),
    Surroundings("router", r"router|^gate$|^gating$", r"router|topkgat"),
    # Recurrences and convolutions that do the work of attention.
    Surroundings(
        "mixer",
        r"linear_attn|mamba|^ssm$|mlstm|sconv|conv_module|^lconv1d$|token_?mix|post_\w+_convolution|^patch_mixer$|"
        r"^mlp_inter$|^local_representation$",
        r"delta_?net|lightning|mamba|rg_?lru|short_?conv|conformer\w*conv\w*module|convolution_?module|"
        r"audio_?conv_?module|lightconv|rwkv\w*attention|fsmn|focal\w*modulation",
    ),
    Surroundings(
        "outside",
        r"projector|merger|connector|pooler|aligner|classifier|_head$|^head$|^heads?_|bbox|_embed(?:s|_\w)?$|"
        r"position_bias_mlp|^time_mlp|hypernetwork|vision_adapter|"
        r"(?:text|audio|image|visual|vision|video|pointer|language)_proj(?:ection)?$|_generator$|^final_layer$|"
        r"^reg_conf$|^mlp_(?:scale|add)$",
        r"projector|merger|connector|pooler|aligner|classif|prediction_?head|position_?bias",
    ),
    Surroundings(
        "attention",
        r"attn|attention|^att$|^mha$|weighted_averag",
        r"(?:attn|attention(?!layer)|multi_?head_?att)(?!\w*(?:mlp|ffn|feed_?forward)$)",
    ),
    Surroundings(
        "ffn",
        r"mlp|ffn|feed_?forward|(?:^|_)ffs?\d*$|moe|experts?$|densereludense",
        r"mlp|ffn|feed_?forward|dense_?act|dense_?gated|(?:^|[a-z0-9])FF$|moe|experts?$|swiglu|positionwise",
    ),
)

_NOT_WHOLE = re.compile(r"(?:mlp|ffn|feed_?forward|recurrent)(?:layer|block)$", re.IGNORECASE)
_WHOLE = re.compile(r"(?:Layer|Block|Model|Encoder|Decoder|Stage|Embeddings?|Backbone|Transformer|Tower)$|For[A-Z]\w*$")


@cache
def place_by_name(name: str, cls: str) -> Place | None:
    """The place that a module is, by its name and its class, or None.

    >>> place_by_name("self_attn", "LlamaAttention"), place_by_name("linear_attn", "Qwen3NextGatedDeltaNet")
    ('attention', 'mixer')
    >>> place_by_name("post_attention_layernorm", "GatedNorm"), place_by_name("3", "PixtralAttentionLayer")
    ('norm', None)
    """
    whole = _WHOLE.search(cls) is not None and not _NOT_WHOLE.search(cls)
    for row in PLACES:
        if row.place == "norm" and name.isdigit():
            continue  # an element of a list is a block, even if its class is named after the norm that it begins with
        if re.search(row.names, name, re.IGNORECASE) or (not whole and re.search(row.classes, cls, re.IGNORECASE)):
            return row.place
    return None


CROSS: Final = (
    r"(?i)cross_?(?:modal_?)?att|crossattn|xattn|encdecattention|enc(?:oder)?_(?:decoder_)?att|multi_?head_?cross|"
    r"(?:src|source|context|memory)_attn|encoder_attention|co_attention|^x_attn$|"
    r"bi_?multi_?head_?att|assign_?attention|image_to_token|token_to_image|cross_attend"
)
"""Pattern in the name or class of a cross-attention module."""
SELF: Final = r"(?i)self_?att"
"""Pattern in the name of a self-attention module, which outweighs names above it."""
ADAPTER: Final = (
    r"\blora_|\badapter_modules?\b|_adapter_list\b|\b(?:houlsby|ia3|vera|oft|boft|loha|lokr)_|"
    r"lora[._](?:[AaBb]|down|up)\b|\badapter_(?:down|up)\b"
)
"""Pattern in the path of an adapter's parameter (PEFT, and the adapters of X-MOD)."""
COPIED: Final = re.compile(r"\.(?:original_module|modules_to_save(?:\.[^.]+)?)(?=\.)")
"""In the path of a whole module that PEFT keeps twice (``modules_to_save``): as it was loaded, and as it is trained."""
ORIGINAL: Final = ".original_module."
"""In the path of the first of the two."""
PAIR: Final = re.compile(
    r"(?:(?<![a-z])(?:lora|vera)_(?:\w+_)?|(?<![a-z])lora\.)(?P<letter>[AaBb])(?![A-Za-z])|"
    r"(?:lora[._]|\badapter_)(?P<word>down|up)(?![a-z])"
)
"""The place in an adapter's name that tells the first matrix of a pair (A, down) from the second (B, up)."""
PARAMETRIZATION: Final = ".parametrizations."
"""In the path of the parameters of a parametrization (`torch.nn.utils.parametrize`)."""


# fmt: off
GENERAL: Final = frozenset((
    "linear", "dense", "proj", "projection", "projection_layer", "base_layer", "base", "layer", "fc", "out", "output", "weight",
    "module", "wrapped", "inner", "orig", "original", "conv", "final", "post", "matrix", "kernel", "mod", "lin", "main",
))
# fmt: on
"""Names of modules that say little: a telling name above one of them says what its matrix is."""


def telling(path: str, place: Place) -> bool:
    """Whether the last segment of a path stands for a kind at a place, and is not one of the `GENERAL` names.

    >>> telling("self_attn.q_proj", "attention"), telling("self_attn.q_proj.linear", "attention")
    (True, False)
    """
    return path.rpartition(".")[2] not in GENERAL and kind_by_name(path, place) is not None


class Row(NamedTuple):
    """A row of the table of kinds: a kind, the place where it applies, and the ends of module paths that stand for it."""

    kind: str
    place: Place
    names: str  # alternatives, each the last segments of a path; matched whole


TABLE: Final[tuple[Row, ...]] = (
    Row("embedding", "attention", r"rel_logits_proj(?:\.proj)?"),
    Row("mixer", "attention", r"conv_\w+|\w+_sconv|key_conv_attn_layer\.\w+"),
    # Latents and what is made of them (multi-head latent attention).
    Row("attn_q_a", "attention", r"q_a_proj|wq_a|q_down_proj"),
    Row("attn_q_b", "attention", r"q_b_proj|wq_b|q_up_proj|q_gate_proj"),
    Row("attn_kv_a", "attention", r"kv_a_proj(?:_with_mqa)?|wkv_a|kv_down_proj"),
    Row("attn_kv_b", "attention", r"kv_b_proj|wkv_b|kv_up_proj"),
    # Fused.
    Row(
        "attn_qkv",
        "attention",
        r"(?:to_)?qkv(?:_proj|_linear)?|query_key_value|c_attn|att_proj|[Ww]qkv|in_proj(?:_weight)?",
    ),
    Row("attn_kv", "attention", r"(?:to_)?kv(?:_proj)?|key_value|Wkv"),
    Row("attn_qk", "attention", r"(?:to_)?qk(?:_proj)?|query_key"),
    # Stored apart.
    Row(
        "attn_q",
        "attention",
        r"q_proj(?:_weight)?|(?:\w+_)?query(?:_\w+)?|queries|q|[Ww]q|to_q(?:uery)?|\w*q_lin|q_attn|q_head|project_q|"
        r"linear_q|input_linear|q_\w+_proj|r_proj",
    ),
    Row(
        "attn_k",
        "attention",
        r"k_proj(?:_weight)?|(?:\w+_)?key(?:_\w+)?|keys|[Ww]?k|to_k(?:ey)?|k_lin|k_head|project_k|linear_k|"
        r"relative_k_proj|k_\w+_proj|linear_pos|pos_proj|r|r_kernel|r_net",
    ),
    Row(
        "attn_v",
        "attention",
        r"v_proj(?:_weight|_\w+)?|(?:\w+_)?values?(?:_\w+)?|[Ww]?v|to_v(?:alue)?|v_lin|v_head|"
        r"project_v|linear_v",
    ),
    Row("attn_gate", "attention", r"gate_proj|g_proj|g_a_proj|g_b_proj|output_gate|gate|to_gates?|attn_gate"),
    Row(
        "attn_o",
        "attention",
        r"o_proj|out_proj|post_attention\.\w+|[Ww]?o|to_out|out_lin|c_proj|dense|output|proj|projection|projection_layer|"
        r"output_proj|out|proj_out|linear_out|post|post_proj|attention_out|layout_output|o_[ab]_proj|final|fc_out|out(?:put)?_projection|"
        r"linear|output_linear",
    ),
    # Feed-forward blocks; siblings and shapes decide the final kinds, see `feed_forward`.
    Row("ffn_gate_up", "ffn", r"gate_(?:and_)?up(?:_proj)?|up_gate_proj|w12"),
    Row("ffn_gate", "ffn", r"gate_proj|wi_0|w1|w_0|proj_up_gate|fc1_g|gate|receptance"),
    Row("ffn_up", "ffn", r"up_proj|wi_1|w3|v1|w_1|proj_up|fc1_x|up|linear_v|linear_up|linear_?3|c_fc_1"),
    Row("ffn_down", "ffn", r"down_proj|w2|[Ww]o|w_out|proj_down|down|linear_down"),
    Row(
        "ffn_in",
        "ffn",
        r"dense_h_to_4h|c_fc|fc1|fc_in|lin1|[Ww]i|intermediate(?:[._]dense)?|linear_?1|linear_fc1|dense_?1|layer_?1|ffn|"
        r"w_in|in_proj|input_linear|proj_in|conv1|pwconv1|pointwise_conv1|key|pre_expert_proj|dense",
    ),
    Row(
        "ffn_out",
        "ffn",
        r"dense_4h_to_h|c_proj|fc2|fc_out|lin2|output(?:[._]dense)?|linear_?2|linear_fc2|dense_?2|layer_?2|"
        r"ffn_out(?:put)?|out_proj|output_linear|proj_out|conv2|pwconv2|pointwise_conv2|value|post_expert_proj",
    ),
    # A block that holds its feed-forward matrices itself.
    Row(
        "ffn_in", "block", r"\w*intermediate\w*(?:\.dense)?|\w+_inter|fc1|lin1|linear_?1|ffn|pwconv1|point_?wise_conv1"
    ),
    Row(
        "ffn_out",
        "block",
        r"(?:layout_|lang_|visn_)?output(?:_query)?(?:\.dense)?|fc2|lin2|linear_?2|ffn_output|pwconv2|point_?wise_conv2",
    ),
    Row("attn_gate", "block", r"attn_gate"),
    # Outside of blocks.
    Row(
        "lm_head",
        "anywhere",
        r"(?:\w+_)?lm_heads?(?:\.\d+)?(?:\.decoder)?|embed_out|output_projection|predictions\.decoder",
    ),
    Row(
        "embedding",
        "anywhere",
        r"patch_embed\w*(?:\.proj\w*)?|patch_conv|\w*pos(?:ition\w*)?_emb\w*|\w*embeddings?|\w*_tokens?|\w*_embeds?|"
        r"embed(?!ding)\w*|relative_(?:position|attention)_bias\w*|rel_pos_\w+|(?:\w*_)?queries|latents(?:_\w+)?|probe|emb_\w+|\w+_emb",
    ),
)


@cache
def _rows(place: Place) -> list[tuple[str, re.Pattern[str]]]:
    """The rows of one place, compiled when they are first needed."""
    return [(row.kind, re.compile(rf"(?:^|\.)(?:{row.names})$")) for row in TABLE if row.place == place]


_FUSED: Final = ("attn_qkv", "attn_kv", "attn_qk", "attn_kv_b", "ffn_gate_up")


@cache
def kind_by_name(path: str, place: Place) -> str | None:
    """The kind that the end of a module's path stands for at a place, or None.

    In a module that is named after one matrix there is only that matrix, whatever it is called.

    >>> kind_by_name("attention.output", "attention"), kind_by_name("layer.3.output", "block")
    ('attn_o', 'ffn_out')
    >>> kind_by_name("q_proj.in_proj", "attention"), kind_by_name("qkv.key", "attention")
    (None, 'attn_k')
    """
    kind, matched = next(((kind, m[0]) for kind, pattern in _rows(place) if (m := pattern.search(path))), (None, ""))
    above = path.rpartition(".")[0]
    if place != "attention" or kind in (None, "attn_gate") or "." in matched.strip("."):
        return kind
    if place_by_name(above.rpartition(".")[2], "") is None and telling(above, place):
        named = kind_by_name(above, place)
        return kind if named == kind or named in _FUSED else None
    return kind
