"""How exact d penalty / d parameters is through each LRP explainer: central differences in float64.

    XAIKIT_SHARED=../shared python -m benchmarks.lrp_derivatives [NAME ...]

The penalty is sum((w R)^2 + w R) with random w. Its derivative is taken along random directions: all parameters at
once, and each third of them; the step is the best of 1e-6, 1e-7 and 1e-8, since a larger one crosses kinks of ReLU and
max-pooling and a smaller one loses digits. Each figure is the largest relative error.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch

from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import (
    AttnLRP,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
)

SHARED = Path(os.environ.get("XAIKIT_SHARED", Path(__file__).parents[2] / "shared"))
KINDS = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonGammaBox, LRPEpsilonAlpha2Beta1, AttnLRP)
NETS = {
    "CNN": "cdep-mnist-cnn",
    "BatchNorm-ResNet": "resnet18",
    "1-D CNN": "cnn1d",
    "LSTM": "lstm",
    "BERT": "hf:bert",
    "GPT-2": "hf:gpt2",
    "ViT": "hf:vit",
}


def error(explainer, x, targets):
    """The largest relative error of the derivative, over four directions."""
    parameters = list(explainer.model.parameters())

    def penalty(create_graph=False):
        relevance = explainer.attribute(x, targets, create_graph=create_graph)
        generator = torch.Generator().manual_seed(5)
        weighted = relevance * torch.randn(relevance.shape, dtype=relevance.dtype, generator=generator)
        return (weighted.square() + weighted).sum()

    def moved(direction, size):
        with torch.no_grad():
            kept = [p.clone() for p in parameters]
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=size)
            value = penalty()
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)
        return value

    grads = torch.autograd.grad(penalty(True), parameters, allow_unused=True, materialize_grads=True)
    errors = []
    for part in range(-1, 3):
        direction = [
            torch.randn_like(p) * (p.detach().abs().mean() + 1e-3) * (part in (-1, i % 3))
            for i, p in enumerate(parameters)
        ]
        exact = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
        numeric = [(moved(direction, h) - moved(direction, -h)) / (2 * h) for h in (1e-6, 1e-7, 1e-8)]
        errors.append(min(float((n - exact).abs() / n.abs()) for n in numeric))
    return max(errors)


def main():
    torch.set_num_threads(1)
    import_torchvision()
    sys.path.insert(0, str(SHARED / "sketches"))
    import zoo

    print(f"| net | {' | '.join(kind.__name__ for kind in KINDS)} |\n|{'---|' * (len(KINDS) + 1)}")
    for title in sys.argv[1:] or NETS:
        entry, model, x = zoo.get(NETS[title], dtype=torch.float64)
        if entry.group == "torchvision":
            x = x[..., ::2, ::2]
        layer, cells = entry.emb(model) if entry.text else None, []
        for kind in KINDS:
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cells.append(f"{error(kind(model, layer=layer), x, torch.tensor([1, 2])):.0e}")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
