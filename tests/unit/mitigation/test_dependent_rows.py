"""Models whose rows see each other, in losses and in training: exact, or refused in a sentence."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit import CDEP, RRR, Gradient, SmoothGrad, evaluate
from xaikit.core.errors import InvalidInputError

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.random((9, 3, 2, 2)), GENERATOR.integers(0, 3, 9)
MASKS = np.zeros((9, 2, 2))
MASKS[:, 0] = 1


class InBatchSoftmax(nn.Module):
    """Images against texts, with a softmax over the images of the batch, as a contrastive model has it."""

    def __init__(self):
        super().__init__()
        self.image, self.texts = nn.Linear(12, 5), nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        z = 3 * F.normalize(self.image(x.flatten(1)), dim=-1) @ F.normalize(self.texts, dim=-1).T
        return z.softmax(0) * z


class Graph(nn.Module):
    """Rows are nodes: each mixes with the ones near it."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = x.flatten(1)
        near = torch.softmax(-((x[:, None] - x[None]) ** 2).sum(-1), 1)
        return self.out(near @ torch.tanh(near @ self.inner(x)))


class BatchStatistics(nn.Module):
    """BatchNorm without running statistics: those of the batch, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(12, 6), nn.BatchNorm1d(6, track_running_stats=False)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.inner(x.flatten(1)))))


class FourAtATime(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.place, self.out = nn.Linear(12, 6), nn.Parameter(torch.randn(4, 6)), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.inner(x.flatten(1)) + self.place))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double()


MITIGATORS = [RRR(), RRR(explainer="smoothgrad:n_iter=3"), CDEP()]


@pytest.mark.filterwarnings("ignore:the rows of this")
@pytest.mark.parametrize("n", [4, 1])
@pytest.mark.parametrize("mitigator", MITIGATORS, ids=repr)
@pytest.mark.parametrize("kind", [InBatchSoftmax, Graph, BatchStatistics])
def test_the_derivative_of_a_penalty_is_exact(kind, mitigator, n):
    model, batch = made(kind), (X[:n], Y[:n], MASKS[:n])
    if kind is BatchStatistics and n == 1:
        with pytest.raises(InvalidInputError, match="BatchNorm in training mode cannot take a batch of one"):
            mitigator.loss(model, batch, seed=0)
        return
    gradients = torch.autograd.grad(mitigator.loss(model, batch, seed=0).penalty, list(model.parameters()))
    direction = [torch.randn_like(p) for p in model.parameters()]
    exact = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def penalty(step: float) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p.add_(step * d)
        return mitigator.loss(moved, batch, seed=0).penalty.item()

    assert exact == pytest.approx((penalty(1e-6) - penalty(-1e-6)) / 2e-6, rel=1e-5)


@pytest.mark.filterwarnings("ignore:the rows of this")
@pytest.mark.parametrize("mitigator", [RRR(), CDEP()], ids=repr)
@pytest.mark.parametrize("kind", [InBatchSoftmax, Graph, BatchStatistics])
def test_fit_with_a_last_batch_of_one(kind, mitigator):
    model = made(kind).float()
    before = copy.deepcopy(model.state_dict())
    mitigator = mitigator.set_kwargs(n_epochs=1, batch_size=4, random_state=0)
    assert np.isfinite(mitigator.fit(model, X, Y, MASKS, progress=False)["penalty"][-1])
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:the rows of this")
@pytest.mark.parametrize("mitigator", [RRR(batch_size=3), CDEP(batch_size=3)], ids=repr)
def test_a_model_of_batches_of_one_size_is_refused(mitigator):
    with pytest.raises(InvalidInputError, match="inputs of shape|one row per sample"):
        mitigator.fit(made(FourAtATime), X, Y, MASKS, progress=False)
    with pytest.raises(InvalidInputError, match="one row per sample"):
        mitigator.loss(made(FourAtATime), (X[:1], Y[:1], MASKS[:1]))
    assert mitigator.loss(made(FourAtATime), (X[:4], Y[:4], MASKS[:4])).penalty > 0


@pytest.mark.parametrize("kind", [InBatchSoftmax, Graph])
def test_evaluate_explains_each_row_in_its_batch(kind):
    """Mean |a| by evaluate's own table, against plain autograd on the whole batch."""
    model = made(kind)
    x = torch.tensor(X[:4], requires_grad=True)
    (expected,) = torch.autograd.grad(model(x)[range(4), Y[:4]].sum(), x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the rows of this")
        table = evaluate([Gradient(model), SmoothGrad(model, n_iter=2)], ["entropy"], (X[:4], Y[:4]), progress=False)
    share = expected.abs().flatten(1) / expected.abs().flatten(1).sum(1, keepdim=True)
    entropy = -(share * share.log()).sum(1).mean()
    row = table.to_pandas().query("explainer == 'gradient'").iloc[0]
    assert row["n"] == 4
    assert row["mean"] == pytest.approx(float(entropy), rel=1e-6)
