"""Operations as models write them, under contextual decomposition and LRP, against what both must give.

A map that is linear in its input has one right answer: CD's relevant part is the map of the masked input, and LRP is
gradient times input. Functions of degree 1 and products conserve relevance; everything keeps CD's promises.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.unit.explainers.cd.helpers import check_promises, decompose, standard_masks
from xaikit.explainers.lrp import LRPUniformEpsilon

IMAGE, SEQUENCE, ROW, MATRIX, BOX = (2, 4, 6, 6), (2, 5, 8), (2, 12), (2, 4, 4), (2, 2, 4, 4, 4)


def constant(*shape):
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


C = constant


def settled(kind, *args, **settings):
    torch.manual_seed(0)
    return kind(*args, **settings).double().eval()


def zeros(x, *shape):
    return torch.zeros(len(x), *shape, dtype=x.dtype)


def after(x, *writes):
    for write in writes:
        write(x)
    return x


def put(target, index, value):
    target[index] = value


def each_row(function):
    return lambda x: torch.stack([function(row) for row in x])


GROUPS = torch.arange(12) % 3
LINEAR = {
    "as_tensor": (ROW, lambda x: torch.as_tensor(x) + torch.asarray(x, requires_grad=x.requires_grad)),
    "a complex number added": (ROW, lambda x: (0.0j + (x + 0.0j)).real),
    "a complex number subtracted": (ROW, lambda x: ((x - 0.0j) - 0.0j * x).real),
    "times a complex number": (ROW, lambda x: (x * (2 + 1j)).imag),
    "over a complex number": (ROW, lambda x: (x / (2 + 1j)).imag),
    "add with a factor": (ROW, lambda x: torch.add(input=x, other=x.flip(1), alpha=-2)),
    "addmm by keyword": (ROW, lambda x: torch.addmm(input=C(5), mat1=x, mat2=C(12, 5), beta=0.0, alpha=2.0)),
    "addmv": (ROW, each_row(lambda row: torch.addmv(C(3), C(3, 12), row, beta=0))),
    "addr": (ROW, each_row(lambda row: torch.addr(C(12, 3), row, C(3), beta=0, alpha=0.5))),
    "baddbmm": ((2, 3, 4), lambda x: zeros(x, 3, 2).baddbmm(batch1=x, batch2=C(1, 4, 2).expand(len(x), 4, 2), beta=0)),
    "linear by keyword": (SEQUENCE, lambda x: F.linear(weight=C(3, 8), input=x)),
    "a matrix from the left": ((2, 3, 4), lambda x: C(5, 3) @ x),
    "inner": (SEQUENCE, lambda x: torch.inner(x, C(3, 8))),
    "tensordot": (SEQUENCE, lambda x: torch.tensordot(x, C(8, 5, 3), dims=([2, 1], [0, 1]))),
    "kron": (ROW, each_row(lambda row: torch.kron(row, C(2)))),
    "multi_dot": (ROW, lambda x: torch.linalg.multi_dot([x, C(12, 4), C(4, 3)])),
    "vecdot": (SEQUENCE, lambda x: torch.linalg.vecdot(x, C(8), dim=-1)),
    "cross": ((2, 5, 3), lambda x: torch.linalg.cross(x, C(5, 3).expand(len(x), 5, 3), dim=-1)),
    "solve": ((2, 4), lambda x: torch.linalg.solve(C(4, 4) + 3 * torch.eye(4).double(), x.T).T),
    "einsum of a diagonal": (MATRIX, lambda x: torch.einsum("bii->bi", x)),
    "einsum of a trace": (MATRIX, lambda x: torch.einsum("bii->b", x)[:, None]),
    "einsum of three": (SEQUENCE, lambda x: torch.einsum("bti,ij,kt->bkj", x, C(8, 3), C(2, 5))),
    "einsum by numbers": (SEQUENCE, lambda x: torch.einsum(x, [0, 1, 2], C(8, 3), [2, 3], [0, 1, 3])),
    "einsum without an output": (SEQUENCE, lambda x: torch.einsum("B t I, I j", x, C(8, 3))),
    "trapezoid": (ROW, lambda x: torch.trapezoid(x, C(12).cumsum(0), dim=1)[:, None]),
    "diff with a beginning": (ROW, lambda x: torch.diff(x, dim=-1, prepend=x[:, :1] * 2)),
    "an entry written": (IMAGE, lambda x: after(x * 1, lambda o: put(o, (..., 0), x[..., 1]))),
    "every other entry written": (
        ROW, lambda x: after(x * 1, lambda o: put(o, (slice(None), slice(None, None, 2)), x[:, 1::2]))
    ),
    "a transpose written": (SEQUENCE, lambda x: after(x * 1, lambda o: o.transpose(1, 2)[:, 0].copy_(x[:, :, 3]))),
    "a diagonal written": (MATRIX, lambda x: after(x * 1, lambda o: o.diagonal(0, 1, 2).mul_(3))),
    "a real part written": (ROW, lambda x: after(torch.fft.rfft(x), lambda o: o.real.mul_(2)).real),
    "into out": (ROW, lambda x: torch.cat([x, x.flip(1)], 1, out=torch.empty(len(x), 24).double())),
    "into a slice of a buffer": (ROW, lambda x: after(zeros(x, 14), lambda b: torch.mul(x, 2, out=b[:, :12]))),
    "as_strided": (ROW, lambda x: (2 * x).as_strided((len(x), 5, 4), (12, 2, 1))),
    "column_stack": (ROW, lambda x: torch.column_stack([x, x * 2])),
    "block_diag": (ROW, each_row(lambda row: torch.block_diag(row[:4], row[4:]))),
    "meshgrid": ((2, 3), each_row(lambda row: torch.stack(torch.meshgrid(row, row * 2, indexing="ij")))),
    "broadcast_tensors": (ROW, lambda x: torch.broadcast_tensors(x[:, None], zeros(x, 3, 1))[0]),
    "fold of unfold": (IMAGE, lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1)),
    "pixel_unshuffle": (IMAGE, lambda x: F.pixel_unshuffle(input=x, downscale_factor=3)),
    "rot90": (IMAGE, lambda x: torch.rot90(x, k=3, dims=[2, 3])),
    "tile and triangles": (MATRIX, lambda x: torch.triu(x, diagonal=1).tile(1, 2) + x.repeat(1, 1, 2)),
    "take": (ROW, each_row(lambda row: torch.take(row, torch.tensor([0, 5])))),
    "take_along_dim": (ROW, lambda x: torch.take_along_dim(x, torch.tensor([[0, 3, 3]]), dim=1)),
    "take_along_dim of one row": (ROW, lambda x: torch.take_along_dim(x[:, None], torch.tensor([[[0, 3], [1, 1]]]), 2)),
    "take_along_dim of all": (ROW, each_row(lambda row: torch.take_along_dim(row.view(3, 4), torch.tensor([[7, 0]])))),
    "masked_select": (ROW, each_row(lambda row: torch.masked_select(row, C(12) > 0))),
    "scatter_add": (ROW, lambda x: zeros(x, 3).scatter_add(dim=1, index=GROUPS.expand(len(x), 12), src=x)),
    "scatter_reduce": (ROW, lambda x: zeros(x, 3).scatter_reduce(1, GROUPS.expand(len(x), 12), x, reduce="sum")),
    "scatter_reduce to a mean": (
        ROW, lambda x: zeros(x, 3).scatter_reduce(1, GROUPS.expand(len(x), 12), x, "mean", include_self=False)
    ),
    "index_add": (ROW, lambda x: zeros(x, 3).index_add(1, GROUPS, x, alpha=2)),
    "index_fill": (ROW, lambda x: x.index_fill(1, torch.tensor([0, 2]), 0.0)),
    "index_put": (ROW, lambda x: x.index_put((torch.arange(len(x)), torch.tensor(2)), x[:, 0], accumulate=True)),
    "masked_scatter": (ROW, lambda x: zeros(x, 12).masked_scatter(torch.ones(len(x), 12).bool(), x)),
    "slice_scatter": (ROW, lambda x: torch.slice_scatter(x, x[:, :3], dim=1, start=4, end=7)),
    "embedding of a table": (MATRIX, each_row(lambda row: F.embedding(torch.tensor([0, 2, 2]), row))),
    "real and imaginary part": (ROW, lambda x: torch.view_as_real(torch.fft.rfft(x, n=16, dim=1, norm="ortho"))),
    "a filter of a spectrum": (IMAGE, lambda x: torch.fft.ifft2(torch.fft.fft2(x) * C(6, 6)).real),
    "some modes of a spectrum": (
        IMAGE,
        lambda x: torch.fft.irfft2(
            after(
                torch.zeros(len(x), 4, 6, 4, dtype=torch.complex128),
                lambda o: put(
                    o, (..., slice(0, 2), slice(0, 2)),
                    torch.einsum(
                        "bixy,ioxy->boxy", torch.fft.rfft2(x)[:, :, :2, :2],
                        torch.complex(C(4, 4, 2, 2), C(4, 4, 2, 2).flip(0)),
                    ),
                ),
            ),
            s=(6, 6),
        ),
    ),
    "short-time spectrum and back": (
        (2, 32),
        lambda x: torch.istft(
            2 * torch.stft(x, 8, 4, window=torch.hann_window(8).double(), return_complex=True),
            n_fft=8, hop_length=4, window=torch.hann_window(8).double(),
        ),
    ),
    "attention over constants": (
        SEQUENCE, lambda x: F.scaled_dot_product_attention(C(1, 5, 8).expand(x.shape), C(1, 5, 8).expand(x.shape), x)
    ),
    "average pooling": (
        IMAGE, lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
    ),
    "average of boxes": (BOX, lambda x: F.avg_pool3d(x, 2, divisor_override=3)),
    "bicubic": (IMAGE, lambda x: F.interpolate(x, scale_factor=(2, 1.5), mode="bicubic", align_corners=True)),
    "area": (IMAGE, lambda x: F.interpolate(x, size=3, mode="area")),
    "antialiased": (IMAGE, lambda x: F.interpolate(x, size=4, mode="bilinear", antialias=True)),
    "grid_sample": (
        IMAGE,
        lambda x: F.grid_sample(
            x, C(1, 3, 3, 2).expand(len(x), 3, 3, 2) / 2, mode="bicubic", padding_mode="reflection", align_corners=False
        ),
    ),
    "transposed convolution": (
        IMAGE, lambda x: F.conv_transpose2d(x, C(4, 3, 3, 3), stride=2, padding=1, output_padding=1, dilation=1)
    ),
    "transposed in groups": (IMAGE, lambda x: F.conv_transpose2d(x, C(4, 2, 3, 3), groups=2)),
    "transposed to a size": (
        IMAGE, lambda x: settled(nn.ConvTranspose2d, 4, 3, 3, stride=2, bias=False)(x, output_size=[14, 14])
    ),
    "circular padding": (
        IMAGE, lambda x: settled(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="circular", bias=False)(x)  # noqa: PLW0108
    ),
    "same padding": (IMAGE, lambda x: F.conv2d(x, C(4, 4, 3, 3), padding="same", dilation=2)),
}  # fmt: skip
CONSERVED = {
    "einsum of three signals": (SEQUENCE, lambda x: torch.einsum("bti,bti,bti->bt", x, x, x)),
    "tensordot of itself": (SEQUENCE, each_row(lambda row: torch.tensordot(row, row, dims=([0], [0])))),
    "powers that are learnt": (IMAGE, lambda x: F.relu(x).pow(torch.tensor(3.3)).mean((2, 3)).pow(1 / 3.3)),
    "power average": (IMAGE, lambda x: F.lp_pool2d(x, 2, 2)),
    "norm": (ROW, lambda x: torch.norm(x, p=3, dim=1, keepdim=True)),
    "length": (SEQUENCE, lambda x: torch.linalg.vector_norm(x, ord=1, dim=-1)),
    "spread": (ROW, lambda x: torch.cat([x.std(1, keepdim=True), x.var(dim=1, correction=0, keepdim=True)], 1)),
    "spread and mean": (ROW, lambda x: torch.stack(torch.std_mean(x, dim=1), 1)),
    "distances": (SEQUENCE, lambda x: torch.cdist(x, x.flip(1) * 2)),
    "distance": (ROW, lambda x: F.pairwise_distance(x, x.flip(1), eps=0.0, keepdim=True)),
    "product of entries": (MATRIX, lambda x: x.prod(-1)),
    "maxima of groups": (
        ROW, lambda x: (zeros(x, 3) - 9).scatter_reduce(1, GROUPS.expand(len(x), 12), x, reduce="amax")
    ),
    "running maximum": (ROW, lambda x: torch.cummax(x, dim=1)[0]),
    "unpooled maxima": (IMAGE, lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "smooth maximum of places": (IMAGE, lambda x: torch.logsumexp(x, dim=(2, 3), keepdim=True)),
    "smooth maximum of two": (ROW, lambda x: torch.logaddexp(x, x.flip(1))),
    "rows that see nothing": (
        SEQUENCE,
        lambda x: F.scaled_dot_product_attention(x, x, x, (torch.arange(5) > 1)[:, None].expand(5, 5), scale=0.7),
    ),
    "grouped queries": (
        (2, 6, 5, 4), lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:4], is_causal=True, enable_gqa=True)
    ),
    "steps of whole numbers": (ROW, lambda x: x * (x // 0.3) + x * torch.div(x, 0.7, rounding_mode="trunc")),
    "GELU by tanh": (ROW, lambda x: F.gelu(x, approximate="tanh") + F.elu(input=x * 1, alpha=1.3, inplace=True)),
    "norms of groups": (IMAGE, lambda x: F.local_response_norm(settled(nn.GroupNorm, 2, 4)(x), 3, alpha=0.1, k=2.0)),
    "RMSNorm of two axes": (SEQUENCE, lambda x: F.rms_norm(x, [5, 8], eps=1e-3)),
}  # fmt: skip


def _attention(**settings):
    return settled(nn.MultiheadAttention, 8, 2, batch_first=True, **settings)


SQUARE = torch.ones(5, 5).triu(1).bool()
PADDED = torch.tensor([[0.0] * 3 + [-math.inf] * 2]).double()
PROMISED = {
    "a constant scattered": (ROW, lambda x: (x * 1).scatter_(1, torch.zeros(len(x), 1).long(), 1.5)),
    "a constant put in": (ROW, lambda x: torch.constant_pad_nd(x, (1, 2), 0.7).index_fill(1, torch.tensor([0]), 1.5)),
    "a base, a signal": (ROW, lambda x: torch.pow(2.0, x) + torch.special.xlogy(x.abs(), C(12).abs() + 1)),
    "softplus by keyword": (ROW, lambda x: F.softplus(x, beta=2, threshold=5)),
    "attention of other widths": (SEQUENCE, lambda x: _attention(kdim=4, vdim=6)(x, x[..., :4], x[..., 2:])[0]),
    "attention weights of each head": (SEQUENCE, lambda x: _attention()(x, x, x, average_attn_weights=False)[1]),
    "attention with every mask": (
        SEQUENCE,
        lambda x: _attention(add_zero_attn=True, add_bias_kv=True)(
            x, x, x, key_padding_mask=PADDED.expand(len(x), 5), attn_mask=torch.zeros(5, 5).double().masked_fill(
                SQUARE, -math.inf), is_causal=True,
        )[0],
    ),
    "attention of one sample": (SEQUENCE, each_row(lambda row: _attention()(row, row, row)[0])),
    "LSTM, projected, both ways": (
        SEQUENCE,
        lambda x: settled(nn.LSTM, 8, 6, proj_size=3, batch_first=True, bidirectional=True, num_layers=2)(x)[0],
    ),
    "a grid of the input's own": (
        IMAGE,
        lambda x: F.grid_sample(
            x,
            F.affine_grid(torch.eye(2, 3).double() + 0.01 * x[:, :2, 0, :3], (len(x), 4, 6, 6), align_corners=False),
            align_corners=False,
        ),
    ),
}  # fmt: skip


class Net(nn.Module):
    """A function and a linear head without a bias."""

    def __init__(self, function, x):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.head = function, nn.Linear(function(x).flatten(1).shape[1], 3, bias=False).double()

    def forward(self, x):
        return self.head(self.function(x).flatten(1))


def sample(shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LINEAR)
def test_linear_maps_have_one_right_answer(name):
    shape, function = LINEAR[name]
    x, masks = sample(shape), standard_masks(shape[1:])
    with torch.no_grad():
        truth = torch.stack([function(mask * x) for mask in masks])
    torch.testing.assert_close(decompose(function, x, masks).relevant, truth, rtol=0, atol=1e-10)
    net = Net(function, x)
    explained = LRPUniformEpsilon(net, epsilon=1e-13, stabilizer=1e-13).explain(x, lambda output: output.sum(1))
    relevance = (masks * explained.values.unsqueeze(1)).flatten(2).sum(2)  # (samples, masks)
    scores = net.head(truth.flatten(2)).sum(2).detach().T
    torch.testing.assert_close(relevance, scores, rtol=1e-5, atol=1e-7)
    assert not explained.lost


@pytest.mark.parametrize("name", [*LINEAR, *CONSERVED, *PROMISED])
def test_promises_of_contextual_decomposition(name):
    shape, function = (LINEAR | CONSERVED | PROMISED)[name]
    check_promises(function, sample(shape), 1e-10)


@pytest.mark.parametrize("name", CONSERVED)
def test_relevance_is_conserved(name):
    shape, function = CONSERVED[name]
    x = sample(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explained = LRPUniformEpsilon(Net(function, x), epsilon=1e-12, stabilizer=1e-12).explain(x, 1)
    assert (explained.gap < 1e-5 * explained.scores.abs().max()).all()
