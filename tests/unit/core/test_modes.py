"""Whether a model computes the same in both modes, compared with its outputs."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.model_state import evaluated, isolated, own_state_kept
from xaikit.core.modes import mode_matters


class Inline(nn.Module):
    """A dropout that no module shows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.hidden(x)

    def hidden(self, x):
        return F.dropout(self.linear(x), 0.5, training=self.training)


class Recurrent(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.rnn = nn.GRU(8, 8, num_layers=2, dropout=dropout, batch_first=True)

    def forward(self, x):
        return self.rnn(x[:, None])[0][:, 0]


class Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)

    def forward(self, x):
        return self.attention(x[None], x[None], x[None], need_weights=False)[0][0]


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)), False),
    "dropout": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), True),
    "dropout of nothing": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0)), False),
    "batchnorm": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), True),
    "batchnorm without statistics": (lambda: nn.BatchNorm1d(8, track_running_stats=False), False),
    "rrelu": (nn.RReLU, True),
    "inline": (Inline, True),
    "gru": (lambda: Recurrent(0.0), False),
    "gru with dropout": (lambda: Recurrent(0.5), True),
    "attention": (lambda: Attention(0.0), False),
    "attention with dropout": (lambda: Attention(0.5), True),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), True),
    "old spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(8, 8)), True),
}


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_as_computed(name):
    make, matters = MODELS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(6, 8)
    assert mode_matters(model.train()) is matters
    assert not mode_matters(model.eval())
    evaluated, trained = model(x), model.train()(x)
    assert torch.equal(evaluated, trained) is not matters


def test_a_hook_that_asks_for_the_mode_counts():
    model = nn.Linear(3, 3)
    model.register_forward_hook(lambda _m, _i, out: out * 1)
    assert not mode_matters(model)
    model.register_forward_hook(functools.partial(lambda module, _i, out: out * (2 if module.training else 1)))
    assert mode_matters(model)


def test_code_that_cannot_be_read_counts():
    assert mode_matters(torch.jit.script(nn.Linear(3, 3)))


def test_a_model_that_runs_itself_keeps_its_mode_and_its_buffers():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    buffers = dict(model.named_buffers())
    before = {name: b.clone() for name, b in buffers.items()}
    with evaluated(model, torch.device("cpu")) as running:
        assert not running[1].training
        running(torch.randn(5, 3))
    assert model[1].training
    with isolated(model, torch.device("cpu"), 0, keep_mode=True), own_state_kept(list(model.modules())):
        assert model[1].training
        model(torch.randn(5, 3))
        assert int(model[1].num_batches_tracked) == 1
    for name, b in model.named_buffers():
        assert b is buffers[name]
        assert torch.equal(b, before[name])
