"""Shapley values: the error of each estimate against the exact values, at equal passes, beside captum's kernel SHAP.

python -m benchmarks.shapley
"""

from __future__ import annotations

import sys
import time
import warnings

import torch
from captum.attr import KernelShap, ShapleyValueSampling
from torch import nn

from benchmarks.measure import table
from xaikit.explainers import ExactShapley, KernelShapley, PermutationShapley

FEATURES, SAMPLES, SEEDS = 10, 6, 3


class Products(nn.Module):
    """Sums of products of neighbouring features: interactions that a linear fit cannot see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([(x * x.roll(1, 1)).sum(1), (x * x.roll(2, 1) * x.roll(3, 1)).sum(1)], 1)


class Steps(nn.Module):
    """A decision rule, without any gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([(x > 0).double().cumprod(1).sum(1), ((x[:, :5] > 0).sum(1) > 2).double()], 1)


def models() -> dict[str, nn.Module]:
    """Five models of ten features and at least two outputs."""
    torch.manual_seed(0)
    return {
        "MLP, tanh": nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 3)).double(),
        "MLP, 3 layers, ReLU": nn.Sequential(
            nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
            nn.Linear(64, 3),
        ).double(),
        "MLP, probabilities": nn.Sequential(
            nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 3), nn.Softmax(1)
        ).double(),
        "products": Products(),
        "steps": Steps(),
    }  # fmt: skip


def error(values: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean squared error, relative to the root mean square of the exact values."""
    return float(((values - exact).square().mean() / exact.square().mean()).sqrt())


def main() -> None:
    rows = []
    for name, model in models().items():
        x = torch.randn(SAMPLES, FEATURES).double()
        exact = ExactShapley(model).attribute(x, 1)
        for budget in (128, 256):
            ours = {}
            for cls in (KernelShapley, PermutationShapley):
                values = [cls(model, n_coalitions=budget).attribute(x, 1, seed=s) for s in range(SEEDS)]
                ours[cls] = sum(error(v, exact) for v in values) / SEEDS
            start = time.perf_counter()
            KernelShapley(model, n_coalitions=budget).attribute(x, 1)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            captum = []
            for seed in range(SEEDS):
                torch.manual_seed(seed)
                captum.append(KernelShap(model).attribute(x, target=1, n_samples=budget - 2))
            their_seconds = (time.perf_counter() - start) / SEEDS
            sampling = ShapleyValueSampling(model).attribute(x, target=1, n_samples=budget // FEATURES)
            theirs = sum(error(v, exact) for v in captum) / SEEDS
            rows.append(
                [name, budget, f"{ours[KernelShapley]:.4f}", f"{theirs:.4f}", f"{ours[KernelShapley] / theirs:.2f}",
                 f"{ours[PermutationShapley]:.4f}", f"{error(sampling, exact):.4f}", f"{their_seconds / seconds:.0f}"]
            )  # fmt: skip
            print("measured:", rows[-1], file=sys.stderr, flush=True)
    head = ["model", "passes", "kernel_shapley", "captum KernelShap", "ratio", "permutation_shapley",
            "captum ShapleyValueSampling", "captum's time over ours"]  # fmt: skip
    table(f"Relative error against exact Shapley values, {FEATURES} groups, mean of {SEEDS} seeds", head, rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
