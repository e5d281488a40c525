"""Operations written out compute what torch computes, and so do their derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode

from xaikit.torch_ops import WRITTEN_OUT, operation_name

torch.manual_seed(0)


class Rewritten(TorchFunctionMode):
    """Runs what is written out in place of torch's own, and notes which operations it met."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = operation_name(func)
        self.seen.append(name)
        return WRITTEN_OUT.get(name, lambda f, *a, **k: f(*a, **k))(func, *args, **(kwargs or {}))


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def agrees(name, call, *inputs):
    truth = call(*inputs)
    with Rewritten() as mode:
        output = call(*inputs)
    assert name in mode.seen
    first, second = (o[0] if isinstance(o, tuple) else o for o in (output, truth))
    torch.testing.assert_close(first, second)
    weights = torch.randn_like(second)
    inputs = [x for x in inputs if x.requires_grad]
    for a, b in zip(
        *(torch.autograd.grad(o, inputs, weights, allow_unused=True) for o in (first, second)), strict=True
    ):
        torch.testing.assert_close(a, b)


MASK = torch.tensor([[True, False, True], [False, False, False]])
CALLS = {
    "lerp": (torch.lerp, normal(3), normal(3), normal(3)),
    "addcmul": (lambda x, a, b: torch.addcmul(x, a, b, value=0.5), normal(3), normal(3), normal(3)),
    "addcdiv": (lambda x, a, b: torch.addcdiv(x, a, b, value=2), normal(3), normal(3), normal(3)),
    "baddbmm": (lambda *x: torch.baddbmm(*x, beta=0.5, alpha=2), normal(2, 3, 4), normal(2, 3, 5), normal(2, 5, 4)),
    "addmv": (torch.addmv, normal(3), normal(3, 4), normal(4)),
    "addr": (lambda x, a, b: torch.addr(x, a, b, beta=3), normal(3, 4), normal(3), normal(4)),
    "addbmm": (torch.addbmm, normal(3, 4), normal(2, 3, 5), normal(2, 5, 4)),
    "bilinear": (F.bilinear, normal(2, 3), normal(2, 4), normal(5, 3, 4), normal(5)),
    "cosine_similarity": (lambda x, y: F.cosine_similarity(x, y, dim=-1), normal(2, 3), normal(2, 3)),
    "glu": (F.glu, normal(2, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_composed_operations(name):
    agrees(name, *CALLS[name])


@pytest.mark.parametrize(
    "settings", [{}, {"is_causal": True}, {"attn_mask": MASK}, {"attn_mask": torch.randn(2, 3).double()}]
)
def test_attention(settings):
    q, k, v = normal(2, 2, 2, 4), normal(2, 2, 3, 4), normal(2, 2, 3, 5)
    agrees("scaled_dot_product_attention", lambda *x: F.scaled_dot_product_attention(*x, **settings), q, k, v)


@pytest.mark.parametrize("width", [5, 7])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 2, 0, 3)])
def test_attention_has_the_strides_of_torch_for_views(order, width):
    """Exported programs view the output as torch's kernels lay it out."""
    q = normal(2, 3, 4, 5).permute(order)
    k, v = (normal(*q.shape[:2], 6, e) for e in (5, width))
    truth = F.scaled_dot_product_attention(q, k, v)
    with Rewritten() as mode:
        output = F.scaled_dot_product_attention(q, k, v)
    assert "scaled_dot_product_attention" in mode.seen
    torch.testing.assert_close(output, truth)
    assert output.stride() == truth.stride()


def test_a_query_that_sees_nothing_gets_zeros_and_no_nan():
    q, k, v = normal(1, 2, 4), normal(1, 3, 4), normal(1, 3, 4)
    with Rewritten():
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=MASK)
    assert output[:, 1].eq(0).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(output.sum(), (q, k, v)))


def test_grouped_queries_share_keys():
    q, k = normal(1, 4, 3, 8), normal(1, 2, 3, 8)
    agrees("scaled_dot_product_attention", lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)


@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 5, "vdim": 6}])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention(extra, masked):
    net = nn.MultiheadAttention(8, 2, **extra).double().train()
    q, k, v = normal(4, 3, 8), normal(5, 3, extra.get("kdim", 8)), normal(5, 3, extra.get("vdim", 8))
    masks = {"key_padding_mask": torch.zeros(3, 5).bool().index_fill(1, torch.tensor([4]), True)} if masked else {}
    agrees("multi_head_attention_forward", lambda *x: net(*x, **masks), q, k, v)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, lambda *a, **k: nn.LSTM(*a, proj_size=2, **k)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_nets(kind, packed, both):
    net, x = kind(3, 4, num_layers=2, bidirectional=both, batch_first=True).double(), normal(3, 5, 3)

    def call(x):
        if not packed:
            return net(x)[0]
        return net(pack_padded_sequence(x, torch.tensor([2, 5, 2]), batch_first=True, enforce_sorted=False))[0].data

    agrees(operation_name(getattr(torch, net.mode.lower())), call, x)
    for i in range(2 if net.mode == "LSTM" else 1):
        state = (lambda x, i=i: net(x)[1][i]) if net.mode == "LSTM" else (lambda x: net(x)[1])
        agrees(operation_name(getattr(torch, net.mode.lower())), state, x)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(kind):
    net, x = kind(3, 4).double(), normal(2, 3)
    agrees({"LSTMCell": "lstm_cell", "GRUCell": "gru_cell", "RNNCell": "rnn_tanh_cell"}[kind.__name__], net, x)


def test_a_factor_of_zero_leaves_the_sum_out():
    x, a, b = torch.full((2, 2), torch.nan), torch.eye(2), torch.ones(2, 2)
    assert torch.equal(WRITTEN_OUT["addmm"](None, x, a, b, beta=0), b)


def test_grouped_products_of_experts():
    x, w, offs = normal(6, 8), normal(3, 8, 16), torch.tensor([1, 4, 6], dtype=torch.int32)
    output = WRITTEN_OUT["grouped_mm"](None, x, w, offs)
    truth = torch.cat([x[:1] @ w[0], x[1:4] @ w[1], x[4:] @ w[2]])
    torch.testing.assert_close(output, truth)
