"""Small nets for the LRP tests, in float64 with non-trivial BatchNorm statistics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.explainers.lrp import LRP, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon

VARIANTS = {
    "uniform_epsilon": LRPUniformEpsilon,
    "gamma_box": LRPEpsilonGammaBox,
    "plus": LRPEpsilonPlus,
    "alpha2_beta1": LRPEpsilonAlpha2Beta1,
    "flat": lambda model: LRP(model, composite="epsilon_plus_flat"),
}


class Residual(nn.Module):
    """Convolutions, BatchNorm, an in-place residual add, in-place ReLUs, functional pooling."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head, self.relu = nn.Linear(4, 3), nn.ReLU(inplace=True)

    def forward(self, x):
        hidden = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(hidden))
        out += hidden
        return self.head(F.adaptive_avg_pool2d(self.relu(out), 1).flatten(1))


def _norm_first():
    """BatchNorm before a padded convolution and before a grouped one."""
    return nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)), (5,)),
    "residual": (Residual, (2, 6, 6)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 5, 3, padding=1),
            nn.GELU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(10, 3),
        ),
        (2, 12),
    ),
    "norm_first": (_norm_first, (2, 6, 6)),
}  # fmt: skip


def settle(model):
    """Evaluation mode, float64, BatchNorm with statistics that matter."""
    for module in model.double().eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture(params=NETS)
def net(request):
    """A model and a batch of three."""
    build, shape = NETS[request.param]
    return settle(build()), torch.randn(3, *shape, dtype=torch.float64)


@pytest.fixture
def residual():
    return settle(Residual()), torch.randn(3, 2, 6, 6, dtype=torch.float64)
