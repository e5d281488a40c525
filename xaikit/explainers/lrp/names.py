"""Operations that need no relevance rule, by the name of the torch function."""

from __future__ import annotations


def names(*lists: str) -> frozenset[str]:
    """A set of names, written as words."""
    return frozenset(name for text in lists for name in text.split())


PICKING = """
    view reshape flatten unflatten ravel permute transpose t T mT H mH real swapaxes swapdims movedim moveaxis
    squeeze unsqueeze expand expand_as broadcast_to broadcast_tensors atleast_1d atleast_2d atleast_3d contiguous clone
    to type type_as float double half bfloat16 cpu cuda view_as reshape_as as_strided unbind chunk split tensor_split
    split_with_sizes unsafe_chunk unsafe_split narrow select index_select gather take take_along_dim masked_select
    diagonal diag tril triu flip fliplr flipud roll rot90 repeat repeat_interleave tile unfold fold cat concat
    concatenate stack hstack vstack dstack column_stack block_diag pad constant_pad_nd pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle __getitem__ __setitem__ where masked_fill masked_scatter scatter index_fill
    index_put index_copy slice_scatter select_scatter copy zero fill requires_grad pin_memory alias nan_to_num meshgrid
    _pad_packed_sequence _pack_padded_sequence
"""
LINEAR = """
    sub subtract __sub__ __rsub__ rsub neg negative __neg__ positive __pos__ sum mean nanmean nansum cumsum diff trace
    interpolate upsample scatter_add index_add scatter_reduce lerp avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout
    feature_alpha_dropout grid_sample fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
"""
HOMOGENEOUS = """
    relu leaky_relu prelu rrelu abs absolute __abs__ max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
    fractional_max_pool2d fractional_max_pool3d lp_pool1d lp_pool2d max_unpool1d max_unpool2d max_unpool3d max min amax
    amin maximum minimum fmax fmin topk sort msort median nanmedian kthvalue mode cummax cummin norm vector_norm
    linalg_norm linalg_vector_norm frobenius_norm std
"""

# The gradient is the rule. A homogeneous function has x * f'(x) = f(x) (Euler), so that it conserves relevance.
AS_GRADIENT = names(PICKING, LINEAR, HOMOGENEOUS)

# A gate stays one.
KEEPS_GATES = names("""
    view reshape flatten unflatten permute transpose t T mT movedim squeeze unsqueeze expand expand_as broadcast_to
    contiguous clone to type type_as float double half bfloat16 view_as reshape_as unbind chunk split narrow select
    index_select gather repeat repeat_interleave tile dropout mean __getitem__ rsub __rsub__ interpolate masked_fill
""")

# What these return has no gradient.
NO_RELEVANCE = names("""
    size dim ndimension numel nelement stride shape is_contiguous data_ptr element_size storage_offset get_device item
    tolist numpy detach __len__ __bool__ __float__ __int__ __index__ __format__ __repr__ __hash__ __contains__ __array__
    argmax argmin argsort eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ isnan isinf isfinite equal
    allclose isclose any all sign floor ceil round trunc zeros_like ones_like empty_like rand_like randn_like full_like
    new_zeros new_ones new_empty new_full new_tensor is_floating_point is_complex register_hook retain_grad bool int
    long nonzero one_hot searchsorted bucketize count_nonzero logical_not logical_and logical_or bernoulli multinomial
    heaviside _assert is_nonzero is_same_size untyped_storage is_pinned is_shared
""")
