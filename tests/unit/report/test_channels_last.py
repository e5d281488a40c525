"""Pictures of images whose channels are last: maps over rows and columns, as of the same images with channels first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from xaikit import IntegratedGradients, LRPEpsilonPlus, explain_dataset
from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import channels_first
from xaikit.report import cards, conclusion, figures, pictures, save_images
from xaikit.runs import Summary
from xaikit.shortcuts import concept_atlas

X, Y = torch.rand(4, 3, 12, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])


class ChannelsLast(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.movedim(-1, 1))


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    return net, ChannelsLast(net)


def test_what_is_first_stays():
    for shape in ((3, 8, 8), (1, 8, 8), (8, 12, 16), (3, 4, 3)):
        assert channels_first(np.zeros(shape)).shape == shape
    assert channels_first(torch.zeros(12, 16, 3)).shape == (3, 12, 16)
    assert channels_first(np.arange(36).reshape(3, 4, 3)[None].repeat(3, 0)[0]).shape == (3, 4, 3)


def test_files_maps_and_atlas(nets, tmp_path):
    runs, last = [], X.movedim(1, -1)
    for name, model, x in (("first", nets[0], X), ("last", nets[1], last)):
        runs.append(
            explain_dataset(IntegratedGradients(model), (x, Y), out=tmp_path / name, keep_inputs=True, progress=False)
        )
        save_images(runs[-1], tmp_path / f"{name}-pictures")
    first, other = (
        np.asarray(Image.open(tmp_path / f"{n}-pictures" / "000002.png")).astype(int) for n in ("first", "last")
    )
    assert first.shape == (12, 16, 3)
    assert np.abs(first - other).max() <= 1
    maps = [Summary(run).class_maps("label").plot().axes[1].images[0].get_array() for run in runs]
    assert np.allclose(*maps, atol=1e-6)
    layer = {"n_channels": 2, "n_samples": 2, "progress": False}
    atlas = concept_atlas(LRPEpsilonPlus(nets[0]), (X, Y), layer="0", **layer)
    of_last = concept_atlas(LRPEpsilonPlus(nets[1]), (last, Y), layer="net.0", **layer)
    torch.testing.assert_close(of_last.pictures, atlas.pictures)
    torch.testing.assert_close(of_last.maps, atlas.maps)


def test_cards_conclusions_and_figures():
    values, last = X[0].numpy(), X[0].movedim(0, -1).numpy()
    assert np.allclose(cards.summed_channels(last), values.sum(0))
    assert pictures.photograph(last) == pictures.photograph(values)
    shares = [dict(conclusion._shares("image", array, ())) for array in (values, last)]
    assert shares[0] == pytest.approx(shares[1])
    drawn = []
    for array in (values, last):
        axes = Figure().subplots()
        figures._overlay(axes, array, array)
        drawn.append([np.asarray(image.get_array()) for image in axes.images])
    assert all(np.allclose(a, b) for a, b in zip(*drawn, strict=True))


def test_a_picture_is_no_folder(tmp_path):
    with pytest.raises(InvalidInputError, match=r"into a folder, got .*grid.png'; leave .png out"):
        save_images(X, tmp_path / "grid.png", grid=True)
    assert not (tmp_path / "grid.png").exists()
