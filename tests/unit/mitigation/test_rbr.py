"""RBR: its penalty is the masked gradient of each sample's influence on itself, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.mitigation import RBR
from xaikit.testing.mitigators import penalty_derivative_error

MASK = torch.zeros(6, 6, dtype=torch.float64)
MASK[:3, 1:5] = 1


class Convolutions(nn.Module):
    """Padding by numbers, by name and by reflection; groups, strides, dilation; a layer without a bias."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=(1, 2), stride=(1, 2), bias=False)
        self.same = nn.Conv2d(4, 4, (2, 3), padding="same", groups=2, dilation=(2, 1))
        self.reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.valid = nn.Conv2d(4, 3, 2, padding="valid")
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        x = F.softplus(self.same(F.softplus(self.first(x))))
        x = F.relu(self.reflected(x), inplace=True)
        return self.fc(self.valid(x).tanh().mean((2, 3)))


def case():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    return Convolutions().double(), x, torch.tensor([0, 2, 1, 1])


def sample_gradients(model, parameters, x, y):
    """g of each sample by a pass of its own, (N, weights)."""
    rows = []
    for i in range(len(x)):
        score = F.log_softmax(model(x[i : i + 1]), -1)[0, y[i]]
        grads = torch.autograd.grad(score, parameters, create_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


def influence_gradient(model, parameters, x, y, damping):
    """dI/dx by the definition, with the whole matrix H inverted; and I with H held, as a function of x."""
    v = x.clone().requires_grad_()
    g = sample_gradients(model, parameters, v, y)
    with torch.no_grad():
        size = g.shape[1]
        inverse = (
            torch.eye(size).double() if damping is None else (g.T @ g / len(g) + damping * torch.eye(size)).inverse()
        )

    def influence(points):
        rows = sample_gradients(model, parameters, points, y)
        return (rows @ inverse * rows).sum() / 2

    return torch.autograd.grad(influence(v), v)[0], influence


@pytest.mark.parametrize("damping", [None, 0.1])
@pytest.mark.parametrize("weights", [None, ("first", "same", "reflected", "valid"), "reflected"])
def test_the_penalty_is_that_of_the_definition(weights, damping):
    model, x, y = case()
    names = ("fc",) if weights is None else (weights,) if isinstance(weights, str) else weights
    parameters = [p for name in names for p in model.get_submodule(name).parameters()]
    gradient, influence = influence_gradient(model, parameters, x, y, damping)
    mitigator = RBR(weights=weights, damping=damping)
    loss = mitigator.loss(model, (x, y, MASK), seed=0)
    assert torch.allclose(loss.penalty, (MASK * gradient**2).sum(), rtol=1e-10)
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    difference = (influence(x + 1e-6 * along) - influence(x - 1e-6 * along)) / 2e-6
    assert torch.allclose((gradient * along).sum(), difference, rtol=1e-6)
    assert penalty_derivative_error(mitigator, model, (x, y, MASK), steps=(1e-6, 1e-7)) < 1e-5


def test_layers_that_run_twice_and_positions_add_up():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.word = nn.Linear(3, 3)
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.word(self.word(x).tanh()).sigmoid().sum(1))

    torch.manual_seed(0)
    model, x, y = Shared().double(), torch.randn(3, 5, 3).double(), torch.tensor([0, 1, 0])
    steps = torch.tensor([1.0, 0, 0, 1, 0]).double()
    gradient, _ = influence_gradient(model, list(model.word.parameters()), x, y, None)
    penalty = RBR(weights="word").loss(model, (x, y, steps), seed=0).penalty
    assert torch.allclose(penalty, (steps[:, None] * gradient**2).sum(), rtol=1e-10)


def test_tokens_are_penalised_at_the_embedding():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.embed(ids).tanh().mean(1))

    torch.manual_seed(0)
    model, ids, y = Words().double(), torch.randint(7, (3, 5)), torch.tensor([0, 1, 0])
    first = torch.tensor([1.0, 0, 0, 0, 0])
    behind = nn.Sequential(nn.Identity(), model.head)
    behind.forward = lambda e: model.head(e.tanh().mean(1))
    gradient, _ = influence_gradient(behind, list(model.head.parameters()), model.embed(ids).detach(), y, None)
    loss = RBR(explainer="gradient:layer=embed").loss(model, (ids, y, first))
    assert torch.allclose(loss.penalty, (first[:, None] * gradient**2).sum(), rtol=1e-10)
    loss.total.backward()
    assert bool(model.embed.weight.grad.any())


def test_a_sample_is_penalised_alone_as_in_its_batch():
    model, x, y = case()
    each = sum(RBR().loss(model, (x[i : i + 1], y[i : i + 1], MASK), seed=0).penalty for i in range(4))
    assert torch.allclose(each, RBR().loss(model, (x, y, MASK), seed=0).penalty)


def test_a_single_output_has_the_output_as_its_score():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double(), torch.randn(5, 4).double()
    v = x.clone().requires_grad_()
    features = model[:2](v)
    (gradient,) = torch.autograd.grad((features.square().sum() + len(x)) / 2, v)
    loss = RBR().loss(model, (x, torch.linspace(-2, 2, 5).double(), torch.tensor([1.0, 0, 0, 1])))
    assert torch.allclose(loss.penalty, gradient[:, [0, 3]].square().sum())


def test_refusals():
    model, x, y = case()
    with pytest.raises(InvalidInputError, match=r"takes the gradient alone, for its layer=, got .*; use RRR"):
        RBR(explainer="smoothgrad")
    with pytest.raises(InvalidInputError, match="must be names of layers, such as 'fc', got 3.5"):
        RBR(weights=3.5)
    with pytest.raises(UnknownNameError, match="no layer 'fcc'.*fc"):
        RBR(weights="fcc").loss(model, (x, y, MASK))
    normed = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).double()
    with pytest.raises(InvalidInputError, match="linear and convolutional layers, got '0', a BatchNorm2d; name other"):
        RBR(weights="0").loss(normed, (x, y, MASK))
    with pytest.raises(InvalidInputError, match="needs a linear or convolutional layer, and the model has none"):
        RBR().loss(nn.Flatten(), (x[:, :1, 0, :3], y, torch.ones(3)))

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(36, 3)

        def forward(self, image):
            return self.fc(image.reshape(-1, 36)).reshape(len(image), 2, 3).sum(1)

    with pytest.raises(InvalidInputError, match="layer 'fc' has 8 rows for 4 samples, and RBR needs one for each"):
        RBR().loss(Rows().double(), (x, y, MASK))


def test_numbers_as_names_and_half_precision():
    """Layers of an `nn.Sequential` are called 0, 1, 2; a model in bfloat16 is damped in single precision."""
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.rand(6, 4)
    batch = (x, torch.arange(6) % 3, torch.ones(4))
    assert MITIGATORS.create("rbr:weights=[0,2]") == RBR(weights=["0", "2"])
    assert MITIGATORS.create("rbr:weights=2") == RBR(weights="2")
    exact = RBR(damping=0.1).loss(model, batch).penalty
    coarse = RBR(damping=0.1).loss(model.bfloat16(), (x.bfloat16(), *batch[1:])).penalty
    assert torch.allclose(coarse, exact, rtol=0.05)
