"""RRR: what it penalises, how it trains, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, MITIGATORS
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    NotDifferentiableError,
    UnknownNameError,
)
from xaikit.core.mask_shapes import fit_masks
from xaikit.explainers import Gradient, SmoothGrad, VarGrad
from xaikit.mitigation import RRR
from xaikit.testing import ContractNet


def net(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, 3)).to(dtype)


def data(n=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 6, 6, generator=generator, dtype=torch.float64)
    mask = torch.zeros(6, 6, dtype=torch.float64)
    mask[:2, :2] = 1
    return x, torch.arange(n) % 3, mask


def fit(mitigator, model, *args, **kwargs):
    return mitigator.fit(model, *args, progress=False, **kwargs)


def test_default_formula():
    model, (x, y, mask) = net(), data()
    v = x.clone().requires_grad_()
    log_p = F.log_softmax(model(v), -1).gather(1, y[:, None]).sum()
    (g,) = torch.autograd.grad(log_p, v)
    loss = RRR(lambda_rrr=3.0).loss(model, (x, y, mask))
    assert torch.allclose(loss.penalty, (mask * g**2).sum())
    assert torch.allclose(loss.total, F.cross_entropy(model(x), y) + 3 * (mask * g**2).sum())


FEWER_PASSES = {
    "exact_shapley": "exact_shapley:n_segments=4",
    "kernel_shapley": "kernel_shapley:n_segments=4,n_coalitions=12",
    "owen_shapley": "owen_shapley:n_segments=4,n_coalitions=12",
    "permutation_shapley": "permutation_shapley:n_segments=4,n_coalitions=12",
}


@pytest.mark.parametrize("name", [n for n in EXPLAINERS if EXPLAINERS.get(n).DIFFERENTIABLE])
def test_any_differentiable_explainer_can_be_penalised(name):
    """The penalty's gradient is exact for every parameter: finite differences, float64, a direction for each."""
    torch.manual_seed(0)
    model, x = ContractNet().double().eval(), torch.randn(3, 2, 6, 6).double()
    y, mask = torch.tensor([0, 2, 1]), torch.rand(6, 6).double()
    mitigator = RRR(explainer=FEWER_PASSES.get(name, name))
    parameters = list(model.parameters())
    grads = torch.autograd.grad(mitigator.loss(model, (x, y, mask), seed=0).penalty, parameters, allow_unused=True)
    found, exact, step = [], [], 1e-6
    for p, g in zip(parameters, grads, strict=True):
        direction, kept, ends = torch.randn_like(p), p.detach().clone(), []
        for sign in (1, -1):
            p.data = kept + sign * step * direction
            ends.append(float(mitigator.loss(model, (x, y, mask), seed=0).penalty.detach()))
        p.data = kept
        found.append((ends[0] - ends[1]) / (2 * step))
        exact.append(0.0 if g is None else float((g * direction).sum()))
    scale = max(map(abs, found))
    assert max(abs(a - b) for a, b in zip(exact, found, strict=True)) < 1e-5 * scale


def test_explainer_is_a_name_a_class_an_object_or_a_spec():
    model, batch = net(), data()
    values = [
        float(RRR(explainer=e).loss(model, batch, seed=0).penalty.detach())
        for e in (
            "smoothgrad:n_iter=3",
            SmoothGrad(n_iter=3),
            SmoothGrad(model, n_iter=3),
            {"name": "smoothgrad", "settings": {"n_iter": 3}},
        )
    ]
    assert len(set(values)) == 1
    assert RRR(explainer=Gradient) == RRR()
    with pytest.raises(UnknownNameError, match="did you mean 'gradient'"):
        RRR(explainer="gradent")
    with pytest.raises(InvalidTypeError, match="RRR.explainer: expected explainer"):
        RRR(explainer=3)


def test_an_explainer_without_derivative_is_refused():
    class Detached(Gradient):
        """No graph."""

        DIFFERENTIABLE = False

    with pytest.raises(NotDifferentiableError, match="Detached has no exact derivative.*these can: .*gradient"):
        RRR(explainer=Detached())


def test_weight_zero_is_the_plain_training_step_bit_for_bit():
    ours, plain, (x, y, mask) = net(), net(), data()
    fit(RRR(lambda_rrr=0.0, lr=1e-2, n_epochs=1, batch_size=12, random_state=0), ours, x, y, mask)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    torch.manual_seed(0 * 1_000_003 + 1)
    order = torch.randperm(12)
    F.cross_entropy(plain(x[order]), y[order]).backward()
    optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_penalised_training_leaves_the_masked_region_alone():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (160,), generator=generator)
    x = torch.randn(160, 8, generator=generator) * 0.6
    x[:, 0] += 2.0 * (2 * y - 1)  # the shortcut
    x[:, 4:] += 0.5 * (2 * y[:, None] - 1)  # the honest signal
    mask = torch.tensor([1.0] + [0.0] * 7)
    share = {}
    for weight in (0.0, 30.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        history = fit(RRR(lambda_rrr=weight, lr=5e-3, n_epochs=25, batch_size=16, random_state=0), model, x, y, mask)
        a = Gradient(model).attribute(x, y).abs().mean(0)
        flipped = x.clone()
        flipped[:, 0] *= -1
        share[weight] = (float(a[0] / a.sum()), float((model(flipped).argmax(1) == y).float().mean()))
        assert history["accuracy"][-1] > 0.8
    assert share[30.0][0] < 0.2 * share[0.0][0]
    assert share[30.0][1] > 0.8 > 0.6 > share[0.0][1]


def test_a_loader_and_a_dict_of_inputs():
    model, (x, y, mask) = net(), data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y, mask.expand(12, 6, 6)), batch_size=4)
    history = fit(RRR(n_epochs=2, random_state=0), model, loader)
    assert [e["samples"] for e in history.epochs] == [12, 12]

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, image):
            return {"scores": self.net(image)}

    named = Named()
    loss = RRR(head="scores").loss(named, ({"image": x}, y, mask))
    assert torch.allclose(loss.total, RRR().loss(named.net, (x, y, mask)).total)
    with pytest.raises(InvalidInputError, match="gave no batch in epoch 2"):
        fit(RRR(n_epochs=2), model, iter([(x, y, mask)]))


def test_mode_and_random_state_are_as_found():
    model, (x, y, mask) = net(), data()
    model.eval()
    model[1].train()
    before = torch.random.get_rng_state()
    fit(RRR(n_epochs=1, random_state=3), model, x, y, mask)
    assert [m.training for m in model.modules()] == [False, False, True, False, False]
    assert torch.equal(before, torch.random.get_rng_state())


def test_same_seed_same_weights():
    weights = []
    for _ in range(2):
        model, (x, y, mask) = net(), data()
        fit(RRR(explainer="smoothgrad:n_iter=2", n_epochs=2, random_state=5), model, x, y, mask)
        weights.append(model[3].weight.detach().clone())
        torch.rand(3)
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"y": torch.arange(12)}, InvalidInputError, "labels must lie in 0..2 for a model with 3 outputs, got 3"),
        (
            {"y": torch.zeros(5).long()},
            InvalidInputError,
            "must have shape (12,), one for each sample, got (5,)",
        ),
        ({"y": torch.zeros(12)}, InvalidTypeError, "whole class indices of an integer type, got torch.float32"),
        ({"mask": torch.zeros(3, 3, 3)}, InvalidInputError, "N = 12; got (3, 3, 3)"),
        (
            {"mask": torch.zeros(11, 6, 6)},
            InvalidInputError,
            "(6, 6) for all samples, (12, 6, 6) or (12, 1, 6, 6), N = 12; got (11,",
        ),
        ({"mask": torch.full((6, 6), 2.0)}, InvalidInputError, "values in [0, 1], got 2 to 2"),
        ({"mask": torch.full((6, 6), math.nan)}, InvalidInputError, "got NaN"),
        ({"mask": "corner"}, InvalidTypeError, "masks must hold numbers, got strings"),
        ({"mask": None}, InvalidInputError, "fit needs labels and masks"),
        ({"x": torch.full((12, 1, 6, 6), math.inf)}, InvalidInputError, "must be finite"),
    ],
)
def test_wrong_data(change, error, words):
    x, y, mask = data()
    given = {"x": x, "y": y, "mask": mask, **change}
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(error) as caught:
        fit(RRR(), model, given["x"], given["y"], given["mask"])
    assert words in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_other_wrong_calls():
    model, (x, y, mask) = net(), data()
    with pytest.raises(InvalidTypeError, match=r"RRR must be told where: a batch is \(inputs, labels, masks\)"):
        RRR().loss(model, (x, y))
    with pytest.raises(
        InvalidTypeError, match="fit takes inputs, labels and masks, or .* a loader or a list of such batches, .* got 3"
    ):
        fit(RRR(), model, 3)
    with pytest.raises(InvalidTypeError, match="fit takes a torch.nn.Module first"):
        fit(RRR(), "model", x, y, mask)
    with pytest.raises(InvalidInputError, match="must name a torch device"):
        RRR(device="gpu please")
    with pytest.warns(UserWarning, match="zero everywhere, so nothing is penalised"):
        fit(RRR(n_epochs=1), model, x, y, mask * 0)
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="nothing to train$"):
        fit(RRR(), model, x, y, mask)

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [model]

        def forward(self, x):
            return self.layers[0](x)

    with pytest.raises(InvalidInputError, match=r"nothing to train; .* put them into an nn.ModuleList"):
        fit(RRR(), Listed(), x, y, mask)


def test_masks_are_brought_to_the_attribution():
    a = torch.zeros(2, 3, 8, 8)
    for shape in ((8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 8, 8)):
        assert fit_masks(torch.ones(shape), (a,))[0].shape == a.shape
    quarter = torch.zeros(4, 4)
    quarter[0, 0] = 1
    assert float(fit_masks(quarter, (a,))[0][0, 0].sum()) == 4  # one cell of 4 x 4 covers four of 8 x 8
    assert float(fit_masks(torch.ones(16, 16), (a,))[0].mean()) == 1
    with pytest.raises(InvalidInputError, match=r"\(8, 8\) for all samples, \(2, 8, 8\) or .* got \(5, 8, 8\)"):
        fit_masks(torch.ones(5, 8, 8), (a,))


def test_a_batch_of_one_left_over_joins_the_one_before():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x, y = torch.rand(9, 3), torch.arange(9) % 2
    history = fit(RRR(n_epochs=1, batch_size=4, random_state=0), model, x, y, torch.tensor([1.0, 0, 0]))
    assert history.epochs[0]["samples"] == 9


def test_gradient_clipping_and_other_optimizers_act():
    ends = {}
    for name, settings in {
        "plain": {},
        "clipped": {"clip_grad_norm": 1e-3},
        "sgd": {"optimizer": "sgd"},
        "decay": {"weight_decay": 1.0},
    }.items():
        model, (x, y, mask) = net(), data()
        fit(RRR(n_epochs=1, lr=1e-2, random_state=0, **settings), model, x, y, mask)
        ends[name] = float(model[3].weight.detach().sum())
    assert len(set(ends.values())) == 4


def test_forms_differ_where_they_should():
    model, batch = net(), data()
    value = lambda **s: float(RRR(**s).loss(model, batch, seed=0).penalty.detach())
    base = value()
    assert value(reduction="mean") == pytest.approx(base / 12)
    assert value(normalization="mask") == pytest.approx(base / (12 * 4))
    assert 0 < value(normalization="total", reduction="mean") < 1
    assert value(power=1) != base
    assert value(output="logit") != base
    assert value(explainer="vargrad:n_iter=3") > 0
    assert VarGrad.DIFFERENTIABLE
    assert "rrr" in MITIGATORS
