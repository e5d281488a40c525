"""How exact d penalty / d parameters is through each LRP explainer: central differences in float64.

    python -m benchmarks.lrp_derivatives [NAME ...]

The penalty is sum((w R)^2 + w R) with random w. Its derivative is taken along random directions: all parameters at
once, and each third of them; the step is the best of 1e-6, 1e-7 and 1e-8, since a larger one crosses kinks of ReLU and
max-pooling and a smaller one loses digits. Each figure is the largest relative error.
"""

from __future__ import annotations

import sys
import warnings

import torch

from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import (
    AttnLRP,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
)
from xaikit.testing import directional_derivative_error

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


def main():
    torch.set_num_threads(1)
    import_torchvision()
    from tests import zoo

    print(f"| net | {' | '.join(kind.__name__ for kind in KINDS)} |\n|{'---|' * (len(KINDS) + 1)}")
    for title in sys.argv[1:] or NETS:
        entry, model, x = zoo.get(NETS[title], dtype=torch.float64)
        if entry.group == "torchvision":
            x = x[..., ::2, ::2]
        layer, cells = entry.embedding(model) if entry.is_text else None, []
        for kind in KINDS:
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cells.append(f"{directional_derivative_error(kind(model, layer=layer), x, torch.tensor([1, 2])):.0e}")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
