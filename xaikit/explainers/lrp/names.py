"""Operations that need no relevance rule, by name."""

from __future__ import annotations

AS_GRADIENT = frozenset(
    # reshaping, picking, copying
    """view reshape flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis T mT H mH squeeze unsqueeze
    expand expand_as broadcast_to broadcast_tensors contiguous clone to type type_as float double half bfloat16 cpu cuda
    view_as reshape_as unbind chunk split tensor_split split_with_sizes narrow select index_select gather take take_along_dim
    masked_select diagonal diag tril triu flip fliplr flipud roll rot90 repeat repeat_interleave tile unfold fold
    cat concat concatenate stack hstack vstack dstack column_stack block_diag pad constant_pad_nd pixel_shuffle pixel_unshuffle
    channel_shuffle as_strided atleast_1d atleast_2d atleast_3d ravel __getitem__ __setitem__ where masked_fill
    masked_scatter scatter index_fill index_put index_copy meshgrid slice_scatter select_scatter real view_as_real
    copy_ zero_ fill_ requires_grad_ pin_memory alias identity unsafe_chunk unsafe_split nan_to_num
    pad_packed_sequence _pad_packed_sequence
    """.split()
    # linear
    + """add __add__ __radd__ __iadd__ sub subtract __sub__ __rsub__ __isub__ rsub neg negative __neg__ positive __pos__
    sum mean nanmean nansum cumsum diff trace interpolate upsample scatter_add index_add scatter_reduce
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d lerp
    dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout grid_sample affine_grid
    fft ifft rfft irfft fft2 ifft2 rfft2 irfft2
    """.split()
    # homogeneous: x * f'(x) = f(x)
    + """relu leaky_relu prelu rrelu abs absolute __abs__ max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    fractional_max_pool2d fractional_max_pool3d lp_pool1d lp_pool2d max_unpool1d max_unpool2d max_unpool3d
    max min amax amin maximum minimum fmax fmin topk sort msort median nanmedian kthvalue mode cummax cummin
    norm vector_norm linalg_norm linalg_vector_norm frobenius_norm std
    """.split()
)  # fmt: skip

KEEPS_GATES = frozenset(
    """view reshape flatten unflatten permute transpose t T mT movedim squeeze unsqueeze expand expand_as broadcast_to
    contiguous clone to type type_as float double half bfloat16 view_as reshape_as unbind chunk split narrow select
    index_select gather repeat repeat_interleave tile dropout mean __getitem__ rsub __rsub__ interpolate masked_fill
    """.split()
)

NO_RELEVANCE = frozenset(
    """size dim ndimension numel stride is_contiguous data_ptr element_size storage_offset get_device item tolist numpy
    detach detach_ __len__ __bool__ __float__ __int__ __index__ __format__ __repr__ __hash__ __contains__ __array__
    argmax argmin argsort eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ isnan isinf isfinite equal allclose
    isclose any all sign floor ceil round trunc zeros_like ones_like empty_like rand_like randn_like full_like new_zeros new_ones
    new_empty new_full new_tensor is_floating_point is_complex register_hook retain_grad bool int long nonzero one_hot
    searchsorted bucketize count_nonzero logical_not logical_and logical_or bernoulli multinomial heaviside _assert
    is_nonzero type_ nelement is_same_size __setstate__ _is_view untyped_storage is_pinned is_shared shape
    """.split()
)
