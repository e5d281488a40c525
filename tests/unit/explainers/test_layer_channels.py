"""Where the channels of a layer are: on nets of images, series and texts, with and without transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.layers import find_point
from xaikit.explainers import AttnLRP
from xaikit.explainers.layer_channels import layer_channel_axis
from xaikit.explainers.lrp import channel_relevance, conditional_relevance
from xaikit.mitigation import Concept, concept_layers
from xaikit.shortcuts import tcav


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, ids):
        return self.head(self.block(self.words(ids)).mean(1))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Block(nn.Module):
    """Channels last, as in Swin."""

    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(8, 8), nn.GELU()

    def forward(self, x):
        return self.act(self.linear(x))


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 8, 4, stride=4), Block(), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.block(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Series(nn.Module):
    """The layers are made in another order than they run."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.act, self.rnn, self.end = nn.ReLU(), nn.GRU(8, 5, batch_first=True, bidirectional=True), nn.Linear(10, 2)

    def forward(self, x):
        a = self.act(self.norm(self.conv(x)))
        return self.head(a.mean(2)) + self.end(self.rnn(a.transpose(1, 2))[0].mean(1))


IMAGES, IDS, SERIES = torch.rand(20, 3, 16, 16), torch.arange(100).view(20, 5) % 30, torch.rand(20, 2, 14)
CASES = [
    (Text, IDS, "words", 8), (Text, IDS, "block", 8), (Text, IDS, "block.linear1", 16), (Text, IDS, "block.input", 8),
    (Text, IDS, "block.dropout1", 8), (ViT, IMAGES, "patch", 8), (ViT, IMAGES, "block", 8), (Swin, IMAGES, "block", 8),
    (Swin, IMAGES, "block.act", 8), (Swin, IMAGES, "patch", 8), (Series, SERIES, "conv", 8), (Series, SERIES, "act", 8),
    (Series, SERIES, "rnn", 10), (Series, SERIES, "head", 2),
]  # fmt: skip


@pytest.mark.parametrize(("build", "x", "layer", "width"), CASES)
def test_channels_are_found_where_nobody_says_where_they_are(build, x, layer, width):
    """Tokens of a ViT, rows of a Swin and words of a text were once taken for the channels."""
    torch.manual_seed(0)
    model = build().eval()
    labels = torch.arange(20) % 2
    assert Concept.fit(model, x, labels, layer=layer).direction.shape == (width,)
    if layer == "rnn":
        return
    sets = [x[i : i + 6] for i in (0, 5, 10)]
    assert len(tcav(model, (x[:4], 1), {"c": x[:8]}, random_sets=sets, layers=layer, progress=False).rows) == 1


@pytest.mark.parametrize(
    ("build", "x", "layer"), [(ViT, IMAGES, "block"), (Swin, IMAGES, "block"), (Text, IDS, "block")]
)
def test_relevance_is_handed_back_from_channels_not_from_positions(build, x, layer):
    torch.manual_seed(0)
    explainer = AttnLRP(build().double().eval(), layer="words" if build is Text else None)
    x = x[:2] if build is Text else x[:2].double()
    plain = AttnLRP(explainer.model)
    assert channel_relevance(plain, x, 1, layer=layer).shape == (2, 8)
    parts = conditional_relevance(explainer, x, 1, conditions=[{layer: k} for k in range(8)])
    relevance = explainer.attribute(x, 1)
    assert (parts.sum(0) - relevance).abs().max() < 1e-6 * relevance.abs().max()


def test_the_layers_for_a_concept_are_compared_by_their_channels():
    torch.manual_seed(0)
    model, shows = ViT(), torch.arange(20) % 2
    widths = {row.layer: len(row.concept.direction) for row in concept_layers(model, IMAGES, shows)}
    assert widths["block.linear1"] == 16
    assert widths["block.norm2"] == widths["patch"] == 8


def test_what_nothing_tells_is_asked_for():
    class Own(nn.Module):
        def forward(self, x):
            return x * 2

    model = nn.Sequential(Own(), nn.Flatten(), nn.Linear(30, 2))
    x, labels = torch.rand(8, 5, 6), torch.arange(8) % 2
    with pytest.raises(InvalidInputError, match=r"layer '0' returns \(8, 5, 6\): say where its channels are"):
        Concept.fit(model, x, labels, layer="0")
    assert Concept.fit(model, x, labels, layer="0", channel_axis=1).direction.shape == (5,)
    both = nn.Sequential(nn.Conv1d(6, 6, 1), Own(), nn.Linear(6, 6))
    with pytest.raises(InvalidInputError, match="say where its channels are"):
        layer_channel_axis(both, find_point(both, "1"), torch.rand(8, 6, 6), [torch.rand(8, 6, 6)])
    with pytest.raises(InvalidInputError, match="has no channels"):
        layer_channel_axis(both, find_point(both, "1"), torch.rand(8), [torch.rand(8, 6, 6)])


def test_a_layer_stands_once_in_a_condition():
    model = ViT().eval()
    with pytest.raises(InvalidInputError, match="layer 'patch' stands twice in a condition"):
        conditional_relevance(AttnLRP(model), IMAGES[:2], 1, conditions={"patch": 1, model.patch: 2})


@pytest.mark.parametrize(("layer", "said"), [(0, "such as '0', got 0"), (None, "got None")])
def test_a_number_is_no_name_of_a_layer(layer, said):
    """A layer of a Sequential is called "0", and 0 once ended in a TypeError of Python."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(InvalidTypeError, match=f"a layer must be given by its name or as a module.*{said}"):
        conditional_relevance(AttnLRP(model), torch.rand(2, 4), 0, conditions={layer: [1]})
