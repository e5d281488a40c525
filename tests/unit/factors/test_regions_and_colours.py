"""Regions and colours exchanged: against plain loops and Python's own colorsys; forms of data that users have."""

from __future__ import annotations

import cmath
import colorsys

import numpy as np
import pytest
import torch

from xaikit.core import FACTORS
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.factors import Border, Cell, Corner, Corners, DataFacts, Factor, Hue, MaskedRegion

X, DONORS = torch.rand(2, 5, 3, 8, 9, generator=torch.Generator().manual_seed(0))


def hsv(image):
    """Hue, saturation and value of each pixel, by Python's own module."""
    return np.array([[colorsys.rgb_to_hsv(*image[:, i, j].tolist()) for j in range(9)] for i in range(8)])


def mean_hue(image):
    """The angle of the sum of C exp(2 pi i hue), in turns."""
    values = hsv(image)
    return cmath.phase((values[..., 1] * values[..., 2] * np.exp(2j * np.pi * values[..., 0])).sum()) / (2 * np.pi)


def turns(a, b):
    return abs((a - b + 0.5) % 1 - 0.5)


def test_hue_takes_the_donors_mean_and_leaves_value_and_saturation():
    changed = Hue().exchange(X, DONORS)
    for new, old, donor in zip(changed, X, DONORS, strict=True):
        assert turns(mean_hue(new), mean_hue(donor)) < 1e-5
        assert hsv(new)[..., 1:] == pytest.approx(hsv(old)[..., 1:], abs=1e-5)
        step = hsv(new)[..., 0] - hsv(old)[..., 0]
        assert turns(step, step[0, 0]).max() < 1e-4  # every pixel is turned by the same angle


def test_hue_does_not_know_the_range_of_the_images():
    changed = Hue().exchange(X, DONORS)
    assert torch.allclose(Hue().exchange(X * 255, DONORS * 255) / 255, changed, atol=1e-5)
    assert torch.allclose(Hue().exchange(X * 2 - 1, DONORS * 2 - 1), changed * 2 - 1, atol=1e-5)
    whole = Hue().exchange((X * 255).byte(), (DONORS * 255).byte())
    assert whole.dtype == torch.uint8
    assert (whole.float() / 255 - changed).abs().max() < 0.02
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    facts = DataFacts.of(X, low=((0 - mean) / std).flatten(), high=((1 - mean) / std).flatten())
    standard = Hue().exchange((X - mean) / std, (DONORS - mean) / std, facts=facts)
    assert torch.allclose(standard * std + mean, changed, atol=1e-5)
    assert torch.allclose(Hue().exchange(X.double(), DONORS.double()).float(), changed, atol=1e-5)


def test_grey_images_have_no_hue():
    grey = X[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(Hue().exchange(grey, DONORS), grey)
    assert torch.equal(Hue().exchange(X, grey), X)
    with pytest.raises(InvalidInputError, match="three channels"):
        Hue().exchange(X[:, :1], DONORS[:, :1])


def test_saturation_takes_the_donors_mean():
    changed = FACTORS.create("saturation").exchange(X, DONORS)
    for new, old, donor in zip(changed, X, DONORS, strict=True):
        chroma, value = (new.amax(0) - new.amin(0)).sum(), new.amax(0).sum()
        assert float(chroma / value) == pytest.approx(
            float((donor.amax(0) - donor.amin(0)).sum() / donor.amax(0).sum())
        )
        assert torch.allclose(new.amax(0), old.amax(0))


@pytest.mark.parametrize(
    ("spec", "rows", "columns"),
    [
        ("corner", range(2), range(2)),
        ("corner:where=top-right,size=3", range(3), range(6, 9)),
        ("corner:where=bottom-left,size=1", range(7, 8), range(1)),
        ("cell:rows=2,columns=3,row=1,column=0", range(4, 8), range(3)),
    ],
)
def test_regions_lie_where_they_say(spec, rows, columns):
    changed = FACTORS.create(spec).exchange(X, DONORS)
    for i in range(8):
        for j in range(9):
            source = DONORS if i in rows and j in columns else X
            assert torch.equal(changed[:, :, i, j], source[:, :, i, j])


def test_the_cells_of_a_grid_cover_every_pixel_once_and_so_do_border_and_middle():
    cells = FACTORS.create("cells:rows=3,columns=4").members(X, torch.zeros(5), DataFacts.of(X))
    assert sum(cell.mask_of(8, 9).int() for cell in cells).unique().tolist() == [1]
    assert len({cell.title for cell in cells}) == 12
    changed = Border(width=2).exchange(X, DONORS)
    assert torch.equal(changed[:, :, 2:6, 2:7], X[:, :, 2:6, 2:7])
    middle = torch.zeros(8, 9)
    middle[2:6, 2:7] = 1
    assert torch.equal(MaskedRegion(mask=middle).exchange(DONORS, X), changed)
    assert torch.equal(FACTORS.create(middle.numpy()).exchange(DONORS, X), changed)
    assert torch.equal(FACTORS.create(middle.tolist()).exchange(DONORS, X), changed)


def test_channels_may_come_last():
    facts = DataFacts.of(X.movedim(1, 3), kind="image", channel_axis=-1)
    for factor in (Hue(), Corner(), Border()):
        changed = factor.exchange(X.movedim(1, 3), DONORS.movedim(1, 3), facts=facts)
        assert torch.allclose(changed.movedim(3, 1), factor.exchange(X, DONORS), atol=1e-6)


def test_a_region_of_each_sample_is_moved():
    x, donors = torch.zeros(1, 1, 6, 6), torch.ones(1, 1, 6, 6)
    here, there = torch.zeros(2, 1, 6, 6)
    here[:, :2, :2] = 1
    there[:, 3:5, 3:5] = 1
    donors[0, 0, 3:5, 3:5] = 7
    changed = MaskedRegion().exchange(x, donors, masks=here, donor_masks=there)
    assert torch.equal(changed[0], 7 * here)
    with pytest.raises(InvalidInputError, match="needs masks"):
        MaskedRegion().exchange(x, donors)


def test_what_cannot_be_exchanged_is_refused_in_a_sentence():
    with pytest.raises(InvalidInputError, match="'hue' is of image data, got tabular of shape"):
        Hue().exchange(torch.rand(4, 5), torch.rand(4, 5))
    with pytest.raises(InvalidInputError, match="donor of its form"):
        Hue().exchange(X, DONORS[:3])
    with pytest.raises(InvalidInputError, match="one by one"):
        Corners().exchange(X, DONORS)
    with pytest.raises(InvalidInputError, match="counted from 0"):
        Cell(row=4)
    with pytest.raises(InvalidInputError, match="must fit into images of 8 x 9"):
        Corner(size=20).exchange(X, DONORS)
    with pytest.raises(UnknownNameError, match="did you mean 'hue'"):
        FACTORS.create("heu")
    with pytest.raises(InvalidInputError, match="could be several kinds"):
        Hue().exchange(torch.rand(4, 3, 2, 2, 2), torch.rand(4, 3, 2, 2, 2))


def test_of_several_inputs_the_one_of_its_kind_is_changed():
    table = torch.rand(5, 4)
    changed = Corner().exchange({"picture": X, "age": table}, {"picture": DONORS, "age": table + 1})
    assert torch.equal(changed["age"], table)
    assert torch.equal(changed["picture"], Corner().exchange(X, DONORS))


def test_a_plugin_is_found_by_its_name():
    class Flipped(Factor):
        KINDS = ("image",)

        def _exchange(self, x, donors, context):  # noqa: ARG002
            return donors.flip(-1)

    try:
        FACTORS.register("flipped")(Flipped)
        assert torch.equal(FACTORS.create("flipped").exchange(X, DONORS), DONORS.flip(-1))
        assert FACTORS.create("flipped").title == "flipped"
    finally:
        FACTORS._items.pop("flipped")


def test_a_ground_brings_nothing_of_the_donors_object():
    x, ground = torch.zeros(2, 1, 8, 8), torch.ones(2, 8, 8)
    ground[0, 1:4, 5:7] = 0  # the objects, on either side
    ground[1, 3:6, 1:3] = 0
    x[:, 0] = torch.where(ground > 0, torch.arange(1.0, 65).view(8, 8) / 100, 9.0)
    changed = MaskedRegion().exchange(x, x.flip(0), masks=ground, donor_masks=ground.flip(0))
    for i, j in ((0, 1), (1, 0)):
        of_both = (ground[i] > 0) & (ground[j] > 0)
        assert torch.equal(changed[i, 0][of_both], x[j, 0][of_both])
        assert torch.equal(changed[i, 0][ground[i] == 0], x[i, 0][ground[i] == 0])
        gap = (ground[i] > 0) & (ground[j] == 0)
        assert torch.equal(changed[i, 0][gap], x[j, 0].flip(-1)[gap])  # the mirrored place is ground
    everywhere = torch.ones(2, 8, 8)
    lonely = torch.zeros(2, 8, 8)
    lonely[:, :, 3:] = 1
    lonely[:, 2:6, :] = 1
    lonely[:, 3:5, 3:5] = 0  # in the middle, which every mirror maps to itself
    changed = MaskedRegion().exchange(x, x.flip(0), masks=everywhere, donor_masks=lonely)
    mean = (x[1, 0] * lonely[1]).sum() / lonely[1].sum()
    assert torch.allclose(changed[0, 0, 3:5, 3:5], mean.expand(2, 2))
