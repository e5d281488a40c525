"""Segments of images: of scikit-image, per sample, in every explainer that takes groups."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from skimage import segmentation
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F

from xaikit import CDEP, ContextualDecomposition
from xaikit.core import EXPLAINERS, FEATURE_MASKS
from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.transforms import Segmentation, Slic

NAMES = ("felzenszwalb", "quickshift", "slic", "watershed")


@pytest.fixture(scope="module")
def photos():
    """Two photographs, 48 x 40, with different numbers of segments."""
    loaded = [torch.tensor(load_sample_image(name)).permute(2, 0, 1)[None] for name in ("china.jpg", "flower.jpg")]
    return torch.cat([F.interpolate(photo.double() / 255, (48, 40), mode="area") for photo in loaded])


def test_they_are_segmentations():
    assert {n for n in FEATURE_MASKS if issubclass(FEATURE_MASKS.get(n), Segmentation)} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_every_segmentation_promises(name, channels, photos):
    x = torch.cat([photos, photos.flip(1)], 1)[:, :channels]
    mask = FEATURE_MASKS.create(name)
    ids = mask(x)
    assert ids.shape == x.shape
    assert (ids == ids[:, :1]).all()
    for i in range(2):
        found = ids[i].unique()
        assert found.tolist() == list(range(len(found)))
        assert len(found) > 1
        assert torch.equal(mask(x[i : i + 1])[0], ids[i])
    assert torch.equal(mask(x * 3 - 1), ids) or name == "felzenszwalb"  # whose rounding may move a pixel
    last = mask.set_kwargs(channel_axis=-1)(x.movedim(1, -1))
    assert torch.equal(last.movedim(-1, 1), ids)
    assert FEATURE_MASKS.create(mask.spec()) == mask
    assert mask.get_tunables()


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


def test_rgb_segments_are_scikit_images(photos):
    unit = (photos - photos.amin((1, 2, 3), keepdim=True)) / (
        photos.amax((1, 2, 3), keepdim=True) - photos.amin((1, 2, 3), keepdim=True)
    )
    image = unit[1].permute(1, 2, 0).numpy()
    expected = {
        "felzenszwalb": segmentation.felzenszwalb(image, scale=100, sigma=0.8, min_size=9),
        "slic": segmentation.slic(image, n_segments=50, compactness=10),
        "quickshift": segmentation.quickshift(image, kernel_size=3, max_dist=6, ratio=0.5),
    }
    for name, labels in expected.items():
        assert same_partition(FEATURE_MASKS.create(name)(photos)[1, 0].numpy(), labels), name


def test_slic_weighs_places_alike_whatever_the_channels(photos):
    """A grey image as one channel and as red, green and blue: nearly the same superpixels."""
    grey = photos.mean(1, keepdim=True)
    for compactness in (1.0, 30.0):
        mask = Slic(compactness=compactness)
        one, three = (len(mask(x)[0].unique()) for x in (grey, grey.expand(-1, 3, -1, -1)))
        assert abs(one - three) <= 0.35 * three


@pytest.mark.parametrize("name", NAMES)
def test_constant_images(name):
    """Superpixels and basins still divide them; what merges by colour says that nothing is left to divide."""
    x = torch.full((2, 3, 24, 24), 0.7)
    if name in ("felzenszwalb", "quickshift"):
        with pytest.raises(InvalidInputError, match="a single segment in sample 0, 1 of shape"):
            FEATURE_MASKS.create(name)(x)
    else:
        assert FEATURE_MASKS.create(name)(x).max() > 0


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("felzenszwalb:min_size=100000", "lower scale, sigma or min_size"),
        ("quickshift:max_dist=100,ratio=0", "lower max_dist or kernel_size, or raise ratio"),
    ],
)
def test_a_single_segment_is_named_with_its_remedy(spec, remedy, photos):
    with pytest.raises(InvalidInputError, match=f"finds a single segment in sample 0.*{remedy}"):
        FEATURE_MASKS.create(spec)(photos)


def test_only_the_sample_that_is_one_segment_is_named(photos):
    x = torch.cat([photos, torch.zeros_like(photos[:1])])
    with pytest.raises(InvalidInputError, match="in sample 2 of shape"):
        FEATURE_MASKS.create("felzenszwalb")(x)


def test_other_inputs():
    for x in (torch.rand(2, 5), torch.rand(2, 3, 9), torch.randint(5, (2, 3, 8, 8))):
        with pytest.raises(InvalidInputError, match="slic divides images, floating-point numbers"):
            FEATURE_MASKS.create("slic")(x)
    assert FEATURE_MASKS.create("slic")(torch.rand(2, 3, 1, 1)).shape == (2, 3, 1, 1)
    with pytest.raises(InvalidInputError, match="n_segments must be >= 2"):
        FEATURE_MASKS.create("slic:n_segments=1")
    with pytest.raises(InvalidInputError, match="n_patches must be >= 2"):
        FEATURE_MASKS.create("grid:n_patches=1")


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'xaikit\[images\]'"):
        FEATURE_MASKS.create("slic")(torch.rand(1, 3, 8, 8))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 5, stride=4).double()
        self.head = nn.Linear(4 * 11 * 9, 3).double()

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).flatten(1))


PERTURBING = ("captum.feature_ablation", "captum.shapley_value_sampling", "captum.kernel_shap", "captum.lime")


@pytest.mark.parametrize("name", [*PERTURBING, "contextual_decomposition"])
def test_explainers_with_different_numbers_of_segments(name, photos):
    """A sample gets the same attribution alone and beside one with more segments, constant on each segment."""
    model, mask = Net(), FEATURE_MASKS.create("felzenszwalb:scale=200")
    ids = mask(photos)
    assert ids[0].max() != ids[1].max()
    settings = {"n_samples": 5 if "shapley" in name else 40} if name in PERTURBING[1:] else {}
    explainer = EXPLAINERS.create(name, feature_mask=mask, **settings).bind(model)
    whole = explainer.attribute(photos, torch.tensor([0, 2]))
    for i, target in ((0, 0), (1, 2)):
        assert torch.allclose(explainer.attribute(photos[i : i + 1], target)[0], whole[i], atol=1e-10)
        for group in ids[i].unique():
            values = whole[i][ids[i] == group]
            assert torch.allclose(values, values[:1].expand_as(values))
    again = EXPLAINERS.create(explainer.spec()).bind(model)
    assert torch.equal(again.attribute(photos, torch.tensor([0, 2])), whole)


def test_ablation_by_hand(photos):
    model, mask = Net(), FEATURE_MASKS.create("slic:n_segments=10")
    found = EXPLAINERS.create("captum.feature_ablation", feature_mask=mask, baseline="mean").bind(model)
    attribution, ids, absent = found.attribute(photos, 1), mask(photos), photos.mean((2, 3), keepdim=True)
    for group in range(int(ids[0].max()) + 1):
        without = torch.where(ids[:1] == group, absent[:1], photos[:1])
        change = (model(photos[:1]) - model(without))[0, 1]
        assert torch.allclose(attribution[0][ids[0] == group], change)


def test_decomposition_of_a_segment(photos):
    model, mask = Net(), FEATURE_MASKS.create("watershed:n_segments=12")
    ids = mask(photos)
    attribution = ContextualDecomposition(model, feature_mask=mask).attribute(photos, 1)
    part = ContextualDecomposition(model).decompose(photos, (ids == 3).double()[None]).relevant[0, :, 1]
    for i in range(2):
        assert torch.allclose(attribution[i][ids[i] == 3].sum(), part[i])


def test_cdep_penalises_a_segment(photos):
    model, ids = Net(), FEATURE_MASKS.create("slic:n_segments=10")(photos)
    loss = CDEP(explainer="contextual_decomposition:feature_mask=slic").loss(
        model, (photos, torch.tensor([0, 1]), (ids == 2).double())
    )
    loss.total.backward()
    assert loss.penalty > 0
    assert model.conv.weight.grad.abs().sum() > 0
