"""Influences against the truth: training again without each sample; rank correlations on nets of two layers.

The truth of the influence function is a net that is trained from the same weights to the minimum of the loss without
the sample, weight decay included; a second start, moved a little, shows how well that is defined. That of TracIn and
SGD-influence is a net that takes the same steps without the sample.

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
from xaikit.influence import influence_function, sgd_influence, tracin

TESTS, SEEDS, LEFT_OUT, RATE, MOMENTUM, MOVED = 5, 4, 40, 0.1, 0.9, 1e-4
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


def descended(
    model: nn.Module, data: Data, kept: Tensor, steps: int, momentum: float = 0, decay: float = 0
) -> tuple[list[nn.Module], list[tuple[dict[str, Tensor], float, None]]]:
    """The model after gradient descent with each row of weights of the samples; and the steps of the first row.

    Args:
        model: to begin with.
        data: the samples.
        kept: (R, N), 0 at the samples that a run leaves out.
        steps: of descent.
        momentum: as in `torch.optim.SGD`.
        decay: likewise.
    """
    stacked = {k: p.detach().expand(len(kept), *p.shape).clone() for k, p in model.named_parameters()}
    velocity = {k: torch.zeros_like(p) for k, p in stacked.items()}

    def loss(parameters: dict[str, Tensor], weights: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, data[0])
        return (weights * F.cross_entropy(outputs, data[1], reduction="none")).mean()

    slope, record = torch.func.vmap(torch.func.grad(loss)), []
    for _ in range(steps):
        record.append(({k: p[0].clone() for k, p in stacked.items()}, RATE, None))
        slopes = slope(stacked, kept)
        velocity = {k: momentum * v + slopes[k] + decay * stacked[k] for k, v in velocity.items()}
        stacked = {k: p - RATE * velocity[k] for k, p in stacked.items()}
    models = [copy.deepcopy(model) for _ in kept]
    for run, trained in enumerate(models):
        trained.load_state_dict({k: p[run] for k, p in stacked.items()})
    return models, record


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
    """One row: the setting, by how much the weights move, and the correlations of a second truth and two curvatures."""
    by_default: list[float] = []
    by_gauss_newton: list[float] = []
    by_truth: list[float] = []
    moves: list[float] = []
    for seed in range(SEEDS):
        data, test = blobs(n, seed, flipped), blobs(TESTS, 100 + seed)
        samples = random.Random(seed).sample(range(n), min(n, LEFT_OUT))
        model = converged(network(seed, activation), data, torch.ones(n), decay)
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        moved = copy.deepcopy(model)
        nn.utils.vector_to_parameters(before + MOVED * torch.randn_like(before), moved.parameters())
        truth, again_moved = [], []
        for sample in samples:
            kept = (torch.arange(n) != sample).double()
            again = converged(model, data, kept, decay)
            truth.append(losses(again, test) - losses(model, test))
            again_moved.append(losses(converged(moved, data, kept, decay), test))
            after = nn.utils.parameters_to_vector(again.parameters()).detach()
            moves.append(float((after - before).norm() / before.norm()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = influence_function(model, data, test, progress=False).values
            options = {"curvature": "gauss_newton", "damping": 0.01}
            others = influence_function(model, data, test, progress=False, **options).values
        by_truth += correlations(torch.stack(truth, 1), torch.stack(again_moved, 1))
        by_default += correlations(torch.stack(truth, 1), values[:, samples])
        by_gauss_newton += correlations(torch.stack(truth, 1), others[:, samples])
    name = named(n, flipped, decay, activation)
    return [name, f"{max(moves):.2f}", summary(by_truth), summary(by_default), summary(by_gauss_newton)]


def named(n: int, flipped: float, decay: float, activation: type[nn.Module]) -> str:
    """The words for a setting."""
    return f"{n} samples, {100 * flipped:.0f} % flipped, decay {decay:g}, {activation.__name__}"


def along_training(
    steps: int, n: int, flipped: float, decay: float, activation: type[nn.Module], momentum: float = MOMENTUM
) -> list[list[float]]:
    """Correlations with the same steps without the sample: of TracIn, the influence function and SGD-influence."""
    by_method: list[list[float]] = [[], [], []]
    for seed in range(SEEDS):
        data, test = blobs(n, seed, flipped), blobs(TESTS, 100 + seed)
        samples = random.Random(seed).sample(range(n), min(n, LEFT_OUT)) if n > 60 else list(range(n))
        kept = torch.cat([torch.ones(1, n), 1 - torch.eye(n)[samples]]).double()
        (model, *others), record = descended(network(seed, activation), data, kept, steps, momentum, decay)
        truth = torch.stack([losses(other, test) - losses(model, test) for other in others], 1)
        every = max(1, steps // 100)
        checkpoints = [(weights, every * rate / n) for weights, rate, _ in record[::every]]
        options = {"batch_size": n, "progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = (
                tracin(model, data, test, checkpoints=checkpoints, **options),
                influence_function(model, data, test, **options),
                sgd_influence(model, data, test, steps=record, momentum=momentum, weight_decay=decay, **options),
            )
        for values, influences in zip(by_method, found, strict=True):
            values.extend(correlations(truth, influences.values[:, samples]))
    return by_method


def main() -> None:
    head = ["setting", "largest move of the weights", "truth from a start moved by 1e-4", "by default",
            "Gauss-Newton, damping 0.01"]  # fmt: skip
    title = "The influence function against training again without a sample: mean rank correlation (smallest)"
    table(title, head, [against_retraining(*setting) for setting in SETTINGS])
    title = "Along the training, against the same steps without a sample: mean rank correlation (smallest)"
    head = ["training", "steps", "TracIn", "influence function", "SGD-influence"]
    plain = ("60 samples, 20 % flipped, Tanh, no momentum, no decay", (60, 0.2, 0.0, nn.Tanh, 0.0))
    rows = [[plain[0], steps, *map(summary, along_training(steps, *plain[1]))] for steps in (20, 100, 400, 2000)]
    rows += [
        [named(*setting), steps, *map(summary, along_training(steps, *setting))]
        for setting in SETTINGS
        for steps in (100, 400)
    ]
    table(title, head, rows)


if __name__ == "__main__":
    main()
