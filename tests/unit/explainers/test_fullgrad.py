"""FullGrad: sums of products and biases, whichever way convolutions and norms are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import UnsupportedOperationError
from xaikit.explainers import (
    FullGrad,
)

X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 2, 1])


def test_fullgrad_unscaled_adds_up_to_the_score_where_nothing_is_negative():
    """Every product is positive here, so their sizes are the full gradients, which sum to the score of a ReLU net."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3, bias=False))
    net = net.double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
        net[1].running_mean.fill_(-0.5)
    x = X.abs()
    total = FullGrad(net, scale="none", upsample="nearest").attribute(x, Y)[:, 0]
    # A layer's map of 6 x 6 positions is laid over 8 x 8.
    grad_x = (x * torch.autograd.grad(net(x.requires_grad_()).gather(1, Y[:, None]).sum(), x)[0]).sum(1)
    biases = net(x).gather(1, Y[:, None])[:, 0] - grad_x.sum((1, 2))
    rest = F.interpolate(torch.ones(1, 1, 6, 6), (8, 8)).sum() / 36
    assert (total - grad_x).sum((1, 2)).allclose(biases * rest, rtol=0.2)
    assert (total >= grad_x - 1e-12).all()


def test_fullgrad_sees_convolutions_and_norms_that_are_called_as_functions():
    class Functional(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            conv, norm, _, _, head = self.layers
            h = F.conv2d(x, conv.weight, bias=conv.bias)
            h = F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            return head(F.relu(h).flatten(1))

    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)).double()
    net[1].running_mean.normal_()
    net.eval()
    torch.testing.assert_close(FullGrad(Functional(net)).attribute(X, Y), FullGrad(net).attribute(X, Y))


def test_fullgrad_of_a_norm_by_the_batch_has_its_bias_as_a_module_and_as_a_function():
    class Net(nn.Module):
        def __init__(self, *, module):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm, self.head, self.module = (
                nn.Conv2d(2, 3, 3),
                nn.BatchNorm2d(3),
                nn.Linear(3, 3),
                module,
            )
            nn.init.normal_(self.norm.bias)
            self.double()

        def forward(self, x):
            norm, h = self.norm.train(), self.conv(x)
            h = norm(h) if self.module else F.batch_norm(h, None, None, norm.weight, norm.bias, training=True)
            return self.head(F.relu(h).mean((2, 3)))

    with pytest.warns(UserWarning, match="not independent"):
        values = [FullGrad(Net(module=module)).attribute(X, Y) for module in (True, False)]
    torch.testing.assert_close(*values)


def test_fullgrad_refuses_vmap():
    class Net(nn.Sequential):
        def forward(self, x):
            return torch.vmap(super().forward)(x)

    net = Net(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(0), nn.Linear(108, 3)).double()
    with pytest.raises(UnsupportedOperationError, match=r"does not see through .* torch.vmap; let the model run"):
        FullGrad(net).attribute(X, Y)


class NormAndRelu(nn.BatchNorm2d):
    """As timm's BatchNormAct2d, which most of its efficient nets are made of."""

    def forward(self, x):
        return super().forward(x).relu()


class BiasAddedLater(nn.Conv2d):
    def forward(self, x):
        return F.relu(F.conv2d(x, self.weight) + self.bias.view(-1, 1, 1))


def test_fullgrad_reads_the_bias_where_it_is_added_not_behind_an_activation_in_the_same_module():
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
    joined = nn.Sequential(plain[0], NormAndRelu(3), nn.Flatten(), plain[4]).double().eval()
    plain[1].running_mean.normal_()
    joined[1].load_state_dict(plain[1].state_dict())
    plain.double().eval()
    torch.testing.assert_close(FullGrad(joined).attribute(X, Y), FullGrad(plain).attribute(X, Y))
    conv = BiasAddedLater(2, 3, 3).double()
    gradient = torch.autograd.grad(nn.Sequential(conv, *plain[3:])(X).sum(), conv.bias)[0]
    assert gradient.abs().min() > 0
    assert (
        not FullGrad(nn.Sequential(conv, *plain[3:]))
        .attribute(X, Y)
        .allclose(
            FullGrad(nn.Sequential(nn.Conv2d(2, 3, 3, bias=False).double(), nn.ReLU(), *plain[3:])).attribute(X, Y)
        )
    )
