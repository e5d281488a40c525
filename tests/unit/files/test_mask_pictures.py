"""Masks as people draw and save them: what is drawn is inside, or a sentence says why nobody can know."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from xaikit.core.errors import InvalidInputError
from xaikit.files.pictures import comparable, read_mask_picture

INSIDE = np.zeros((12, 16), bool)
INSIDE[2:6, 3:11] = True


def coloured(inside, outside=(0, 0, 0)):
    return np.where(INSIDE[..., None], np.uint8(inside), np.uint8(outside))


@pytest.mark.parametrize(
    "pixels",
    [
        coloured((255, 0, 0)),
        coloured((0, 90, 0)),
        coloured((255, 255, 255)),
        coloured((0, 0, 0, 255), (0, 0, 0, 0)),
        coloured((255, 255, 255, 255), (255, 255, 255, 0)),
        coloured((200, 10, 10, 255), (0, 0, 0, 0)),
        coloured((200, 10, 10, 255), (255, 255, 255, 0)),
        coloured((255, 255, 255, 255), (0, 0, 0, 255)),
        coloured((255, 255), (0, 255)),
    ],
)
def test_what_is_drawn_is_inside(tmp_path, pixels):
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(read_mask_picture(tmp_path / "a.png"), INSIDE)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (180, 180, 180)])
def test_a_lossy_file_has_no_noise(tmp_path, ending, colour):
    big = Image.fromarray(coloured(colour).astype(np.uint8)).resize((128, 96), Image.Resampling.NEAREST)
    big.save(tmp_path / f"a.{ending}", quality=30)
    expected = INSIDE.repeat(8, 0).repeat(8, 1)
    mask = read_mask_picture(tmp_path / f"a.{ending}")
    assert set(np.unique(mask)) == {0, 1}
    assert (mask != expected).mean() < 0.01


def test_soft_greys_stay_soft(tmp_path):
    values = np.linspace(0, 255, 12 * 16).reshape(12, 16).astype(np.uint8)
    for name, image in (("l", Image.fromarray(values)), ("rgb", Image.fromarray(values).convert("RGB"))):
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_allclose(read_mask_picture(tmp_path / f"{name}.png"), values / np.float32(255), atol=1e-6)


def test_several_colours_say_nothing(tmp_path):
    pixels = coloured((255, 0, 0))
    pixels[8:] = (0, 255, 0)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InvalidInputError, match=r"a\.png has several colours, .* black outside and white inside"):
        read_mask_picture(tmp_path / "a.png")


def test_nothing_drawn_is_an_empty_mask(tmp_path):
    for mode in ("RGB", "L"):
        Image.new(mode, (5, 4)).save(tmp_path / "a.png")
        assert not read_mask_picture(tmp_path / "a.png").any()


def test_an_accent_is_one_sign_however_it_is_stored():
    assert comparable("cafe\u0301.png") == comparable("caf\u00e9.png") == "caf\u00e9.png"
