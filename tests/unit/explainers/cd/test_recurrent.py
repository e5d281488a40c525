"""Recurrent nets: packed batches, and steps on plain tensors against the rules for single operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.unit.explainers.cd.helpers import decompose, mixed_masks, standard_masks
from xaikit import ContextualDecomposition


class Packed(nn.Module):
    def __init__(self, kind, both, layers, unpack):
        super().__init__()
        torch.manual_seed(1)
        self.rnn, self.unpack = kind(6, 8, layers, batch_first=True, bidirectional=both), unpack
        self.head = nn.Linear(16 if both else 8, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, state = self.rnn(packed)
        if self.unpack:
            output, counts = pad_packed_sequence(output, batch_first=True, total_length=6)
            return self.head(output.sum(1) / counts[:, None])
        state = state[0] if isinstance(state, tuple) else state
        return self.head(torch.cat(list(state[-2:] if self.rnn.bidirectional else state[-1:]), 1))


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize(("both", "layers"), [(False, 1), (True, 1), (True, 2)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_batches(kind, both, layers, unpack):
    """Each sample as by itself; what lies behind its end gets nothing; full and empty masks are exact."""
    net = Packed(kind, both, layers, unpack).double()
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.tensor([3, 5, 2, 3])
    split = {"forward_arg_extractor": lambda b: b[0], "additional_forward_arg_extractor": lambda b: (b[1],)}
    explainer = ContextualDecomposition(net, feature_mask="tokens", **split)
    masks = standard_masks((1, 5, 1))
    found = explainer.decompose((x, lengths), masks)
    assert torch.allclose(found.total, net(x, lengths).expand_as(found.total), atol=1e-12)
    assert not found.relevant[2].any()
    assert not found.irrelevant[3].any()
    together = explainer.attribute((x, lengths), 1)
    for i, n in enumerate(lengths.tolist()):
        alone = explainer.attribute((x[i : i + 1, :n], lengths[i : i + 1]), 1)
        assert torch.allclose(together[i, :n], alone[0], atol=1e-12)
        assert not together[i, n:].any()


class ByHand(nn.Module):
    """The same nets written in single operations, which have rules of their own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.act = net, getattr(torch, getattr(net, "nonlinearity", "tanh"))

    def forward(self, x):
        w_ih, w_hh, b_ih, b_hh = (parameter for _, parameter in self.net.named_parameters())
        state, outputs = (0 * x[:, 0, :1]).expand(-1, self.net.hidden_size), []
        for step in nn.functional.linear(x, w_ih, b_ih).unbind(1):
            hidden = nn.functional.linear(state, w_hh, b_hh)
            if isinstance(self.net, nn.RNN):
                state = self.act(step + hidden)
            else:
                (reset_x, update_x, new_x), (reset, update, new) = step.chunk(3, -1), hidden.chunk(3, -1)
                new = torch.tanh(new_x + torch.sigmoid(reset_x + reset) * new)
                state = new + torch.sigmoid(update_x + update) * (state - new)
            outputs.append(state)
        return torch.stack(outputs, 1), state


class Last(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0].flatten(1)


@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
@pytest.mark.parametrize("settings", [{}, {"nonlinearity": "relu"}, {"nonlinearity": "tanh"}])
def test_steps_follow_the_rules_of_their_operations(rules, settings):
    torch.manual_seed(0)
    net = (nn.RNN if settings else nn.GRU)(6, 8, batch_first=True, **settings).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    for masks in (standard_masks((5, 6)), mixed_masks((5, 6))):
        ours, by_hand = (decompose(Last(model), x, masks, rules) for model in (net, ByHand(net)))
        assert torch.allclose(ours.relevant, by_hand.relevant, atol=1e-12)
        assert torch.allclose(ours.irrelevant, by_hand.irrelevant, atol=1e-12)


def by_formula(net, x, span, suffix=""):
    """The relevant part of all outputs by Murdoch's split with symmetric rules, on x (time, features)."""
    w, u, b_w, b_u = (getattr(net, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    bias = b_w + b_u

    def split(function, r, s, b):
        """The three parts of a gate."""
        relevant = (function(r + b) - function(b) + function(r + s + b) - function(s + b)) / 2
        return relevant, function(r + s + b) - function(b) - relevant, function(b)

    h_r = h_s = c_r = c_s = torch.zeros_like(u[0])
    outputs = []
    for t in reversed(range(len(x))) if suffix else range(len(x)):
        inside = float(t in span)
        r, s = ((w @ (part * x[t]) + u @ h).chunk(4) for part, h in ((inside, h_r), (1 - inside, h_s)))
        functions = (torch.sigmoid, torch.sigmoid, torch.tanh)
        i, f, g = (split(*values) for values in zip(functions, r, s, bias.chunk(4), strict=False))
        output = torch.sigmoid(r[3] + s[3] + bias.chunk(4)[3])
        crossed = (i[0] * g[1] + i[1] * g[0] + f[0] * c_s + f[1] * c_r) / 2
        constant = i[2] * g[2]
        new_r = i[0] * (g[0] + g[2]) + i[2] * g[0] + (f[0] + f[2]) * c_r + crossed + inside * constant
        new_s = i[1] * (g[1] + g[2]) + i[2] * g[1] + (f[1] + f[2]) * c_s + crossed + (1 - inside) * constant
        c_r, c_s = new_r, new_s
        both = torch.tanh(c_r + c_s)
        h_r, h_s = (output * (torch.tanh(c) + both - torch.tanh(d)) / 2 for c, d in ((c_r, c_s), (c_s, c_r)))
        outputs.append(h_r)
    return torch.stack(outputs[::-1] if suffix else outputs)


@pytest.mark.parametrize("span", [range(2), range(2, 4), range(4, 6), range(6), range(0)])
def test_an_lstm_follows_the_published_formulas_from_either_end(span):
    """Spans that begin early and late: as long as one part is 0 the model itself gives the other."""
    torch.manual_seed(3)
    net = nn.LSTM(5, 7, batch_first=True, bidirectional=True).double()
    x, masks = torch.randn(1, 6, 5, dtype=torch.float64), torch.zeros(2, 6, 1, dtype=torch.float64)
    masks[0, list(span)] = 1
    masks[1] = 1 - masks[0]
    found = decompose(Last(net), x, masks)
    with torch.no_grad():
        for relevant, inside in ((found.relevant[0], span), (found.relevant[1], set(range(6)) - set(span))):
            expected = [by_formula(net, x[0], inside, suffix) for suffix in ("", "_reverse")]
            assert torch.allclose(relevant[0].view(6, -1), torch.cat(expected, -1), atol=1e-12)
