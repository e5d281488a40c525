"""How exact d (relevant, irrelevant) / d parameters is: contextual decomposition against central differences, float64.

    python -m benchmarks.cd_derivatives [NAME ...]

A random combination of all outputs of both parts is differentiated along all parameters at once and along each third of
them; each figure is the largest relative error, at the best of the steps 1e-6, 1e-7 and 1e-8 along a unit vector. A
larger step crosses kinks: of ReLU, of max-pooling and, with floor 0, of the share |r| : |s|, which has one wherever a
part passes through 0. "smooth" has tanh and average pooling in place of the first two.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.cd_zoo import masks_for, reference
from benchmarks.measure import table
from xaikit.explainers import ContextualDecomposition

NETS = {
    "CNN": "cdep-mnist-cnn", "1-D CNN": "cnn1d", "MLP": "mlp-tab", "resnet18, 64 px": "resnet18",
    "resnet18, smooth": "resnet18", "LSTM": "lstm", "BERT": "hf:bert", "ViT": "hf:vit",
}  # fmt: skip
COLUMNS = {
    "symmetric": {"rules": "symmetric"},
    "cdep": {"rules": "cdep"},
    "cdep, floor 0.2": {"rules": "cdep", "floor": 0.2},
}
STEPS = (1e-6, 1e-7, 1e-8)


def smoothed(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Tanh())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return model


def error(explainer: ContextualDecomposition, x: Tensor) -> float:
    """The largest relative error over four directions."""
    masks, model = masks_for(x, 2).double(), explainer.model
    parameters = list(model.parameters())
    weights = torch.randn(2, 2, *model(x).shape, dtype=x.dtype)

    def value(create_graph: bool = False) -> Tensor:
        found = explainer.decompose(x, masks, create_graph=create_graph)
        return (weights[0] * found.relevant + weights[1] * found.irrelevant).sum()

    gradients = torch.autograd.grad(value(True), parameters, allow_unused=True, materialize_grads=True)
    errors = []
    for part in range(-1, 3):
        chosen = [(p, g) for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)) if part in (-1, i % 3)]
        directions = [torch.randn_like(p) * (p.detach().abs().mean() + 1e-3) for p, _ in chosen]
        norm = sum(float(d.square().sum()) for d in directions) ** 0.5
        directions = [d / norm for d in directions]
        exact = sum(float((g * d).sum()) for (_, g), d in zip(chosen, directions, strict=True))
        pairs = [(p, d) for (p, _), d in zip(chosen, directions, strict=True)]
        errors.append(min(abs(difference(value, pairs, h) - exact) / abs(exact) for h in STEPS))
    return max(errors)


def difference(value: Callable[[], Tensor], pairs: list[tuple[nn.Parameter, Tensor]], h: float) -> float:
    """The central difference along a direction; the parameters are put back."""
    kept, found = [p.data for p, _ in pairs], []
    for sign in (1, -1):
        for (p, d), old in zip(pairs, kept, strict=True):
            p.data = old + sign * h * d
        found.append(float(value()))
    for (p, _), old in zip(pairs, kept, strict=True):
        p.data = old
    return (found[0] - found[1]) / (2 * h)


def main() -> None:
    rows: list[list[object]] = []
    for title in sys.argv[1:] or NETS:
        ((_, model, x),) = reference([NETS[title]])
        model, x = (smoothed(model) if "smooth" in title else model).double(), x.double()
        row: list[object] = [title]
        for settings in COLUMNS.values():
            torch.manual_seed(0)
            row.append(f"{error(ContextualDecomposition(model, **settings), x):.0e}")
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    table("Relative error of the derivative", ["net", *COLUMNS], rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
