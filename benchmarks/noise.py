"""SmoothGrad and VarGrad: time over the passes that cannot be avoided, memory, and what each kind of noise is worth.

python -m benchmarks.noise            # all tables
python -m benchmarks.noise time       # one of: time, memory, error, call
"""

from __future__ import annotations

import sys

import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from benchmarks.measure import best_batch, frozen, gradient_pass, lenet, paired, peak_memory, resnet18, table
from xaikit.core import model_state
from xaikit.explainers import Gradient, SmoothGrad, VarGrad

COPIES = 32


def time() -> None:
    head = [
        "model",
        "batch",
        "rows in the limit's pass",
        "SmoothGrad",
        "VarGrad",
        "captum, best chunk",
        "captum, one copy a call",
    ]
    rows = []
    for name, model, shape in (("LeNet", lenet(), (1, 28, 28)), ("resnet18 64 px", resnet18(), (3, 64, 64))):
        for batch in (1, 8, 64):
            rows.append([name, batch, *_time_one(model, torch.randn(batch, *shape))])
            print("measured:", rows[-1], file=sys.stderr, flush=True)
    table(
        f"Time of {COPIES} copies over the same rows of forward and input-only backward in the best batch", head, rows
    )


def _time_one(model: nn.Module, x: torch.Tensor) -> list[object]:
    y = torch.zeros(len(x), dtype=torch.long)
    with frozen(model):
        size = best_batch(model, x)
    rows = torch.randn(size, *x.shape[1:])
    passes = max(1, min(4, COPIES * len(x) // size))

    def limit() -> None:
        with frozen(model):
            for _ in range(passes):
                gradient_pass(model, rows)

    def captum(chunk: int) -> object:
        settings = {"nt_type": "smoothgrad", "nt_samples": COPIES, "nt_samples_batch_size": chunk, "stdevs": 0.1}
        return NoiseTunnel(Saliency(model)).attribute(x, target=y, abs=False, **settings)

    columns = {
        "smooth": lambda: SmoothGrad(model, n_iter=COPIES).attribute(x, y),
        "var": lambda: VarGrad(model, n_iter=COPIES).attribute(x, y),
    }
    if len(x) <= 8:
        columns |= {"best": lambda: captum(max(1, size // len(x))), "one": lambda: captum(1)}
    slow = len(x) * x[0].numel() > 10**5
    ratios = paired(columns, limit, rounds=3 if slow else 9, scale=COPIES * len(x) / (size * passes))
    return [size, *(ratios.get(k, "-") for k in ("smooth", "var", "best", "one"))]


def memory() -> None:
    model, x = resnet18(), torch.randn(8, 3, 64, 64)
    y = torch.zeros(8, dtype=torch.long)
    plain = peak_memory(lambda: gradient_pass(model, x))
    rows = [["one gradient pass", plain, 1.0]]
    tunnel = NoiseTunnel(Saliency(model))
    for name, run in {
        "SmoothGrad n_iter=16": lambda: SmoothGrad(model, n_iter=16).attribute(x, y),
        "VarGrad n_iter=16": lambda: VarGrad(model, n_iter=16).attribute(x, y),
        "VarGrad n_iter=64": lambda: VarGrad(model, n_iter=64).attribute(x, y),
        "captum NoiseTunnel, default": lambda: tunnel.attribute(x, nt_samples=16, target=y),
    }.items():
        used = peak_memory(run)
        rows.append([name, used, used / plain])
    table("Peak memory, resnet18 64 px, batch 8", ["", "MiB", "over one gradient pass"], rows)


def error() -> None:
    """Root mean square error of the estimate at 20 copies against 20,000, over that of plain noise."""
    torch.manual_seed(0)
    rows = []
    cases = {"LeNet (ReLU)": (lenet(), (1, 28, 28)), "MLP (tanh)": (_mlp(), (20,))}
    for name, (model, shape) in cases.items():
        net, x = model.double(), torch.rand(4, *shape, dtype=torch.float64)
        reference = SmoothGrad(net, n_iter=20_000, noise="gaussian").moments(x, 0, seed=10**6)
        errors = {}
        for kind in ("gaussian", "antithetic", "sobol"):
            found = [SmoothGrad(net, n_iter=20, noise=kind).moments(x, 0, seed=s) for s in range(40)]
            for which in ("mean", "variance"):
                gaps = [(getattr(f, which) - getattr(reference, which)).square().mean() for f in found]
                errors[kind, which] = float(torch.stack(gaps).mean().sqrt())
        for kind in ("antithetic", "sobol"):
            ratios = [errors[kind, w] / errors["gaussian", w] for w in ("mean", "variance")]
            rows.append([name, kind, *ratios])
    table("Error at 20 copies over plain Gaussian noise's", ["model", "noise", "SmoothGrad", "VarGrad"], rows)


def call() -> None:
    """What one call costs beyond its pass: the private copy of the model and its locks, and the call as a whole."""
    rows = []
    for side in (64, 224):
        model, x = resnet18().eval(), torch.randn(1, 3, side, side)
        explainer = Gradient(model)

        def limit(model: nn.Module = model, x: torch.Tensor = x) -> None:
            with frozen(model):
                gradient_pass(model, x)

        def private(model: nn.Module = model, x: torch.Tensor = x) -> None:
            with model_state.running_model(model, x.device, 0, random=False, freeze=True).open():
                pass

        def whole(explainer: Gradient = explainer, x: torch.Tensor = x) -> None:
            explainer.attribute(x, 0)

        ratios = paired({"private": private, "whole": whole}, limit, rounds=31)
        rows.append([f"{side} px", ratios["private"], ratios["whole"]])
    head = ["resnet18, batch 1", "private copy and locks", "Gradient, second call"]
    table("Time of one call over its gradient pass", head, rows)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))


if __name__ == "__main__":
    for part in sys.argv[1:] or ["time", "memory", "error", "call"]:
        {"time": time, "memory": memory, "error": error, "call": call}[part]()
