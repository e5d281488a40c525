"""Models that print or copy what they compute: their explanation is that of the same model without."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS

READS = {
    "an f-string": lambda h: f"{h.mean():.3f}",
    "repr": repr,
    "an array": lambda h: np.asarray(h.detach()),
    "a copy": lambda h: copy.deepcopy(h.detach()),
    "its place": lambda h: (h.data_ptr(), h.untyped_storage().nbytes()),
}


class Net(nn.Module):
    def __init__(self, read):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.read = nn.Linear(4, 8), nn.Linear(8, 3), read

    def forward(self, x):
        h = self.first(x)
        self.read(h)
        return self.last(torch.relu(h))


@pytest.mark.filterwarnings("ignore:DeepLIFT has no exact rule for. numpy|.*__array__, numbers read off")
@pytest.mark.parametrize("name", ["contextual_decomposition", "lrp_epsilon_plus", "deep_lift", "integrated_gradients"])
@pytest.mark.parametrize("read", READS)
def test_what_is_read_off_changes_nothing(name, read):
    x = torch.randn(3, 4)
    values = EXPLAINERS.create(name).bind(Net(READS[read])).attribute(x, 1)
    torch.testing.assert_close(values, EXPLAINERS.create(name).bind(Net(lambda h: None)).attribute(x, 1))


@pytest.mark.parametrize("name", ["contextual_decomposition", "lrp_epsilon_plus", "deep_lift", "gradient_x_input"])
def test_an_alias_is_the_tensor_itself(name):
    """Exported programs call it."""
    x = torch.randn(3, 4)
    model = Net(lambda h: torch.ops.aten.alias.default(h).mul_(2))
    expected = EXPLAINERS.create(name).bind(Net(lambda h: h.mul_(2))).attribute(x, 1)
    torch.testing.assert_close(EXPLAINERS.create(name).bind(model).attribute(x, 1), expected)
