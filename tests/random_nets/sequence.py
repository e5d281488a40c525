"""Kinds for vectors and sequences: linear layers, attention, recurrent layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_nets.kinds import WithParts, divisors, function, kind, when


def _tokens(shape):
    return len(shape) == 2 and shape[0] > 1


def _wide(shape):
    return _tokens(shape) and shape[1] % 2 == 0


kind("Linear")(lambda r, s: nn.Linear(s[-1], r.randint(2, 6), bias=r.random() < 0.8))
kind("Linear Linear")(lambda r, s: nn.Sequential(nn.Linear(s[-1], 5), nn.ReLU(inplace=True), nn.Linear(5, s[-1])))
kind("Bilinear")(
    lambda r, s: WithParts(
        "bilinear(x, tanh(x))", lambda m, x: m.bilinear(x, x.tanh()), bilinear=nn.Bilinear(s[-1], s[-1], 3)
    )
)
kind("F.linear")(
    lambda r, s: WithParts(
        "F.linear(x, weight)", lambda m, x: F.linear(x, m.weight), weight=nn.Parameter(torch.randn(4, s[-1]) / 2)
    )
)
kind("x @ weight")(
    lambda r, s: WithParts("x @ weight", lambda m, x: x @ m.weight, weight=nn.Parameter(torch.randn(s[-1], 3) / 2))
)
kind("einsum weight")(
    lambda r, s: WithParts(
        "einsum('n...i,io->n...o')", lambda m, x: torch.einsum("n...i,io->n...o", x, m.weight),
        weight=nn.Parameter(torch.randn(s[-1], 3) / 2),
    )
)  # fmt: skip
kind("einsum channels")(
    when(
        lambda s: len(s) == 3,
        lambda r, s: WithParts(
            "einsum('nchw,cd->ndhw')", lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.weight),
            weight=nn.Parameter(torch.randn(s[0], 3) / 2),
        ),
    )
)  # fmt: skip
kind("torch.addmm")(
    when(
        lambda s: len(s) == 1,
        lambda r, s: WithParts(
            "addmm(bias, x, weight)", lambda m, x: torch.addmm(m.bias, x, m.weight),
            weight=nn.Parameter(torch.randn(s[0], 4) / 2), bias=nn.Parameter(torch.randn(4)),
        ),
    )
)  # fmt: skip
kind("weight norm")(lambda r, s: nn.utils.parametrizations.weight_norm(nn.Linear(s[-1], 4)))

function("bmm with itself", lambda x: torch.bmm(x, x.transpose(1, 2)) / x.shape[2], lambda s: _tokens(s) and s[0] < 9)
function("matmul attention", lambda x: torch.softmax(x @ x.mT / 2, -1) @ x, _tokens)
function("causal sdpa", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), _tokens)
function("sdpa", lambda x: F.scaled_dot_product_attention(x, x.tanh(), x), _tokens)
function(
    "sdpa with a bool mask",
    lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(1)
    ),
    _tokens,
)  # fmt: skip
function(
    "sdpa with a float mask",
    lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.full((x.shape[1], x.shape[1]), -1e9, dtype=x.dtype).triu(1)
    ),
    _tokens,
)


def _attention(r, shape):
    heads = r.choice(divisors(shape[1]))
    needs = r.random() < 0.5
    attention = nn.MultiheadAttention(shape[1], heads, batch_first=True)
    return WithParts(
        f"attention(x, x, x, need_weights={needs})[0]",
        lambda m, x: m.attention(x, x, x, need_weights=needs)[0], attention=attention,
    )  # fmt: skip


def _sequence_first(r, shape):
    attention = nn.MultiheadAttention(shape[1], 1)

    def attend(m, x):
        t = x.transpose(0, 1)
        mask = torch.ones(len(t), len(t), dtype=torch.bool, device=x.device).triu(1)
        return m.attention(t, t, t, attn_mask=mask, need_weights=False)[0].transpose(0, 1)

    return WithParts("causal attention, sequence first", attend, attention=attention)


kind("MultiheadAttention")(when(_tokens, _attention))
kind("MultiheadAttention sequence first")(when(_tokens, _sequence_first))
kind("TransformerEncoderLayer")(
    when(
        _wide,
        lambda r, s: nn.TransformerEncoderLayer(
            s[1], 2, 6, batch_first=True, norm_first=r.random() < 0.5, activation=r.choice(("relu", "gelu"))
        ),
    )
)


def _transformer_encoder(r, shape):
    layer = nn.TransformerEncoderLayer(shape[1], 1, 5, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _transformer_decoder(r, shape):
    decoder = nn.TransformerDecoderLayer(shape[1], 1, 5, batch_first=True)
    return WithParts("decoder(x, x)", lambda m, x: m.decoder(x, x), decoder=decoder)


kind("TransformerEncoder")(when(_wide, _transformer_encoder))
kind("TransformerDecoderLayer")(when(_wide, _transformer_decoder))


def _recurrent(module):
    def make(r, shape):
        options = {"bidirectional": r.random() < 0.4, "num_layers": r.choice((1, 1, 2)), "bias": r.random() < 0.8}
        net = module(shape[1], 3, batch_first=True, **options)
        if r.random() < 0.5:
            return WithParts(f"rnn(x)[0], {options}", lambda m, x: m.rnn(x)[0], rnn=net)

        def last(m, x):
            hidden = m.rnn(x)[1]
            return (hidden[0] if isinstance(hidden, tuple) else hidden)[-1]

        return WithParts(f"last hidden state, {options}", last, rnn=net)

    return make


for _module in (nn.LSTM, nn.GRU, nn.RNN):
    kind(f"nn.{_module.__name__}")(when(_tokens, _recurrent(_module)))


def _cell(module):
    def make(r, shape):
        def run(m, x):
            state = None
            for t in range(min(3, x.shape[1])):
                state = m.cell(x[:, t], state)
            return state[0] if isinstance(state, tuple) else state

        return WithParts("three steps of a cell", run, cell=module(shape[1], 3))

    return make


for _module in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
    kind(f"nn.{_module.__name__}")(when(_tokens, _cell(_module)))
