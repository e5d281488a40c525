"""Models that torch itself cannot differentiate end in a sentence."""

import pytest
import torch
from torch import nn

from xaikit import Gradient
from xaikit.core import EXPLAINERS
from xaikit.core.errors import NotDifferentiableError
from xaikit.core.kernels import sound_kernels
from xaikit.core.model_facts import ModelFacts


def test_what_torch_cannot_differentiate_is_told():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(6, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0].mul_(0.7).mean(1))  # torch keeps the output of a float32 LSTM

    with pytest.raises(NotDifferentiableError, match=r"writes in place into .*x = x \* 2 in place of x.mul_\(2\)"):
        Gradient(Recurrent()).attribute(torch.randn(3, 4, 6), 0)


def test_a_hardsigmoid_in_double_precision_has_the_slope_of_a_sixth():
    """torch's own holds 1/6 in single precision, 3e-8 off."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Hardsigmoid(), nn.Linear(4, 1)).double()
    x = torch.full((1, 4), 0.1, dtype=torch.float64)
    expected = net[2].weight / 6 @ net[0].weight
    for _ in range(2):  # the second call replaces only what the first one noted
        torch.testing.assert_close(Gradient(net).attribute(x), expected, rtol=1e-14, atol=0)


def test_threads_that_overlap_leave_fused_attention_as_it_was():
    """torch has its kernels of attention once for the process, and its own context keeps what another thread set."""
    first, second = (sound_kernels(ModelFacts(), "form", create_graph=True, is_double=False) for _ in range(2))
    assert torch.backends.cuda.flash_sdp_enabled()
    first.__enter__()
    second.__enter__()
    assert not torch.backends.cuda.flash_sdp_enabled()
    first.__exit__(None, None, None)
    assert not torch.backends.cuda.flash_sdp_enabled()  # the second still needs it so
    second.__exit__(None, None, None)
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "lrp_epsilon_plus", "deep_lift"])
@pytest.mark.parametrize("form", ["clamp", "item", "add"])
def test_a_write_without_gradients_is_told(name, form):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            h = self.first(x)
            with torch.no_grad():
                if form == "clamp":
                    h.clamp_(-0.3, 0.4)
                elif form == "item":
                    h[h < 0] = 0
                else:
                    h += 1
            return self.last(h)

    model, x = Net(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match=r"writes into an activation under torch.no_grad\(\)"):
        values = EXPLAINERS.create(name).bind(model).attribute(x, 0)
    assert torch.equal(values, EXPLAINERS.create(name).bind(model).attribute(x, 0))  # told once


@pytest.mark.parametrize("step", [lambda h: h.split(2, 1)[0].mul_(2), lambda h: h.unbind(1)[0].add_(1)])
def test_a_write_into_a_part_that_torch_does_not_follow_is_told(step):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            hidden = self.first(x)
            step(hidden)
            return self.last(hidden.relu())

    with pytest.raises(NotDifferentiableError, match=r"writes in place into the output of \w+, .* in place of x.mul_"):
        Gradient(Net()).attribute(torch.rand(3, 4), 0)
