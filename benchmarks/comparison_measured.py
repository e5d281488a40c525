"""The comparison page's figures: errors and times of xaikit beside captum and zennit, in one run of about a minute.

python -m benchmarks.comparison_measured            # prints the table
python -m benchmarks.comparison_measured --write    # writes it into docs/comparison.md
"""

from __future__ import annotations

import datetime
import statistics
import sys
import warnings
from collections.abc import Callable

import torch
from captum import attr as captum
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.comparison import PAGE, written
from benchmarks.exactness import cases, derivative_error, peers
from benchmarks.measure import lenet, seconds
from benchmarks.shapley import Products, error
from xaikit.core import EXPLAINERS, Explainer
from xaikit.explainers import DeepLift, ExactShapley, KernelShapley

BEGIN, END = "<!-- measured -->", "<!-- end of the measured -->"
ROUNDS = 5


class PooledFirst(nn.Module):
    """Pooling before the ReLU, which is called as a function: an order that many nets have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.first(x), 2))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def bound(name: str, model: nn.Module) -> Explainer:
    """One of xaikit's explainers for a model."""
    return EXPLAINERS.create(name).bind(model)


def derivative_rows() -> list[list[str]]:
    """Errors of the derivative by the weights, on the net with a convolution, BatchNorm and a residual sum."""
    (model, x), y = cases()["conv-BatchNorm-residual"], torch.tensor([0, 2])
    ours = {
        "captum InputXGradient": "gradient_x_input", "captum IntegratedGradients": "integrated_gradients",
        "zennit EpsilonPlus, create_graph": "lrp_epsilon_plus",
    }  # fmt: skip
    rows = []
    for name, peer in peers().items():
        explainer = bound(ours[name], model)
        wrong = [
            derivative_error(model, lambda e=explainer: e.attribute(x, y, create_graph=True).square().sum()),
            derivative_error(model, lambda p=peer: p(model, x, y).square().sum()),
        ]
        rows.append(
            [f"derivative of `{ours[name]}` by the weights, relative error", f"{wrong[0]:.0e}", f"{wrong[1]:.2g}", name]
        )
    return rows


def sum_row() -> list[str]:
    """What DeepLIFT's sum misses of the difference of the scores."""
    torch.manual_seed(0)
    model, x = PooledFirst().double().eval(), torch.randn(8, 2, 12, 12).double()
    promised = model(x)[:, 1] - model(torch.zeros_like(x))[:, 1]
    attributions = DeepLift(model).attribute(x, 1), captum.DeepLift(model).attribute(x, target=1)
    gaps = [float(((a.flatten(1).sum(1) - promised) / promised).abs().median().detach()) for a in attributions]
    name = "DeepLIFT's sum, pooling before a functional ReLU, relative miss"
    return [name, f"{gaps[0]:.0e}", f"{gaps[1]:.2g}", "captum DeepLift"]


def shapley_row() -> list[str]:
    """The error of kernel SHAP at 256 passes, against exact values."""
    torch.manual_seed(0)
    model, x = Products(), torch.randn(6, 10).double()
    exact = ExactShapley(model).attribute(x, 1)
    ours = [error(KernelShapley(model, n_coalitions=256).attribute(x, 1, seed=s), exact) for s in range(3)]
    theirs = [error(captum.KernelShap(model).attribute(x, target=1, n_samples=254), exact) for _ in range(3)]
    name = "kernel SHAP at 256 passes, 10 features with products, relative error"
    return [name, f"{statistics.mean(ours):.3f}", f"{statistics.mean(theirs):.3f}", "captum KernelShap"]


def time_rows() -> list[list[str]]:
    """Processor time of a call on a LeNet, 16 digits, over captum's."""
    torch.manual_seed(0)
    model, x, y = lenet(), torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    runs: dict[str, tuple[Callable[[], object], Callable[[], object], str]] = {
        "integrated gradients, 20 steps": (
            lambda: bound("integrated_gradients:n_steps=20", model).attribute(x, y),
            lambda: captum.IntegratedGradients(model).attribute(x, target=y, n_steps=20),
            "captum IntegratedGradients",
        ),
        "SmoothGrad, 20 copies": (
            lambda: bound("smoothgrad:n_iter=20", model).attribute(x, y),
            lambda: captum.NoiseTunnel(captum.Saliency(model)).attribute(x, target=y, nt_samples=20, abs=False),
            "captum NoiseTunnel",
        ),
        "DeepLIFT": (
            lambda: bound("deep_lift", model).attribute(x, y),
            lambda: captum.DeepLift(model).attribute(x, target=y),
            "captum DeepLift",
        ),
    }  # fmt: skip
    rows = []
    for name, (ours, theirs, peer) in runs.items():
        for run in (ours, theirs):
            run()
        mine, other = (statistics.median(seconds(run) for _ in range(ROUNDS)) * 1000 for run in (ours, theirs))
        rows.append([f"{name}, LeNet, 16 digits, milliseconds", f"{mine:.0f}", f"{other:.0f}", peer])
    return rows


def main() -> None:
    rows = [*derivative_rows(), sum_row(), shapley_row(), *time_rows()]
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [f"Measured on {today}, one CPU thread.", "", "| what | xaikit | peer | which |", "|---|---|---|---|"]
    text = "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
    if "--write" in sys.argv[1:]:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), BEGIN, END, text), encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
