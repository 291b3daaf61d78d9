"""Operations of torch by what they do to the places of elements: their names in ``torch.ops.aten``."""

from __future__ import annotations

from typing import Final


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


ACTIVATIONS: Final = names("""
    relu relu6 gelu silu sigmoid tanh softplus mish elu leaky_relu hardswish hardsigmoid hardtanh exp exp2 erf
    log_sigmoid log_sigmoid_forward prelu _prelu_kernel threshold celu selu rrelu softshrink hardshrink sin cos pow
    square sqrt rsqrt log log1p log2 abs softmax _softmax log_softmax _log_softmax _safe_softmax reciprocal sinh cosh
    atan expm1 erfc silu_ rrelu_with_noise softsign logit special_expit
""")
"""Functions of single elements other than sums and products: what passes one is no longer linear."""

SELF_GATED: Final = names("silu gelu mish hardswish")
"""Of these the functions that are a number times its own nonlinearity, as x·sigmoid(x)."""

ADDS: Final = names("""
    add sub rsub addcmul addcdiv maximum minimum where lerp logaddexp hypot atan2 fmod remainder
""")
"""Operations that combine elements as a sum does."""

MULS: Final = names("""
    mul div divide multiply true_divide floor_divide
""")
"""Operations that combine elements as a product does."""

NORMS: Final = names("""
    native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training _native_batch_norm_legit_functional cudnn_batch_norm batch_norm_with_update
    _fused_rms_norm rms_norm _batch_norm_with_update miopen_batch_norm
""")
"""Operations that normalise features."""

SUMS: Final = names("""
    sum nansum
""")
"""Sums over dimensions."""

REDUCTIONS: Final = names("""
    mean var std var_mean std_mean linalg_vector_norm norm amax amin max min logsumexp prod median frobenius_norm
    _adaptive_avg_pool2d _adaptive_avg_pool1d adaptive_avg_pool1d adaptive_max_pool2d
""")
"""Other figures of the elements along dimensions."""

SAME: Final = names("""
    clone contiguous _to_copy alias detach lift_fresh lift_fresh_copy to dropout native_dropout alpha_dropout neg
    feature_dropout masked_fill clamp clamp_min clamp_max nan_to_num conj _conj conj_physical round floor ceil trunc
    resolve_conj resolve_neg positive real_if_close tril triu renorm fill view_as _conj_physical sgn sign bernoulli
    copysign ldexp quantize_per_tensor dequantize fake_quantize_per_tensor_affine_cachemask
""")
"""Operations whose result has the elements of their first argument, at the same places."""

MOVES: Final = names("""
    view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze expand slice select split
    split_with_sizes chunk unbind narrow roll flip repeat unfold diagonal movedim swapaxes cat stack index_select
    repeat_interleave tile pixel_shuffle pixel_unshuffle as_strided gather index mT adjoint view_copy permute_copy
    transpose_copy expand_copy select_copy slice_copy split_copy unbind_copy squeeze_copy unsqueeze_copy
    channel_shuffle native_channel_shuffle rot90 take_along_dim flatten unflatten _chunk_cat concat concatenate
    index_copy unsafe_split unsafe_split_with_sizes unsafe_chunk
""")
"""Operations whose result has elements of their arguments at other places."""

PRODUCTS: Final = names("""
    mm addmm bmm baddbmm linear matmul mv addmv dot _grouped_mm _scaled_mm
""")
"""Matrix products."""

COMPARISONS: Final = names("""
    ne ge le isfinite logical_not not_equal greater_equal less_equal
""")
"""Comparisons that are true in a followed pass."""

WRITES: Final = names("""
    copy_ index_put_ index_add_ index_copy_ scatter_ scatter_add_ masked_scatter_ index_put index_add scatter_add
    scatter masked_scatter slice_scatter select_scatter scatter_reduce scatter_reduce_ _index_put_impl_ copy
    index_copy put_ put
""")
"""Operations that write into a tensor."""
