"""F-Fidelity by closed forms and plain loops, and the tuning with masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import METRICS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import FFidelity, FFidelityMinus, FFidelityPlus, tune_with_masks
from xaikit.metrics.random_subsets import random_keys


class Zeros(nn.Module):
    """Minus the number of positions that are 0 in all channels: the drop is how many were removed."""

    def forward(self, x):
        return -(x.abs().sum(1) < 1e-9).flatten(1).sum(1, keepdim=True).double() + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(("share", "limit"), [(0.5, 0.1), (0.5, 1.0), (1.0, 0.3), (0.2, 0.05)])
def test_never_more_is_removed_than_the_limit(share, limit):
    x = torch.rand(3, 2, 5, 8).double() + 1  # 40 positions
    settings = {"share": share, "limit": limit, "n_iter": 2, "output": "score"}
    sizes = [4 * k for k in range(1, 10)]
    counts = [[max(1, min(round(share * m), round(limit * 40))) for m in (s, 40 - s)] for s in sizes]
    plus, minus = np.mean(counts, 0)
    explainer, a = Gradient(Zeros()), torch.rand_like(x)
    assert FFidelityPlus(**settings).evaluate(explainer, x, None, a).tolist() == pytest.approx([plus] * 3)
    assert FFidelityMinus(**settings).evaluate(explainer, x, None, a).tolist() == pytest.approx([minus] * 3)
    assert FFidelity(**settings).evaluate(explainer, x, None, a).tolist() == pytest.approx([plus - minus] * 3)


def test_the_drops_are_those_of_a_plain_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(4, 10).double(), torch.tensor([0, 2, 1, 1])
    explainer = GradientXInput(model)
    values, keys = explainer.attribute(x, y).numpy(), random_keys((10,), 5, 3).numpy()
    probability = lambda row, label: float(model(row[None]).softmax(1)[0, label].detach())
    drops = {True: [], False: []}
    for row, relevance, label in zip(x, values, y.tolist(), strict=True):
        order = np.argsort(-relevance, kind="stable")
        for explanation in (True, False):
            total = 0.0
            for size in (2, 5, 8):  # 10 k / 4, rounded to even
                part = order[:size] if explanation else order[size:]
                count = max(1, min(round(0.5 * len(part)), 3))
                for key in keys:
                    removed = sorted(part, key=lambda j, key=key: key[j])[:count]
                    changed = row.clone()
                    changed[removed] = 0.5
                    total += (probability(row, label) - probability(changed, label)) / 15
            drops[explanation].append(total)
    settings = {"limit": 0.3, "n_sizes": 3, "n_iter": 5, "baseline": 0.5}
    plus = FFidelityPlus(**settings).evaluate(explainer, x, y, seed=3)
    minus = FFidelityMinus(**settings).evaluate(explainer, x, y, seed=3)
    assert plus.tolist() == pytest.approx(drops[True], abs=1e-12)
    assert minus.tolist() == pytest.approx(drops[False], abs=1e-12)
    few = FFidelityPlus(**settings, max_rows=3).evaluate(explainer, x, y, seed=3)
    assert torch.allclose(few, plus)


def test_the_tuned_model_is_measured_and_the_other_is_explained():
    torch.manual_seed(0)
    model, x = nn.Linear(12, 3).double(), torch.randn(5, 12).double()
    doubled = copy.deepcopy(model)
    doubled.weight.data *= 2
    explainer, metric = GradientXInput(model), FFidelity(output="score")
    own = metric.evaluate(explainer, x, 1)
    assert torch.allclose(metric.set_kwargs(tuned_model=doubled).evaluate(explainer, x, 1), 2 * own)
    # The other way round a map of the explained model is measured on a model that does the opposite.
    opposite = copy.deepcopy(model)
    opposite.weight.data *= -1
    assert torch.allclose(metric.set_kwargs(tuned_model=opposite).evaluate(explainer, x, 1), -own)
    at_layer = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    hidden = FFidelity(output="score", tuned_model=copy.deepcopy(at_layer))
    explainer = GradientXInput(at_layer, layer="1")
    assert torch.allclose(hidden.evaluate(explainer, x, 1), FFidelity(output="score").evaluate(explainer, x, 1))


def test_accuracy_is_the_form_of_the_paper():
    model = nn.Linear(4, 2).double()
    model.weight.data = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0, 0]]).double()
    model.bias.data = torch.tensor([0.0, 0.1]).double()
    x = torch.ones(1, 4).double()
    # Class 0 is predicted unless position 0 is removed: the explanation's strongest, always drawn with limit 1.
    metric = FFidelityPlus(output="accuracy", share=1.0, limit=1.0)
    assert metric.evaluate(GradientXInput(model), x, 0).tolist() == [1.0]
    assert FFidelityMinus(output="accuracy").evaluate(GradientXInput(model), x, 0).tolist() == [0.0]


def digits():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    x = torch.randn(120, 1, 6, 6, generator=generator) * 0.3
    x[y == 1] += 0.4
    return x, y


def test_tuning_makes_a_model_that_knows_masked_inputs():
    x, y = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    settings = {"limit": 0.5, "baseline": 1.0, "n_epochs": 30, "lr": 1e-2, "batch_size": 40, "progress": False}
    tuned = tune_with_masks(model, (x, y), **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    again = tune_with_masks(model, (x, y), **settings)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in tuned.state_dict().items())
    plain = tune_with_masks(model, (x, y), **settings | {"limit": 0.01})  # of 36 positions none

    def accuracy(net):
        masked = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4, 1.0, x)
        with torch.no_grad():
            return float((net.eval()(masked).argmax(1) == y).double().mean())

    assert accuracy(tuned) > accuracy(plain) + 0.1


def test_masks_hide_whole_positions_and_stay_below_the_limit():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            seen.append(x.detach())
            return self.scale * x.flatten(1)[:, :1]

    tune_with_masks(Watch(), (torch.ones(50, 3, 4, 5), torch.zeros(50).long()), limit=0.3, n_epochs=4, progress=False)
    x = torch.cat(seen)
    assert torch.equal(x[:, 0], x[:, 2])  # all channels of a position
    counts = (x[:, 0] == 0).flatten(1).sum(1)
    assert set(counts.tolist()) == set(range(7))  # 0 to 0.3 of 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 0}, "limit must be > 0"),
        ({"limit": 1.5}, "limit must be > 0 and <= 1"),
        ({"n_epochs": 0}, "n_epochs must be"),
        ({"lr": -1}, "lr must be"),
    ],
)
def test_wrong_settings_of_the_tuning(change, message):
    with pytest.raises(InvalidInputError, match=message):
        tune_with_masks(nn.Linear(4, 2), (torch.rand(8, 4), torch.arange(8) % 2), **change)


def test_wrong_calls():
    with pytest.raises(InvalidTypeError, match="labels must hold numbers, got NoneType"):
        tune_with_masks(nn.Linear(4, 2), [(torch.rand(8, 4), None)], progress=False)
    data, loss = (torch.rand(8, 4), torch.rand(8)), lambda output, _: output.sum() * torch.nan
    with pytest.raises(NonFiniteError, match="the loss became .* lower lr, now 0.0001"):
        tune_with_masks(nn.Linear(4, 1), data, loss=loss, progress=False)
    with pytest.raises(InvalidTypeError, match=r"tuned_model must be a model, as tune_with_masks\(model, data\)"):
        METRICS.create("f_fidelity", tuned_model="model")
    with pytest.raises(InvalidInputError, match="FFidelityPlus needs at least 2 positions"):
        FFidelityPlus().evaluate(Gradient(nn.Linear(1, 2)), torch.rand(3, 1), 0)
    explainer = GradientXInput(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), layer="0")
    other = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 2))
    with pytest.raises(InvalidInputError, match=r"must explain the same features as the model, \(3, 6\), got \(3, 7\)"):
        FFidelity(tuned_model=other).evaluate(explainer, torch.rand(3, 4), 0)


class Recorder(nn.Module):
    """Remembers what it was shown in training."""

    shown: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, input_ids, attention_mask):
        self.shown.append((input_ids, attention_mask))
        return self.bias.expand(len(input_ids), 3)


@pytest.mark.parametrize(("labels", "criterion"), [
    (torch.arange(8) % 2, nn.functional.binary_cross_entropy_with_logits), (torch.rand(8), nn.functional.mse_loss),
])  # fmt: skip
def test_the_loss_of_a_single_output_suits_its_labels(labels, criterion):
    """Two classes of one logit once had the squared error of a regression."""
    model, x = nn.Linear(4, 1), torch.rand(8, 4)
    own = tune_with_masks(
        model, (x, labels), n_epochs=2, lr=0.1, progress=False, loss=lambda o, y: criterion(o[:, 0], y.to(o))
    )
    assert torch.equal(tune_with_masks(model, (x, labels), n_epochs=2, lr=0.1, progress=False).weight, own.weight)


def test_labels_that_do_not_suit_the_output():
    x, options = torch.rand(8, 4), {"n_epochs": 1, "progress": False}
    for labels, outputs, error, message in (
        (torch.arange(8), 3, InvalidInputError, r"labels must lie in 0..2 for a model with 3 outputs"),
        (torch.rand(8), 3, InvalidTypeError, "labels must be whole class indices"),
        (
            (torch.arange(8) % 2).float(),
            1,
            InvalidInputError,
            "or the classes 0 and 1 of an integer type, got torch.float32 0 and 1",
        ),
        (torch.arange(8), 1, InvalidInputError, "got torch.int64 up to 7; convert them"),
    ):
        with pytest.raises(error, match=message):
            tune_with_masks(nn.Linear(4, outputs), (x, labels), **options)
    with pytest.raises(InvalidInputError, match=r"got an output of shape \(8, 4, 2\); give loss="):
        tune_with_masks(nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Linear(1, 2)), (x, torch.arange(8) % 2), **options)
    with pytest.raises(InvalidInputError, match=r"loss must return one number, such as a mean, got \(8, 1\)"):
        tune_with_masks(nn.Linear(4, 1), (x, torch.rand(8)), loss=lambda o, _: o, **options)
    regression = torch.cat([torch.rand(4), torch.ones(4)])  # the second batch holds 1 alone
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, regression), 4)
    assert tune_with_masks(nn.Linear(4, 1), loader, **options).weight.shape == (1, 4)


def test_small_inputs_are_masked_too_and_attention_masks_never():
    """Of 5 tokens a tenth is half a token: one is masked, in about half of the samples."""
    ids = torch.arange(1, 501).view(100, 5)
    Recorder.shown.clear()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tune_with_masks(Recorder(), (batch, torch.arange(100) % 3), n_epochs=1, progress=False)
    masked = torch.cat([(seen == 0).sum(1) for seen, _ in Recorder.shown])
    assert set(masked.tolist()) == {0, 1}
    assert 30 < int(masked.sum()) < 70
    assert all(bool(mask.all()) for _, mask in Recorder.shown)


def test_what_cannot_be_tuned():
    frozen = nn.Linear(4, 3).requires_grad_(requires_grad=False)
    batch = (np.ones((6, 4), np.uint8), np.arange(6) % 3)
    with pytest.raises(InvalidInputError, match="nothing to tune"):
        tune_with_masks(frozen, batch, progress=False)
    with pytest.raises(InvalidTypeError, match=r"fails on torch.int64 inputs; pass inputs.to\(torch.float32\)"):
        tune_with_masks(nn.Linear(4, 3), batch, progress=False)
