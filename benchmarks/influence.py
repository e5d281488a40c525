"""Influences against the truth: training again without each sample; rank correlations on nets of two layers.

The truth of the influence function is a net that is trained from the same weights to the minimum of the loss without
the sample, weight decay included; that of TracIn one that takes the same steps without it.

python -m benchmarks.influence
"""

from __future__ import annotations

import copy
import random
import warnings

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import table
from xaikit.influence import influence_function, tracin

TESTS, SEEDS, LEFT_OUT, RATE = 5, 4, 40, 0.1
SETTINGS = (  # samples, labels that are flipped, weight decay, activation
    (60, 0.0, 0.05, nn.Tanh),
    (400, 0.0, 0.01, nn.Tanh),
    (400, 0.2, 0.01, nn.Tanh),
    (400, 0.2, 0.003, nn.Tanh),
    (400, 0.2, 0.01, nn.GELU),
    (40, 0.2, 0.01, nn.Tanh),
    (400, 0.2, 0.01, nn.ReLU),
)
Data = tuple[Tensor, Tensor]


def blobs(n: int, seed: int, flipped: float = 0) -> Data:
    """Two overlapping clouds of points, some with the other's label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64) + 0.8 * (2 * y - 1).view(-1, 1)
    return x, torch.where(torch.rand(n, generator=generator) < flipped, 1 - y, y)


def network(seed: int, activation: type[nn.Module]) -> nn.Module:
    """Two layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 2)).double()


def converged(model: nn.Module, data: Data, weights: Tensor, decay: float) -> nn.Module:
    """The model at the next minimum of the mean of weighted losses, with weight decay."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        decayed = decay / 2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()
        loss = (weights * F.cross_entropy(model(data[0]), data[1], reduction="none")).mean() + decayed
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def descended(model: nn.Module, data: Data, left_out: Tensor, steps: int) -> tuple[dict[str, Tensor], list[object]]:
    """The weights after gradient descent without each sample, stacked, first those with all; and all before each step.

    Args:
        model: to begin with.
        data: the samples.
        left_out: (R, N), 0 at the samples that a run leaves out.
        steps: of descent.
    """
    stacked = {k: p.detach().expand(len(left_out), *p.shape).clone() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], weights: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, data[0])
        return (weights * F.cross_entropy(outputs, data[1], reduction="none")).mean()

    slope, checkpoints = torch.func.vmap(torch.func.grad(loss)), []
    for _ in range(steps):
        checkpoints.append(({k: p[0].clone() for k, p in stacked.items()}, RATE / len(data[0])))
        slopes = slope(stacked, left_out)
        stacked = {k: p - RATE * slopes[k] for k, p in stacked.items()}
    return stacked, checkpoints


def losses(model: nn.Module, test: Data) -> Tensor:
    """Of each test sample."""
    with torch.no_grad():
        return F.cross_entropy(model(test[0]), test[1], reduction="none")


def correlations(truth: Tensor, values: Tensor) -> list[float]:
    """Rank correlation over the training samples, for each test sample."""
    return [float(spearmanr(a, b).statistic) for a, b in zip(truth, values, strict=True)]


def summary(values: list[float]) -> str:
    """The mean, and the smallest over seeds and test samples."""
    return f"{sum(values) / len(values):.2f} ({min(values):.2f})"


def against_retraining(n: int, flipped: float, decay: float, activation: type[nn.Module]) -> list[object]:
    """One row: the setting, by how much the weights move, and the correlations of two curvatures."""
    by_default: list[float] = []
    by_gauss_newton: list[float] = []
    moves: list[float] = []
    for seed in range(SEEDS):
        data, test = blobs(n, seed, flipped), blobs(TESTS, 100 + seed)
        samples = random.Random(seed).sample(range(n), min(n, LEFT_OUT))
        model = converged(network(seed, activation), data, torch.ones(n), decay)
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        truth = []
        for sample in samples:
            again = converged(model, data, (torch.arange(n) != sample).double(), decay)
            truth.append(losses(again, test) - losses(model, test))
            after = nn.utils.parameters_to_vector(again.parameters()).detach()
            moves.append(float((after - before).norm() / before.norm()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = influence_function(model, data, test, progress=False).values
            options = {"curvature": "gauss_newton", "damping": 0.01}
            others = influence_function(model, data, test, progress=False, **options).values
        by_default += correlations(torch.stack(truth, 1), values[:, samples])
        by_gauss_newton += correlations(torch.stack(truth, 1), others[:, samples])
    name = f"{n} samples, {100 * flipped:.0f} % flipped, decay {decay:g}, {activation.__name__}"
    return [name, f"{max(moves):.2f}", summary(by_default), summary(by_gauss_newton)]


def along_training(steps: int, n: int = 60) -> list[object]:
    """One row: the steps, and TracIn's correlations with the same steps without the sample."""
    every: list[float] = []
    for seed in range(SEEDS):
        data, test, model = blobs(n, seed, 0.2), blobs(TESTS, 100 + seed), network(seed, nn.Tanh)
        left_out = torch.cat([torch.ones(1, n), 1 - torch.eye(n)]).double()
        stacked, checkpoints = descended(model, data, left_out, steps)
        runs = []
        for run in range(n + 1):
            model.load_state_dict({k: p[run] for k, p in stacked.items()})
            runs.append(losses(model, test))
        truth = torch.stack(runs[1:], 1) - runs[0][:, None]
        model.load_state_dict({k: p[0] for k, p in stacked.items()})
        thinned = [(state, rate * max(1, steps // 100)) for state, rate in checkpoints[:: max(1, steps // 100)]]
        every += correlations(truth, tracin(model, data, test, checkpoints=thinned, progress=False).values)
    return [steps, summary(every)]


def main() -> None:
    head = ["setting", "largest move of the weights", "by default", "Gauss-Newton, damping 0.01"]
    title = "The influence function against training again without a sample: mean rank correlation (smallest)"
    table(title, head, [against_retraining(*setting) for setting in SETTINGS])
    title = "TracIn against the same steps without a sample: mean rank correlation (smallest)"
    table(title, ["steps of gradient descent", "TracIn"], [along_training(steps) for steps in (20, 100, 400, 2000)])


if __name__ == "__main__":
    main()
