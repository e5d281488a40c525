"""An attribution that is NaN or infinite is told, with its samples and the reason."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS, Class, ContextualDecomposition, Gradient
from xaikit.core.errors import NonFiniteError


class After(nn.Module):
    """A function of the input, then a linear layer."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.out = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.function(x))


def samples():
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    x[1, 0] = x[3, 2] = 0
    return x


@pytest.mark.parametrize("spec", ["gradient", "smoothgrad:n_iter=2,noise_level=0.0", "captum.saliency"])
@pytest.mark.parametrize("several", [False, True])
def test_the_derivative_of_a_root_at_0(spec, several):
    explainer = EXPLAINERS.create(spec).bind(After(torch.sqrt))
    with pytest.warns(UserWarning, match=r"of sample 1, 3 is NaN or infinite; the model's output on it is finite"):
        values = explainer.attribute(samples(), [Class(0), Class(1)] if several else 1)
    finite = torch.isfinite(values).flatten(2 if several else 1).all(-1).reshape(-1, 8)[0]
    assert finite.tolist() == [i not in (1, 3) for i in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.attribute(samples()[:1], 1)


@pytest.mark.parametrize("spec", ["gradient", "captum.input_x_gradient", "integrated_gradients"])
def test_a_model_whose_output_is_infinite(spec):
    explainer = EXPLAINERS.create(spec).bind(After(torch.reciprocal))
    with pytest.warns(UserWarning, match=r"the model's output is NaN or infinite in sample 1, 3; look at its weights"):
        explainer.explain(samples(), 1)


def test_weights_that_are_nan_and_many_samples():
    net = nn.Linear(4, 2)
    nn.init.constant_(net.weight, float("nan"))
    with pytest.warns(UserWarning, match=r"of sample 0, 1, 2, 3, 4 and 3 more is NaN .* in sample 0, 1, 2, 3, 4 and 3"):
        Gradient(net).attribute(samples(), 1)


def test_a_sum_that_overflows_is_no_fault():
    net = nn.Linear(4, 2).half()
    nn.init.constant_(net.weight, 4e4)
    assert Gradient(net).attribute(samples().half(), 1).isfinite().all()


def test_contextual_decomposition_says_where_its_parts_overflow():
    net = nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4, eps=1e-30, elementwise_affine=False)).double()
    with torch.no_grad():
        net[0].bias.copy_(-net[0].weight.sum(1))  # the parts cancel

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.front, self.act, self.out = net, nn.ELU(), nn.Linear(4, 2).double()

        def forward(self, x):
            return self.out(self.act(self.front(x).exp()))

    x = torch.ones(1, 4, dtype=torch.float64)
    for call in (ContextualDecomposition(Net()).attribute, ContextualDecomposition(Net()).explain):
        with pytest.raises(NonFiniteError, match=r"NaN or infinite, first up to layer '(act|front\.1|out)'"):
            call(x, 1)
