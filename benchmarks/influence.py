"""Influences against the truth: training again without each sample; rank correlations on a net of two layers.

python -m benchmarks.influence
"""

from __future__ import annotations

import copy

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import table
from xaikit.influence import influence_function, tracin

SAMPLES, TESTS, DECAY, SEEDS, STEPS, RATE = 60, 5, 0.05, 4, 100, 0.02


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two overlapping clouds of points."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64) + 0.8 * (2 * y - 1).view(-1, 1)
    return x, y


def network(seed: int) -> nn.Module:
    """Two layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over all samples, of which some may be left out, with weight decay."""
    decay = DECAY / 2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()
    return F.cross_entropy(model(x), y, reduction="sum") / SAMPLES + decay


def converged(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """The model at the next minimum."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=400, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model, x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def descended(seed: int, x: Tensor, y: Tensor) -> tuple[nn.Module, list[tuple[dict[str, Tensor], float]]]:
    """The model after some steps of gradient descent, and the weights before each."""
    model, checkpoints = network(seed), []
    for _ in range(STEPS):
        checkpoints.append((copy.deepcopy(model.state_dict()), RATE / SAMPLES))
        gradients = torch.autograd.grad(
            F.cross_entropy(model(x), y, reduction="sum") / SAMPLES, list(model.parameters())
        )
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.sub_(RATE * gradient)
    return model, checkpoints


def losses(model: nn.Module, test: tuple[Tensor, Tensor]) -> Tensor:
    """Of each test sample."""
    with torch.no_grad():
        return F.cross_entropy(model(test[0]), test[1], reduction="none")


def correlation(truth: Tensor, values: Tensor) -> tuple[float, float]:
    """Rank correlation over the training samples: smallest and mean over the test samples."""
    each = [float(spearmanr(a, b).statistic) for a, b in zip(truth, values, strict=True)]
    return min(each), sum(each) / len(each)


def main() -> None:
    rows: list[list[object]] = []
    for seed in range(SEEDS):
        x, y = blobs(SAMPLES, seed)
        test = blobs(TESTS, 100 + seed)
        kept = [torch.tensor([j for j in range(SAMPLES) if j != i]) for i in range(SAMPLES)]
        model = converged(network(seed), x, y)
        again = [losses(converged(model, x[k], y[k]), test) for k in kept]
        truth = torch.stack(again, 1) - losses(model, test)[:, None]
        values = influence_function(model, (x, y), test, damping=DECAY, tolerance=1e-6, progress=False).values
        last, checkpoints = descended(seed, x, y)
        steps = (
            torch.stack([losses(descended(seed, x[k], y[k])[0], test) for k in kept], 1) - losses(last, test)[:, None]
        )
        traced = tracin(last, (x, y), test, checkpoints=checkpoints, progress=False).values
        rows.append([seed, *correlation(truth, values), *correlation(steps, traced)])
    head = ["seed", "influence function, worst test sample", "mean", "TracIn, worst test sample", "mean"]
    table("Rank correlation with training again without the sample", head, rows)


if __name__ == "__main__":
    main()
