"""The kind of each operation of torch, as one table; a new release of torch may need a new line here.

A method that follows operations (LRP, contextual decomposition) needs one rule for each kind, and a separate rule only
for an operation that it treats in a special way.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from xaikit.torch_ops.names import canonical, operation_name


class Kind(StrEnum):
    """The effect of an operation on its tensors, as far as a rule needs to know it."""

    STRUCTURE = "moves, copies or picks entries by their position, and may put in constants"
    LINEAR = "linear in its operands, without a weight of its own: sums, means, differences, Fourier transforms"
    SUM = "the sum of two tensors"
    AFFINE = "a weight times a tensor, plus a bias: linear layers, convolutions, BatchNorm with running statistics"
    PRODUCT = "linear in each of several operands"
    QUOTIENT = "linear in one operand, divided by the other"
    SCALE = "the reciprocal of a size, by which something else is multiplied"
    ELEMENTWISE = "a function of each entry by itself"
    GATE = "a function of each entry by itself whose values lie in [0, 1]"
    HOMOGENEOUS = "f(a x) = a f(x) for a > 0: ReLU, absolute values, norms, roots of second moments"
    SELECTION = "picks entries by their value: maxima, sorting, medians"
    POWER = "homogeneous of another degree than 1 (`DEGREES`): variances, determinants, products over a dimension"
    SOFT_SELECTION = "a smooth maximum: its derivative is a softmax of the entries"
    SOFTMAX = "positive weights that sum to 1, or their logarithm"
    NORMALISATION = "subtracts a mean of the tensor itself, divides by its size"
    ATTENTION = "values, averaged with a softmax of products of queries and keys"
    RECURRENT = "a net that runs over the steps of a sequence"
    EMBEDDING = "vectors, looked up by whole numbers"
    LINEAR_IN_FIRST = "linear in its first operand; the others say where or how it is read"
    COMPOSED = "written out as other operations (`written_out`)"
    LOSS = "compares a prediction with a target"


def _table(names_of_value: dict[Any, str]) -> dict[str, Any]:
    return {name: value for value, names in names_of_value.items() for name in names.split()}


KINDS: dict[str, Kind] = _table(
    {
        Kind.STRUCTURE: """
        view reshape flatten unflatten ravel permute transpose adjoint t T mT H mH real imag movedim squeeze unsqueeze
        expand expand_as broadcast_to broadcast_tensors atleast_1d atleast_2d atleast_3d contiguous clone to type
        type_as float double half bfloat16 cfloat cdouble chalf cpu cuda xpu ipu mtia view_as reshape_as as_strided
        unbind chunk split tensor_split hsplit vsplit dsplit split_with_sizes narrow select index index_select gather
        take take_along_dim masked_select diagonal diag diag_embed diagflat tril triu flip fliplr flipud roll rot90
        repeat repeat_interleave tile unfold fold im2col col2im cat stack hstack vstack dstack column_stack block_diag
        pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle __getitem__ __setitem__ __reversed__ __iter__
        where masked_fill masked_scatter scatter index_fill index_put index_copy put slice_scatter select_scatter
        diagonal_scatter as_strided_scatter slice_inverse fill_diagonal copy zero fill requires_grad pin_memory
        nan_to_num as_tensor asarray meshgrid cartesian_prod combinations _pad_packed_sequence _pack_padded_sequence
        view_as_real view_as_complex complex conj conj_physical resolve_conj resolve_neg fft_fftshift fft_ifftshift
        to_dense to_sparse to_mkldnn coalesce max_unpool1d max_unpool2d max_unpool3d detach sparse_mask values indices
        __array__ _neg_view _conj _fw_primal _make_dual resize resize_as set sum_to_size sparse_resize
        sparse_resize_and_clear _to_dense _values _indices slice
    """,
        Kind.LINEAR: """
        sub rsub neg positive sum mean nanmean nansum cumsum diff trace trapezoid cumulative_trapezoid gradient
        interpolate upsample upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
        upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        upsample_nearest upsample_bilinear scatter_add index_add scatter_reduce index_reduce segment_reduce avg_pool1d
        avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d dropout dropout1d dropout2d
        dropout3d feature_dropout alpha_dropout feature_alpha_dropout fft_fft fft_ifft fft_rfft fft_irfft fft_fft2
        fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfft fft_ihfft fft_hfft2 fft_ihfft2
        fft_hfftn fft_ihfftn stft istft deg2rad rad2deg affine_grid
    """,
        Kind.SUM: "add",
        Kind.AFFINE: """
        linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution conv_tbc addmm matmul
        rmatmul batch_norm _native_batch_norm_legit_no_training native_batch_norm _native_batch_norm_legit
    """,
        Kind.PRODUCT: """
        mul mm bmm mv dot vdot vecdot inner outer einsum tensordot kron cross chain_matmul linalg_householder_product
        hsmm dsmm smm grouped_mm
    """,
        Kind.QUOTIENT: """
        div rtruediv linalg_solve linalg_solve_ex triangular_solve linalg_solve_triangular cholesky_solve lu_solve
        linalg_lu_solve linalg_ldl_solve linalg_lstsq linalg_tensorsolve
    """,
        Kind.SCALE: "rsqrt reciprocal inv linalg_inv_ex pinv linalg_tensorinv cholesky_inverse",
        Kind.ELEMENTWISE: """
        gelu silu mish elu selu celu relu6 hardtanh hardswish softplus softsign softshrink hardshrink tanhshrink
        threshold tanh erf logsigmoid exp expm1 exp2 log log1p log2 log10 sin cos tan asin acos atan sinh cosh asinh
        acosh atanh sinc square sqrt pow float_power rpow clamp clamp_min clamp_max erfinv erfcx logit lgamma digamma
        polygamma mvlgamma xlogy xlog1py entr i0 i0e i1 i1e ndtri log_ndtr igamma igammac zeta frac fmod remainder mod
        angle bessel_j0 bessel_j1 bessel_y0 bessel_y1 airy_ai modified_bessel_i0 modified_bessel_i1 modified_bessel_k0
        modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1 spherical_bessel_j0
        chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w hermite_polynomial_h
        hermite_polynomial_he laguerre_polynomial_l legendre_polynomial_p shifted_chebyshev_polynomial_t
        shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v shifted_chebyshev_polynomial_w
        fake_quantize_per_channel_affine fake_quantize_per_tensor_affine fused_moving_avg_obs_fake_quant rmod
    """,
        Kind.GATE: "sigmoid hardsigmoid erfc ndtr",
        Kind.HOMOGENEOUS: """
        relu leaky_relu prelu rrelu abs lp_pool1d lp_pool2d lp_pool3d norm vector_norm linalg_matrix_norm nuclear_norm
        norm_except_dim std hypot dist linalg_svdvals linalg_eigvalsh linalg_eigvals
    """,
        Kind.SELECTION: """
        max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        fractional_max_pool2d fractional_max_pool3d max min amax amin aminmax maximum minimum fmax fmin topk sort median
        nanmedian kthvalue mode cummax cummin quantile nanquantile
    """,
        Kind.POWER: "var cov prod cumprod det matrix_power cholesky linalg_cholesky_ex",
        Kind.SOFT_SELECTION: "logsumexp logcumsumexp",
        Kind.SOFTMAX: "softmax log_softmax softmin gumbel_softmax",
        Kind.NORMALISATION: """
        layer_norm group_norm instance_norm rms_norm local_response_norm normalize native_layer_norm native_group_norm
        var_mean std_mean renorm
    """,
        Kind.ATTENTION: """
        scaled_dot_product_attention multi_head_attention_forward _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_attention_math
    """,
        Kind.RECURRENT: "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
        Kind.EMBEDDING: "embedding embedding_bag",
        Kind.LINEAR_IN_FIRST: "grid_sample copysign ldexp polar",
        Kind.COMPOSED: """
        lerp addcmul addcdiv baddbmm addbmm addmv addr bilinear cosine_similarity glu pairwise_distance cdist pdist
        logaddexp logaddexp2 msort
    """,
        Kind.LOSS: """
        l1_loss mse_loss smooth_l1_loss huber_loss cross_entropy nll_loss kl_div binary_cross_entropy
        binary_cross_entropy_with_logits poisson_nll_loss gaussian_nll_loss hinge_embedding_loss cosine_embedding_loss
        margin_ranking_loss soft_margin_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss
        triplet_margin_loss triplet_margin_with_distance_loss ctc_loss linear_cross_entropy
    """,
    }
)

# How often the operation's input occurs in it as a factor, where that does not depend on the call.
DEGREES: dict[str, float] = {"var": 2, "cov": 2, "cholesky": 0.5, "linalg_cholesky_ex": 0.5}

# Elementwise, and the identity itself on a whole range of x: where y is x, it is x for all neighbours too.
IDENTITY_ON_A_RANGE = {"clamp", "clamp_min", "clamp_max", "hardtanh", "relu6", "threshold", "hardshrink", "elu", "celu"}

# BatchNorm as exported programs call it: the statistics are returned, too.
NATIVE_BATCH_NORMS = ("_native_batch_norm_legit_no_training", "native_batch_norm", "_native_batch_norm_legit")

# The operand in which a quotient is linear; the others are what it is divided by.
NUMERATORS = {name: 1 for name, kind in KINDS.items() if kind is Kind.QUOTIENT}
NUMERATORS |= {"div": 0, "triangular_solve": 0, "cholesky_solve": 0, "lu_solve": 0}
NUMERATORS |= {"linalg_lu_solve": 2, "linalg_ldl_solve": 2}

NO_GRADIENT = "its result does not depend smoothly on its operands: questions, whole numbers, indices, steps"
CREATES = "it makes a new tensor, of the form of another or at random"
BOOKKEEPING = "it tells or changes how a tensor is stored, not its values"
TRANSPORT = "it moves tensors between processes or devices"
BACKEND = "a private form of one backend or of quantized tensors, which no model calls by name"
BACKEND_PREFIXES = ("quantize_", "quantized_", "q_", "fbgemm_", "miopen_", "batch_norm_", "_wrapped_", "_sym_")
UNDECIDED = "no method here has a rule for it yet"

WHY_NONE: dict[str, str] = _table(
    {
        NO_GRADIENT: """
        size dim ndimension ndim numel nelement item tolist numpy __len__ __bool__ __float__ __int__ __index__
        __nonzero__ __long__ __complex__ __contains__ argmax argmin argsort argwhere eq ne lt le gt ge isnan isinf
        isfinite isneginf isposinf isreal isin isclose equal allclose any all sign sgn signbit floor ceil round trunc
        floor_divide rfloordiv floordiv nonzero nonzero_static is_nonzero one_hot searchsorted bucketize count_nonzero
        logical_not logical_and logical_or logical_xor heaviside _assert _assert_async _functional_assert_async bincount
        histc histogram histogramdd unique unique_consecutive unravel_index bitwise_and bitwise_or bitwise_xor
        bitwise_not bitwise_left_shift bitwise_right_shift and or xor lshift rshift rand ror rxor rlshift rrshift invert
        gcd lcm nextafter linalg_matrix_rank bool int long short char byte is_floating_point is_complex is_signed
        is_conj is_neg is_inference is_same_size is_set_to hash_tensor sym_int sym_float sym_not sym_max sym_min sym_sum
        sym_ite frexp can_cast result_type is_tensor
    """,
        CREATES: """
        zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty
        new_full new_tensor new_empty_strided bernoulli binomial poisson multinomial cauchy exponential geometric
        log_normal normal random uniform constant kaiming_uniform linalg_vander fft_fftfreq fft_rfftfreq
    """,
        BOOKKEEPING: """
        __get__ __set__ __delete__ shape stride is_contiguous data_ptr const_data_ptr element_size storage
        storage_offset storage_type untyped_storage get_device register_hook register_post_accumulate_grad_hook
        retain_grad backward __format__ __repr__ __hash__ __deepcopy__ __reduce_ex__ __setstate__ __array_wrap__
        __dlpack__ __dlpack_device__ is_pinned is_shared is_distributed is_coalesced _is_view _dimI _dimV _nnz dense_dim
        sparse_dim dim_order share_memory record_stream module_load apply map map2 crow_indices col_indices row_indices
        ccol_indices _clear_non_serializable_cached_data _nested_tensor_size _nested_tensor_storage_offsets
        _nested_tensor_strides _coalesced _autocast_to_full_precision _autocast_to_reduced_precision _rowwise_prune
        _sparse_broadcast_to _sparse_mask_projection resize_as_sparse is_nested is_vulkan __torch_function__ __dir__
    """,
        TRANSPORT: """
        all_gather all_gather_coalesced all_gather_single all_reduce all_reduce_coalesced all_to_all all_to_all_single
        broadcast irecv isend recv reduce reduce_scatter reduce_scatter_single send
    """,
        BACKEND: """
        dequantize qscheme int_repr choose_qparams_optimized saddmm sspaddmm scaled_mm scaled_grouped_mm native_norm
    """,
        UNDECIDED: """
        atan2 corrcoef matrix_exp logdet slogdet linalg_cond linalg_eig linalg_eigh linalg_ldl_factor
        linalg_ldl_factor_ex linalg_lu linalg_lu_factor linalg_lu_factor_ex lu lu_unpack qr svd geqrf orgqr ormqr lobpcg
        pca_lowrank svd_lowrank linalg_matrix_sqrth linalg_polar
    """,
    }
)


def kind_of(function: Any) -> Kind | None:
    """The kind of an operation, None for one that has none (`why_none`) or that this table does not know.

    Args:
        function: what a `__torch_function__` receives, or a name of the operation.
    """
    return KINDS.get(canonical(function) if isinstance(function, str) else operation_name(function))


def why_none(function: Any) -> str | None:
    """Why an operation has no kind, None for one that has a kind or that this table does not know.

    Args:
        function: what a `__torch_function__` receives, or a name of the operation.
    """
    name = canonical(function) if isinstance(function, str) else operation_name(function)
    return WHY_NONE.get(name, BACKEND if name.startswith(BACKEND_PREFIXES) and name not in KINDS else None)


def names_of(*kinds: Kind) -> frozenset[str]:
    """The names of all operations of some kinds.

    Args:
        kinds: which ones.
    """
    return frozenset(name for name, kind in KINDS.items() if kind in kinds)


def degree_of(name: str, x: Tensor, *args: Any, **kwargs: Any) -> float | Tensor | None:
    """How often a factor of its input x occurs in each value of a homogeneous function, None where nobody knows."""
    if kind_of(name) is Kind.HOMOGENEOUS:
        return 1
    dim: int | None = args[0] if args else kwargs.get("dim")
    if name == "prod":
        return x.numel() if dim is None else x.shape[dim]
    if name == "cumprod" and dim is not None:
        count = torch.arange(1, x.shape[dim] + 1, dtype=x.dtype, device=x.device)
        return count.view([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
    if name == "matrix_power":
        n: int = args[0] if args else kwargs["n"]
        return n if n > 0 else None
    return x.shape[-1] if name == "det" else DEGREES.get(name)
