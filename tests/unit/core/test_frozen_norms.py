"""A BatchNorm written by hand is explained as the BatchNorm that it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xaikit import EXPLAINERS, RRR
from xaikit.core.torchvision_ops import import_torchvision

X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 1, 2])


class Frozen(nn.Module):
    """As Hugging Face's DETR has it: the epsilon stands in the code."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (
            getattr(self, n).reshape(1, -1, 1, 1) for n in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * (variance + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


class Doubled(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def net(norm: type[Any]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), norm(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in (model[1], model[5]):
            for name in ("weight", "bias", "running_mean"):
                getattr(module, name).copy_(torch.randn(4, generator=draw))
            module.running_var.copy_(torch.rand(4, generator=draw) + 0.5)
    return model.double().eval()


def torchvision_norm() -> type[Any]:
    import_torchvision()
    from torchvision.ops import FrozenBatchNorm2d

    return FrozenBatchNorm2d


@pytest.mark.parametrize("norm", [lambda: Frozen, torchvision_norm], ids=["by hand", "torchvision"])
@pytest.mark.parametrize("name", ["lrp_epsilon_plus", "lrp_epsilon_gamma_box", "lrp_uniform_epsilon", "fullgrad"])
def test_it_is_a_batch_norm(name, norm):
    frozen, plain = net(norm()), net(nn.BatchNorm2d)
    values = EXPLAINERS.create(name).bind(frozen).attribute(X, Y)
    torch.testing.assert_close(values, EXPLAINERS.create(name).bind(plain).attribute(X, Y))
    assert not any("forward" in vars(m) for m in frozen.modules())


def test_a_penalty_over_it_is_that_of_the_batch_norm():
    weights = []
    for model in (net(Frozen), net(nn.BatchNorm2d)):
        penalty = RRR(explainer="lrp_epsilon_plus").loss(model, (X, Y, torch.ones(8, 8))).penalty
        weights.append(torch.autograd.grad(penalty, model[0].weight)[0])
    torch.testing.assert_close(*weights)


def test_a_module_with_such_buffers_that_computes_something_else_runs_as_it_is_written():
    doubled, plain = net(Doubled), net(nn.BatchNorm2d)
    for module in (doubled[1], doubled[5]):
        module.weight.div_(2)
        module.bias.div_(2)
    torch.testing.assert_close(doubled(X), plain(X))
    explanation = EXPLAINERS.create("lrp_uniform_epsilon").bind(doubled).explain(X, Y)
    torch.testing.assert_close(explanation.scores, plain(X).gather(1, Y[:, None])[:, 0])
