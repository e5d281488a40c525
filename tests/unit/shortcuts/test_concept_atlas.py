"""A concept atlas against CRP called on each sample, and on a model whose channels look for known marks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.cli import main
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.explainers import Gradient, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp import channel_relevance, conditional_relevance
from xaikit.shortcuts import ConceptAtlas, concept_atlas
from xaikit.shortcuts.concept_atlas import Ranking, cropped


def a_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3)).double()


def pictures(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 8, 8, generator=generator).double(), torch.arange(n) % 3


def test_channels_samples_and_crops_are_those_of_each_sample_alone():
    explainer, (x, y) = LRPUniformEpsilon(a_net()), pictures(70)
    atlas = concept_atlas(explainer, (x, y), layer="1", n_channels=3, n_samples=4, progress=False)
    each = torch.cat([channel_relevance(explainer, x[i : i + 1], y[i : i + 1], layer="1") for i in range(70)])
    sizes = each.abs().mean(0)
    order = sizes.argsort(descending=True)[:3].tolist()
    assert list(atlas.channels) == order
    assert torch.allclose(torch.tensor(atlas.shares).double(), (sizes / sizes.sum())[order])
    for k, channel in enumerate(order):
        samples = each[:, channel].argsort(descending=True)[:4]
        assert torch.equal(atlas.samples[k], samples)
        assert torch.equal(atlas.classes[k], y[samples])
        assert torch.allclose(atlas.relevance[k], each[samples, channel].float())
        for i, sample in enumerate(samples.tolist()):
            one = slice(sample, sample + 1)
            heat = conditional_relevance(explainer, x[one], y[one], conditions={"1": channel})[0].sum(0)
            sums = {
                (top, left): float(heat[top : top + 4, left : left + 4].clamp(min=0).sum())
                for top in range(5)
                for left in range(5)
            }
            top, left = max(sums, key=sums.__getitem__)
            box = slice(top, top + 4), slice(left, left + 4)
            assert torch.allclose(atlas.pictures[k, i], x[sample][:, box[0], box[1]].float())
            assert torch.allclose(atlas.maps[k, i], heat[box].float(), atol=1e-6)


def test_every_form_of_data_and_target_gives_the_same():
    explainer, (x, y) = LRPEpsilonPlus(a_net()), pictures(40)
    options = {"layer": "1", "n_channels": 2, "n_samples": 3, "progress": False}
    expected = concept_atlas(explainer, (x, y), **options)
    assert concept_atlas(explainer, (x.numpy(), y.tolist()), **options) == expected
    assert concept_atlas(explainer, DataLoader(TensorDataset(x, y), batch_size=7), **options) == expected
    assert concept_atlas(explainer, TensorDataset(x, y), **{**options, "layer": explainer.model[1]}) == expected
    one = concept_atlas(explainer, (x, 2), **options)
    assert one == concept_atlas(explainer, (x, torch.full((40,), 2)), **options)
    assert set(one.classes.flatten().tolist()) == {2}
    few = concept_atlas(explainer, (x[:2], y[:2]), **{**options, "n_channels": 99})
    assert few.samples.shape == (5, 2)
    single = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).double()
    assert set(concept_atlas(LRPEpsilonPlus(single), (x, None), **options).classes.flatten().tolist()) == {-1}


def test_a_channel_stands_for_the_mark_that_it_looks_for():
    """Channel 0 sees bright spots, channel 1 dark ones; the score counts both."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)
    )
    model[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    model[4].weight.data, model[4].bias.data = torch.ones(1, 2), torch.zeros(1)
    x = torch.zeros(6, 1, 9, 9)
    for i in range(3):
        x[i, :, i : i + 3, 6:9] = 1 + i
        x[3 + i, :, 6:9, i : i + 3] = -2 - i
    atlas = concept_atlas(
        LRPUniformEpsilon(model, epsilon=1e-9), (x, None), layer="1", n_samples=3, crop=1 / 3, progress=False
    )
    assert atlas.channels == (1, 0)
    assert atlas.samples.tolist() == [[5, 4, 3], [2, 1, 0]]
    assert torch.equal(atlas.pictures[1, :, 0], torch.tensor([3.0, 2.0, 1.0]).view(3, 1, 1).expand(3, 3, 3))
    assert atlas.shares == pytest.approx((9 / 15, 6 / 15), abs=1e-4)
    assert atlas.to_pandas()["sample"].tolist() == [5, 4, 3, 2, 1, 0]


def test_a_ranking_leaves_out_what_is_not_finite_and_keeps_the_order_of_ties():
    ranking = Ranking(2)
    ranking.add(torch.tensor([[1.0, 2.0], [float("nan"), 9.0]]))
    ranking.add(torch.tensor([[1.0, -3.0], [1.0, 2.0]]))
    assert ranking.samples.T.tolist() == [[0, 2], [0, 3]]
    assert ranking.shares.tolist() == pytest.approx([0.3, 0.7])
    picture, heat = cropped(torch.ones(1, 1, 2, 2), -torch.ones(1, 2, 2), 1)
    assert (picture.shape, heat.tolist()) == ((1, 1, 1, 1), [[[-1.0]]])


def test_a_page_shows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = pictures(9)
    atlas = concept_atlas(LRPEpsilonPlus(a_net()), (x, y), layer="1", n_channels=2, n_samples=3)
    assert "3/3" in capsys.readouterr().err  # a batch, and two channels
    atlas.save("atlas.npz")
    assert ConceptAtlas.load("atlas.npz") == atlas
    assert len([axes for axes in atlas.plot().axes if axes.images]) == 6
    with pytest.raises(SystemExit) as end:
        main.run(["report", "--atlas", "atlas.npz", "--classes", "cat,dog,fox", "--out", "page.html"])
    assert not end.value.code
    page = (tmp_path / "page.html").read_text()
    assert "<h2>Concept atlas</h2>" in page
    assert any(f"{name} (" in page for name in ("cat", "dog", "fox"))


def test_wrong_calls():
    explainer, data = LRPEpsilonPlus(a_net()), pictures(6)
    loader = DataLoader(TensorDataset(*data), shuffle=True)
    for error, message, call in (
        (InvalidTypeError, "needs an LRP explainer", (Gradient(a_net()), data)),
        (UnboundError, "needs an explainer with a model", (LRPEpsilonPlus(), data)),
        (InvalidTypeError, "an iterator can be read once", (explainer, iter([data]))),
        (InvalidInputError, "same order each time", (explainer, loader)),
        (InvalidInputError, "crops of pictures", (explainer, (data[0].flatten(1), data[1]))),
        (InvalidTypeError, "got a function", (explainer, (data[0], lambda out: out[:, 0]))),
    ):
        with pytest.raises(error, match=message):
            concept_atlas(*call, layer="1", progress=False)
    with pytest.raises(InvalidTypeError, match="needs layer=, whose channels are shown, such as"):
        concept_atlas(explainer, data, progress=False)


def test_a_crop_of_relevance_that_is_all_negative_lies_where_it_is():
    x, maps = torch.rand(2, 1, 5, 6), torch.zeros(2, 5, 6)
    maps[0, 3:5, 4:6], maps[1, 0, 0], maps[1, 2, 2] = -1.0, -9.0, 1.0
    pictures, heats = cropped(x, maps, 2)
    assert torch.equal(pictures[0], x[0, :, 3:5, 4:6])
    assert heats[0].sum() == -4
    assert 1 in heats[1]  # a positive part comes before a larger negative one
