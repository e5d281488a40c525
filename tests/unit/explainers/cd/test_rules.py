"""Every rule by itself: complete, exact at full and empty masks, with the right derivative."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.unit.explainers.cd.helpers import check_promises, decompose, mixed_masks, standard_masks
from xaikit import ContextualDecomposition
from xaikit.explainers.cd import blocks

IMAGE, SEQUENCE, ROW = (2, 4, 6, 6), (2, 5, 8), (2, 12)


def weight(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


W = weight
IMAGE_OPS = {
    "conv2d": lambda x: F.conv2d(x, W(3, 4, 3, 3), W(3), padding=1),
    "conv2d by keyword": lambda x: F.conv2d(input=x, weight=W(4, 1, 3, 3), bias=W(4), groups=4, stride=2),
    "conv1d": lambda x: F.conv1d(x.flatten(2), W(3, 4, 3), W(3)),
    "conv3d": lambda x: F.conv3d(x.unsqueeze(1), W(2, 1, 2, 2, 2), W(2)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, W(4, 3, 2, 2), W(3), stride=2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d overlapping": lambda x: F.max_pool2d(x, 3, 2, padding=1),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
    "power average": lambda x: F.avg_pool2d(x**2, 2),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "lp_pool of zeros": lambda x: F.lp_pool2d(x.relu(), 3, 2, 1, ceil_mode=True),
    "lp_pool1d": lambda x: F.lp_pool1d(x.flatten(2).exp(), 2.5, 4, stride=3),
    "batch_norm": lambda x: F.batch_norm(x, W(4), W(4).abs() + 1, W(4), W(4)),
    "batch_norm of batch": lambda x: F.batch_norm(x, None, None, W(4), W(4), training=True),
    "group_norm": lambda x: F.group_norm(x, 2, W(4), W(4)),
    "instance_norm": lambda x: F.instance_norm(x, weight=W(4), bias=W(4)),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pad with a constant": lambda x: F.pad(x, (1, 1, 0, 2), value=0.5),
    "pad by reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "unfold": lambda x: F.unfold(x, 2),
    "squeeze and excite": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "prelu": lambda x: F.prelu(x, W(4)),
    "windows": lambda x: x.view(2, 4, 2, 3, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(8, 4, 9).sum(-1).view(2, 4, 4),
    "roll": lambda x: torch.roll(x, (1, 2), (2, 3)),
    "flip": lambda x: x.flip(-1) + x.flip([1, 2]),
    "amax": lambda x: x.amax((2, 3)),
    "aminmax": lambda x: torch.cat(torch.aminmax(x, dim=3), 1),
    "max along": lambda x: x.flatten(2).max(-1)[0],
    "topk": lambda x: x.flatten(2).topk(3).values,
    "median": lambda x: x.flatten(2).median(-1).values,
    "sort": lambda x: x.flatten(2).sort(-1)[0],
    "gather": lambda x: x.flatten(2).gather(-1, torch.tensor([0, 3]).expand(2, 4, 2)),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "advanced index": lambda x: x[:, [0, 2], :, [1, 3]].transpose(0, 1),
    "index of samples": lambda x: x[torch.arange(2), torch.tensor([1, 3])],
    "einsum": lambda x: torch.einsum("bchw,cd->bdhw", x, W(4, 3)),
    "einsum of two": lambda x: torch.einsum("b...hw,b...vw->b...hv", x, x + 1),
    "channel shuffle": lambda x: x.view(2, 2, 2, 6, 6).transpose(1, 2).reshape(2, 4, 6, 6) * W(4, 6, 6),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x + 0.2),
    "fft": lambda x: torch.fft.rfft(x).real,
    "cat with a constant": lambda x: torch.cat([W(1, 1, 6, 6).expand(2, -1, -1, -1), x], 1),
}
ROW_OPS = {
    name: getattr(F, name)
    for name in ("relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "hardswish", "hardsigmoid", "elu", "selu",
                 "celu", "mish", "softsign", "tanhshrink", "hardtanh", "relu6", "leaky_relu", "logsigmoid",
                 "glu", "normalize")
} | {
    "linear": lambda x: F.linear(x, W(5, 12), W(5)),
    "softmax": lambda x: x.softmax(-1),
    "softmax of the first": lambda x: x.view(2, 3, 4).softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "exp": lambda x: torch.exp(0.3 * x),
    "sin and cos": lambda x: torch.sin(x) + torch.cos(x),
    "square": lambda x: x.square() + x**3 + torch.pow(x, 2),
    "quotient": lambda x: x / (x.norm(dim=1, keepdim=True) + 1),
    "constant over": lambda x: 1 / (x.abs() + 1),
    "log and sqrt": lambda x: torch.log(x.abs() + 1) + torch.sqrt(x.abs() + 0.5),
    "clamp": lambda x: x.clamp(min=0.1) + x.clamp(-1, 0.5),
    "clamp by tensors": lambda x: torch.clamp(x, W(12).abs().neg(), W(12).abs()),
    "maximum": lambda x: torch.maximum(x, W(12)) + torch.minimum(x, 2 * x),
    "constants": lambda x: 2 - x * 3 + W(12) - (x - 1) / 2 + 0.5,
    "lerp and addcmul": lambda x: torch.lerp(x, 2 * x, 0.3) + torch.addcmul(x, x, W(12), value=0.5),
    "cumsum": lambda x: x.cumsum(1) + x.view(2, 3, 4).cumsum(-1).flatten(1),
    "masked fill": lambda x: x.masked_fill(x > 1, 0.3),
    "prod": lambda x: x.view(2, 6, 2).prod(-1),
    "cumprod": lambda x: x.view(2, 6, 2).cumprod(-1) + torch.cumprod(x.view(2, 2, 6), dim=1).view(2, 6, 2),
    "repeat": lambda x: x.repeat(1, 2) + x.repeat_interleave(2, 1) + x.tile(2),
    "split and stack": lambda x: torch.stack([part * i for i, part in enumerate(x.split(4, 1), 1)], 1),
    "chunk and unbind": lambda x: sum(x.view(2, 3, 4).unbind(1)) + x.chunk(3, -1)[1],
    "outer": lambda x: x.unsqueeze(1) * x.unsqueeze(2),
    "baddbmm": lambda x: torch.baddbmm(W(3, 3), x.view(2, 3, 4), W(2, 4, 3), beta=0.5),
    "vector product": lambda x: x @ W(12),
    "bilinear": lambda x: F.bilinear(x, 2 * x, W(3, 12, 12), W(3)),
    "diff": lambda x: x.diff(dim=1),
    "rms_norm": lambda x: F.rms_norm(x, (12,), W(12)),
    "layer_norm": lambda x: F.layer_norm(x, (12,), W(12), W(12)),
    "cosine": lambda x: F.cosine_similarity(x, x + 1),
    "squeezes": lambda x: x.unsqueeze(1).squeeze(1)[None].squeeze().unflatten(1, (3, 4)).movedim(1, 2).flatten(1),
}  # fmt: skip
SEQUENCE_OPS = {
    "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, x + 1),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(5, 5).tril(1).bool()),
    "matmul": lambda x: x @ x.transpose(1, 2) @ W(5, 3),
    "batched matmul": lambda x: torch.bmm(x, W(2, 8, 3)),
    "lower rank": lambda x: torch.matmul(x[0], W(2, 8, 2)),
}


def _assigned(x):
    y = x.clone()
    y[:, 0] = 2 * x[:, 1]
    y[:, 2, 0] = 0.7
    return y * y


def _in_place(x):
    y = x * 1
    view = y[:, 1:3]
    view.mul_(2).add_(0.5)
    F.relu_(y)
    y += x
    return y


def _spectral(x):
    coefficients = torch.fft.rfft(x) * torch.polar(W(7).abs(), W(7)) + torch.complex(W(7), W(7).flip(0))
    return torch.fft.irfft(coefficients, n=12) + torch.fft.rfft(x).abs().sum(-1, keepdim=True)


def _kept_after_an_activation(x):
    first = F.linear(x, W(5, 12))  # without a bias: nothing is put off, so the activation must not write over it
    view = F.linear(x, W(4, 12))
    part, view = view[:, :2], view.sigmoid()
    return torch.cat([first + first.tanh(), first - first.sin(), part + view[:, 2:]], -1)


ROW_OPS |= {"complex numbers": _spectral, "kept after an activation": _kept_after_an_activation}
ROW_OPS |= {
    "numbers": lambda x: torch.stack([row * (row.max() * row.tanh().sum()) for row in x]),
    "nothing": lambda x: x * x + (x[:, :0] * x[:, 12:]).sum(1, keepdim=True),
}
IMAGE_OPS |= {"local_response_norm of zeros": lambda x: F.local_response_norm(x.relu(), 3)}
IMAGE_OPS |= {"assignment": _assigned, "in place": _in_place}
OPS = [(n, IMAGE, f) for n, f in IMAGE_OPS.items()] + [(n, ROW, f) for n, f in ROW_OPS.items()]
OPS += [(n, SEQUENCE, f) for n, f in SEQUENCE_OPS.items()]
TRAINED = {"batch_norm of batch", "lower rank"}  # they mix the samples of a batch


@pytest.mark.parametrize("block", [blocks.BLOCK, 7], ids=["whole", "in blocks"])
@pytest.mark.parametrize(("name", "shape", "function"), OPS, ids=[name for name, *_ in OPS])
def test_a_rule_keeps_its_promises(name, shape, function, block, monkeypatch):
    """Also where the parts are so large that they are worked on block by block."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    x = torch.randn(shape, dtype=torch.float64)
    if name in TRAINED:
        result = decompose(function, x, standard_masks(shape[1:]))
        assert torch.allclose(result.total, function(x), atol=1e-12)
        return
    check_promises(function, x, 1e-12)


@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
@pytest.mark.parametrize(("name", "shape", "function"), OPS, ids=[name for name, *_ in OPS])
def test_a_rule_has_the_right_derivative(name, shape, function, rules):
    x = torch.randn(shape, dtype=torch.float64)
    mask = 0.2 + 0.6 * torch.rand(shape[1:], dtype=torch.float64)[None]
    direction = torch.randn_like(x)
    free = x.clone().requires_grad_()
    out = decompose(function, free, mask, rules, grad=True)
    a, b = torch.randn_like(out.relevant), torch.randn_like(out.relevant)
    (gradient,) = torch.autograd.grad((a * out.relevant + b * out.irrelevant).sum(), free)
    h = 1e-7

    def value(point):
        moved = decompose(function, point, mask, rules)
        return (a * moved.relevant + b * moved.irrelevant).sum()

    expected = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "causal", "padding", "float"])
def test_multi_head_attention_without_touching_it(batch_first, mask):
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, add_bias_kv=True, add_zero_attn=True).double().eval()
    keywords = {
        None: {},
        "causal": {"attn_mask": torch.ones(5, 5).triu(1).bool()},
        "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])},
        "float": {"attn_mask": torch.randn(4, 5, 5, dtype=torch.float64)},
    }[mask]

    def model(x):
        x = x if batch_first else x.transpose(0, 1)
        y, weights = layer(x, x, x, **keywords)
        return torch.cat([(y if batch_first else y.transpose(0, 1)).flatten(1), weights.flatten(1)], 1)

    check_promises(model, torch.randn(2, 5, 8, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]
)
def test_recurrent_nets_of_all_layers_and_directions(kind, settings):
    net = getattr(nn, kind)(8, 6, **settings).double().eval()

    def model(x):
        out, states = net(x if net.batch_first else x.transpose(0, 1))
        states = states if isinstance(states, tuple) else (states,)
        out = out if net.batch_first else out.transpose(0, 1)
        return torch.cat([out.flatten(1), *(s.transpose(0, 1).flatten(1) for s in states)], 1)

    check_promises(model, torch.randn(SEQUENCE, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell", "RNNCell"])
def test_recurrent_cells(cell):
    step = getattr(nn, cell)(8, 6).double()

    def model(x):
        state = None
        for t in range(x.shape[1]):
            state = step(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state

    check_promises(model, torch.randn(SEQUENCE, dtype=torch.float64), 1e-12)


def test_an_lstm_with_projections():
    net = nn.LSTM(8, 6, proj_size=3, batch_first=True).double()
    check_promises(lambda x: net(x)[0].flatten(1), torch.randn(SEQUENCE, dtype=torch.float64), 1e-12)


def test_mixed_masks_follow_the_batch_through_reshapes():
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    function = IMAGE_OPS["windows"]
    alone = [decompose(function, x[i : i + 1].expand(2, -1, -1, -1), mixed_masks(x.shape[1:])[:, i]) for i in (0, 1)]
    both = decompose(function, x, mixed_masks(x.shape[1:]))
    for i in (0, 1):
        assert torch.allclose(both.relevant[:, i], alone[i].relevant[:, i], atol=1e-12)


class WritesThroughViews(nn.Module):
    """In-place steps on views of what a convolution returns, which is then used itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3), nn.Linear(48, 2)

    def forward(self, x):
        hidden = self.first(x)
        hidden.view(len(hidden), -1)[:, ::2].mul_(0.5)
        hidden.flatten(1).relu_()
        return self.last(self.second(hidden).flatten(1))


@pytest.mark.parametrize("name", ["max", "min", "median", "nanmedian"])
def test_one_entry_of_all_brings_its_parts(name):
    x, masks = W(1, 5, 3), standard_masks((5, 3))
    result = decompose(lambda x: getattr(x, name)().view(1), x, masks)
    place = (x.flatten() == getattr(x, name)()).nonzero()
    torch.testing.assert_close(result.relevant, (masks * x).flatten(1)[:, place[0]], rtol=0, atol=0)


def test_an_in_place_step_on_a_view_reaches_what_it_views():
    torch.manual_seed(0)
    model, x = WritesThroughViews(), torch.rand(3, 2, 6, 6)
    found = ContextualDecomposition(model).decompose(x, torch.eye(6).expand(1, 6, 6))
    assert torch.allclose(found.relevant + found.irrelevant, model(x)[None], atol=1e-6)


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped matmul")
@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
def test_experts(rules):
    """Rows sorted by expert, each multiplied by the matrix of its own (torch's grouped matmul)."""
    ends, weights = torch.tensor([2, 2, 5], dtype=torch.int32), W(3, 8, 4).float()

    class Experts(nn.Module):
        def forward(self, x):
            return torch.stack([F.grouped_mm(row, weights, offs=ends) for row in x]) @ weights[0].T

    x = torch.randn(2, 5, 8)
    result = decompose(Experts(), x, standard_masks(x.shape[1:], torch.float32), rules)
    assert torch.allclose(result.total, Experts()(x).expand_as(result.total), atol=1e-5)
    assert not result.irrelevant[3].any()
    assert not result.relevant[2].any()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_products_of_matrices_whose_rows_are_not_those_of_the_result(n):
    """Sample 0 has no irrelevant part and the others have one: the product of all samples has one in each row."""

    def similarities(x):
        return (x @ x.t()).softmax(-1) @ x

    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    mask = torch.eye(n, 4, dtype=torch.float64)
    mask[0] = 1
    result = decompose(similarities, x, torch.stack([mask, torch.zeros_like(x), torch.ones_like(x)]))
    torch.testing.assert_close(result.total, similarities(x).expand_as(result.total))
    assert bool(result.irrelevant[0].any()) is (n > 1)
    assert not result.relevant[1].any()
    assert not result.irrelevant[2].any()


@pytest.mark.parametrize("name", ["hstack", "vstack", "dstack"])
@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4)])
def test_joins_of_few_dimensions(name, shape):
    class Net(nn.Module):
        def forward(self, x):
            return getattr(torch, name)([x[0], 2 * x[0]]).reshape(1, -1)

    x = torch.linspace(-1, 1, 24, dtype=torch.float64)[: torch.Size(shape).numel()].reshape(1, *shape)
    mask = (x > 0.1).double()
    torch.testing.assert_close(decompose(Net(), x, mask).relevant[0], Net()(mask * x))
