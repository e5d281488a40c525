"""Channels of images and series come first or last: by the form, by the model, or by a word of the user."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.factors.facts import DataFacts
from xaikit.mitigation import Counterexamples, assess, mend
from xaikit.shortcuts import scan
from xaikit.transforms import Blur


def pictures(n=60, side=8):
    """The class is in the upper left corner, 2 by 2 pixels."""
    x, y = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) / 4, torch.arange(n) % 2
    x[:, :, :2, :2] = y[:, None, None, None].float()
    return x, y


class First(nn.Module):
    """Looks at the upper left pixel."""

    def forward(self, x):
        bright = x[:, :, 0, 0].mean(1)
        return torch.stack([0.5 - bright, bright - 0.5], 1)


class Last(First):
    def forward(self, x):
        return super().forward(x.movedim(-1, 1))


FACTORS = [
    "corner:size=2",
    "corner:where=bottom-right,size=2",
    "border",
    "brightness",
    "background",
    "frequencies:band=high",
]


@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_with_their_channels_last_are_scanned_as_with_them_first(channels):
    x, y = pictures()
    x = x[:, :channels]
    first = scan(First(), (x, y), FACTORS, progress=False)
    last = scan(Last(), (x.movedim(1, -1), y), FACTORS, progress=False)
    assert last.to_pandas().equals(first.to_pandas())
    assert first.effects[0].follows.mean == 1
    for factor in FACTORS[:3]:
        results = [
            assess(model, (data, y), factor=factor, explainers=(), progress=False).accuracy
            for model, data in ((First(), x), (Last(), x.movedim(1, -1)))
        ]
        assert results[0] == results[1]
    blurred = Blur()(x)
    torch.testing.assert_close(Blur()(x.movedim(1, -1)), blurred.movedim(1, -1), rtol=0, atol=0)


def test_a_form_that_tells_neither_is_asked_about():
    x, y = torch.rand(40, 6, 50, 1), torch.arange(40) % 2
    with pytest.raises(InvalidInputError, match=r"\(40, 6, 50, 1\) could come first or last; say so: facts="):
        scan(nn.Sequential(nn.Flatten(), nn.Linear(300, 2)), (x, y), progress=False)
    assert DataFacts.of(x, channel_axis=1).channel_axis == 1
    assert DataFacts.of(x, channel_axis=-1).channel_axis == 3
    assert DataFacts.of(torch.rand(4, 64, 4, 4)).channel_axis == 1  # small maps of many channels


class Steps(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.scale, self.layer, self.head = nn.Parameter(torch.ones(1)), layer, nn.Linear(6, 2)

    def forward(self, x):
        out = self.layer(self.scale * x)
        out = out[0] if isinstance(out, tuple) else out
        return self.head(out.mean(2 if isinstance(self.layer, (nn.Conv1d, nn.BatchNorm1d)) else 1))


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Conv1d(3, 6, 3), (3, 20), 1),
        (nn.Conv1d(30, 6, 3), (30, 20), 1),
        (nn.BatchNorm1d(6), (6, 4), 1),
        (nn.LSTM(3, 6, batch_first=True), (20, 3), 2),
        (nn.GRU(30, 6, batch_first=True), (20, 30), 2),
        (nn.Linear(3, 6), (20, 3), 2),
        (nn.TransformerEncoderLayer(6, 2, batch_first=True), (20, 6), 2),
    ],
)
def test_the_first_layer_tells_where_series_have_their_channels(layer, shape, axis):
    assert DataFacts.of(torch.rand(4, *shape), model=Steps(layer)).channel_axis == axis


def test_series_of_which_nobody_knows_the_order_are_asked_about():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    assert DataFacts.of(torch.rand(4, 3, 20), model=flat).channel_axis == 1
    for x, model in ((torch.rand(4, 20, 3), flat), (torch.rand(4, 3, 20), Steps(nn.Linear(20, 6)))):
        with pytest.raises(InvalidInputError, match="does not tell; say so: facts="):
            DataFacts.of(x, model=model)
        assert DataFacts.of(x, model=model, channel_axis=-1).channel_axis == 2


def test_a_window_of_steps_is_found_exchanged_and_taken_away():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 16, 2, generator=generator), torch.arange(80) % 2
    x[..., 1] += 0.6 * y[:, None] - 0.3  # honest
    x[:, 12:16, 0] = 8.0 * y[:, None] - 4
    torch.manual_seed(0)
    net = Steps(nn.GRU(2, 6, batch_first=True))
    adam = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(40):
        adam.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
    found = scan(net, (x, y), "windows:windows=4", progress=False)
    assert found.effects[0].title == "window 4 of 4"
    assert found.effects[0].follows.mean > 0.2
    last = "window:windows=4,number=3"
    changed = Counterexamples(fill=last)._changed_logits(net, x, y, None, 0)
    donors = changed.argmax(1) != net(x).argmax(1)
    assert 0.2 < float(donors.float().mean()) < 0.8  # half of the donors are of the other class
    result = mend(net, (x, y), last, methods="counterexamples:lr=0.01", n_epochs=10, budget=1, progress=False)
    assert result.before.relies
    assert not result.relies
