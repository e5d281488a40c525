"""Derivatives of convolutions inside an explanation, over torch's own.

python -m benchmarks.convolutions
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import lenet, paired, resnet18, table
from xaikit import RRR, Gradient
from xaikit.core import convolutions
from xaikit.core.convolutions import fast_convolutions
from xaikit.core.torchvision_ops import import_torchvision

# Name, layer, shape of its input.
LAYERS: tuple[tuple[str, nn.Module, tuple[int, ...]], ...] = (
    ("LeNet, first: 1 channel, 5 x 5", nn.Conv2d(1, 20, 5), (64, 1, 28, 28)),
    ("VGG, first: 3 channels, 3 x 3", nn.Conv2d(3, 64, 3, padding=1), (32, 3, 32, 32)),
    ("resnet18, first: 3 channels, 7 x 7, stride 2", nn.Conv2d(3, 64, 7, 2, 3, bias=False), (16, 3, 64, 64)),
    ("8 channels, 5 x 5", nn.Conv2d(8, 20, 5), (64, 8, 32, 32)),
    ("16 channels, 5 x 5 (left to torch)", nn.Conv2d(16, 20, 5), (64, 16, 32, 32)),
    ("time series: 1 channel, 7", nn.Conv1d(1, 32, 7), (64, 1, 1000)),
    ("mobilenet_v2: depthwise, 96 channels, 3 x 3", nn.Conv2d(96, 96, 3, padding=1, groups=96), (16, 96, 32, 32)),
    ("ResNeXt: 32 groups of 4, 3 x 3", nn.Conv2d(128, 128, 3, padding=1, groups=32), (8, 128, 16, 16)),
    ("resnet18, last: 512 channels, 2 x 2 positions", nn.Conv2d(512, 512, 3, padding=1), (16, 512, 2, 2)),
)


def runs(layer: nn.Module, x: Tensor, *, fast: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """The input's gradient; and that with a penalty on it differentiated by the parameters."""
    x = x.requires_grad_()
    g = torch.randn_like(layer(x))

    def gradient(*, twice: bool) -> Tensor:
        with fast_convolutions([layer] if fast else (), twice=twice):
            y = layer(x)
        seed = g.requires_grad_(twice)
        return torch.autograd.grad(y, x, seed, create_graph=twice)[0]

    def penalty() -> None:
        torch.autograd.grad(gradient(twice=True).square().sum(), [layer.weight, g])

    return lambda: gradient(twice=False), penalty


def mobilenet() -> nn.Module:
    """mobilenet_v2, whose convolutions are depthwise or 1 x 1."""
    return import_torchvision().models.mobilenet_v2(num_classes=10).eval()


# Name, net, shape of a batch.
NETS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
    ("LeNet", lenet, (64, 1, 28, 28)),
    ("resnet18", resnet18, (16, 3, 64, 64)),
    ("mobilenet_v2", mobilenet, (16, 3, 64, 64)),
)


def net_runs(model: nn.Module, x: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """The gradient of a whole net; and its penalty in a training step."""
    y, mask = torch.arange(len(x)) % 10, torch.ones(x.shape[2:])
    mask[0] = 0

    def step() -> None:
        model.zero_grad(set_to_none=True)
        RRR(mode="train").loss(model, (x, y, mask), seed=0).total.backward()

    return lambda: Gradient(model).attribute(x, y), step


def with_torchs(run: Callable[[], object]) -> Callable[[], object]:
    """The same, with torch's kernels."""

    def bare() -> None:
        kinds, convolutions.KINDS = convolutions.KINDS, ()
        try:
            run()
        finally:
            convolutions.KINDS = kinds

    return bare


def main() -> None:
    """Print the tables."""
    torch.manual_seed(0)
    rows: list[list[object]] = []
    for name, layer, shape in LAYERS:
        x = torch.randn(shape)
        ratios = [
            paired({"ours": ours}, torchs, rounds=7)["ours"]
            for ours, torchs in zip(runs(layer, x, fast=True), runs(layer, x, fast=False), strict=True)
        ]
        rows.append([name, *ratios])
    limits = f"up to {convolutions.FEW_CHANNELS} channels count as few"
    table(f"Time over torch's, forward pass included; {limits}.", ["layer", "gradient", "penalised gradient"], rows)

    rows = []
    for name, make, shape in NETS:
        both = net_runs(make(), torch.randn(shape))
        rows.append([name, *(paired({"ours": run}, with_torchs(run), rounds=5)["ours"] for run in both)])
    table("Time over that with torch's derivatives.", ["net", "gradient", "RRR step"], rows)


if __name__ == "__main__":
    main()
