"""Steps that are not finite: skipped and told, then back to the last good state, then a clear end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.core.errors import TrainingError
from xaikit.explainers import Gradient
from xaikit.mitigation import RRR

MASK = torch.tensor([1.0, 0, 0])


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Linear(8, 2)).double()


def data(n=12):
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.arange(n) % 2


def fit(mitigator, model, *args, **kwargs):
    return mitigator.fit(model, *args, progress=False, **kwargs)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class Sick(Gradient):
    """A model that returns NaN in the given batches, counted from 1; the first call is the check of one sample."""

    calls = -1
    bad: tuple[int, ...] = ()

    def _attribute(self, call):
        if call.create_graph and len(call.inputs[0]) > 1:
            Sick.calls += 1
        factor = math.nan if Sick.calls + 1 in Sick.bad and call.create_graph else 1.0
        return tuple(a * factor for a in super()._attribute(call))


@pytest.fixture
def sick():
    def make(*bad):
        Sick.calls, Sick.bad = -1, bad
        return Sick()

    return make


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.filterwarnings("ignore:step skipped")
def test_a_bad_sample_costs_its_step_and_nothing_else(weight):
    """The loader's third batch holds a NaN: the weights are those of a training without that batch."""
    x, y = data()
    x[9] = math.nan
    batches = [(x[i : i + 3], y[i : i + 3], MASK) for i in (0, 3, 9, 6)]
    settings = {"lr": 1e-2, "n_epochs": 2, "lambda_rrr": weight, "random_state": 0}
    with_nan, without = net(), net()
    history = fit(RRR(**settings), with_nan, batches)
    fit(RRR(**settings), without, [b for b in batches if b[0].isfinite().all()])
    assert same(state(with_nan), state(without))  # BatchNorm's statistics, too
    assert history["skipped"] == [1, 1]
    assert history["samples"] == [9, 9]
    assert all(math.isfinite(v) for v in history["total"])


def test_the_samples_are_named():
    x, y = data()
    x[7] = math.nan
    loader = DataLoader(TensorDataset(x, y, MASK.expand(12, 3)), batch_size=4)
    with pytest.warns(UserWarning, match=r"step skipped: .* in epoch 1, batch 2 .*, for sample 7 \(1 of 5 in a row\)"):
        fit(RRR(n_epochs=1), net(), loader)
    with pytest.warns(UserWarning, match="for sample row 3 of the batch"):
        fit(RRR(n_epochs=1), net(), [(x[4:8], y[4:8], MASK), (x[:4], y[:4], MASK)])


def test_a_sample_whose_gradient_alone_is_infinite_is_named():
    """The loss is finite, its derivative is not: sqrt at 0."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(3, 2), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            chosen = x[:, 0] > 0  # whose logits the root of the scale moves; its slope at 0 is infinite
            added = chosen[:, None] * torch.tensor([1.0, 0.0]) * self.scale.sqrt() if chosen.any() else 0
            return self.linear(x) + added

    x, y = torch.rand(8, 3), torch.arange(8) % 2
    x[:, 0] = -1.0
    x[5, 0] = 1.0
    x, y = torch.cat([x, x[:4]]), torch.cat([y, y[:4]])
    words = r"not finite in epoch 1, batch 2 \(task .*, penalty .*\), for sample 5 \(1 of"
    with pytest.warns(UserWarning, match=words):
        fit(RRR(n_epochs=1, lambda_rrr=0.0), Root(), DataLoader(TensorDataset(x, y, MASK.expand(12, 3)), batch_size=4))


def test_after_too_many_the_last_good_state_returns_and_the_weight_halves(sick):
    """Batches 3 and 4 of 6 fail: the weights go back to those of batch 2, then the training goes on from there."""
    x, y = data(24)
    mitigator = RRR(explainer=sick(3, 4), max_skips=2, batch_size=4, n_epochs=1, lr=1e-2, lambda_rrr=8.0)
    model, seen = net(), []
    model.register_forward_hook(lambda m, *_: seen.append(state(m)) if m.training else None)
    with pytest.warns(UserWarning, match="not finite") as told:
        history = fit(mitigator, model, x, y, MASK)
    words = [str(w.message) for w in told]
    assert "step skipped" in words[0]
    assert (
        "after 2 such steps in a row; the last good state is back and the weight of the penalty is halved" in words[1]
    )
    weights = [{k: v for k, v in s.items() if "running" not in k and "num" not in k} for s in seen]
    assert same(weights[4], weights[1])  # before batch 5: as before the step of batch 2, whose effect was never checked
    assert not same(weights[2], weights[1])
    assert history.epochs[0]["skipped"] == 2
    assert history.epochs[0]["weight"] == 4.0


@pytest.mark.filterwarnings("ignore:step skipped")
def test_then_it_stops_with_the_last_good_state_saved(sick, tmp_path):
    x, y = data(24)
    file = tmp_path / "sick.pt"
    mitigator = RRR(explainer=sick(3, 4, 5, 6), max_skips=2, batch_size=4, n_epochs=1, lr=1e-2)
    model, seen = net(), []
    model.register_forward_hook(lambda m, *_: seen.append(state(m)) if m.training else None)
    with (
        pytest.warns(UserWarning, match="halved"),
        pytest.raises(
            TrainingError,
            match=r"not finite in epoch 1, batch 6 .*in a row, also with the weight halved; the model holds the last "
            r"good state: try a smaller lr \(now 0.0001|0.01\), a smaller lambda_rrr \(now 1\), or clip_grad_norm",
        ),
    ):
        fit(mitigator, model, x, y, MASK, checkpoint=file)
    now = state(model)
    assert all(torch.equal(now[k], seen[1][k]) for k in now if "weight" in k or "bias" in k)
    saved = torch.load(file, weights_only=True)["model"]
    assert same(saved, now)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("explainer", ["lrp_epsilon_plus", "attn_lrp", "gradient"])
def test_a_diverging_run_keeps_finite_weights_whatever_the_explanation(explainer, optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.rand(6, 1, 6, 6), torch.arange(6) % 3
    settings = {"lr": 1e30, "batch_size": 2, "n_epochs": 4, "random_state": 0, "max_skips": 2, "optimizer": optimizer}
    with pytest.raises(TrainingError, match=r"smaller lr \(now 1e\+30\)"):
        RRR(explainer=explainer, **settings).fit(model, x, y, torch.ones(6, 6), progress=False)
    assert all(bool(t.isfinite().all()) for t in model.state_dict().values())


def test_a_last_step_into_infinity_is_told():
    model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    before = model.weight.detach().clone()
    settings = {"lr": 1e38, "optimizer": "sgd", "weight_decay": 1e38, "n_epochs": 1, "batch_size": 4, "lambda_rrr": 0.0}
    with pytest.raises(TrainingError, match="the weights are not finite after epoch 1"):
        RRR(**settings).fit(model, x, y, torch.tensor([1.0, 0, 0]), progress=False)
    assert torch.equal(model.weight, before)


@pytest.mark.filterwarnings("ignore:step skipped")
def test_a_training_does_not_end_on_weights_whose_loss_is_not_finite(sick):
    x, y = data()
    model, seen = net(), []
    model.register_forward_hook(lambda m, *_: seen.append(state(m)) if m.training else None)
    with pytest.warns(UserWarning, match="the last 1 steps had a loss .*; the model holds the state before them"):
        fit(RRR(explainer=sick(3), batch_size=4, n_epochs=1, lr=1e-2), model, x, y, MASK)
    now = state(model)
    assert all(torch.equal(now[k], seen[1][k]) for k in now if "weight" in k or "bias" in k)
