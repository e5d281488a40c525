"""Picture files of any depth and mode."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaikit.core.errors import InvalidInputError
from xaikit.files.pictures import Preparation, open_picture, picture_size, pixels_of, read_mask_picture

RAMP = np.linspace(0, 1, 400).reshape(20, 20)


def read(path: Path, *, grey: bool = False) -> np.ndarray:
    return pixels_of(open_picture(path, grey=grey), grey=grey)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("grey", [True, False])
def test_sixteen_bit_pictures_keep_their_values(tmp_path: Path, name: str, grey: bool) -> None:
    Image.fromarray((RAMP * 65535).round().astype(np.uint16)).save(tmp_path / name)
    pixels = read(tmp_path / name, grey=grey)
    assert pixels.shape == (1 if grey else 3, 20, 20)
    assert np.allclose(pixels, RAMP, atol=1e-5)
    half = Preparation(size=(10, 10)).placed(open_picture(tmp_path / name))
    assert len(np.unique(pixels_of(half, grey=True))) > 90


def test_decimal_pictures_lie_between_zero_and_one(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tif")
    assert np.allclose(read(tmp_path / "a.tif"), RAMP)
    for values in (RAMP * 255, RAMP - 0.5, np.full((4, 4), np.nan)):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(InvalidInputError, match=r"b\.tif .* must lie in \[0, 1\]"):
            open_picture(tmp_path / "b.tif")


def test_a_range_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4) * 100_000).save(tmp_path / "a.tif")
    with pytest.raises(InvalidInputError, match="32-bit pixels from 0 to 1.5e"):
        open_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_photographs_stand_upright(tmp_path: Path, orientation: int, deep: bool) -> None:
    pixels = np.zeros((10, 20), np.uint16 if deep else np.uint8)
    pixels[0] = 60000 if deep else 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    seen = read(path, grey=True)[0]
    assert picture_size(path) == seen.shape == ((20, 10) if orientation > 4 else (10, 20))
    top, bottom, left, right = seen[0], seen[-1], seen[:, 0], seen[:, -1]
    edge = (top, top, bottom, bottom, left, right, right, left)[orientation - 1]
    assert edge.min() > 0.9
    assert np.isclose(seen.sum(), edge.sum())


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "RGBA", "1", "YCbCr", "HSV"])
def test_every_mode_has_its_colours(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (6, 4), (250, 10, 20) if mode not in ("LA", "1") else (255, 255, 255))
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image.convert(mode).convert("RGB" if mode == "HSV" else mode).save(path)
    expected = (1, 1, 1) if mode in ("LA", "1") else (250 / 255, 10 / 255, 20 / 255)
    assert np.allclose(read(path).mean((1, 2)), expected, atol=0.03)


def test_of_an_animation_the_first_frame_is_read_and_told(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), v) for v in (200, 10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"a\.gif has 2 frames; the first one is read"):
        assert np.allclose(read(tmp_path / "a.gif", grey=True), 200 / 255, atol=0.01)


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_name_themselves(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a.png", "a.tif", "a.jpg", "a.gif", "a.bmp", "a.webp"):
        path = tmp_path / name
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        whole = path.read_bytes()
        for trial in range(25):
            damaged = bytearray(whole[: int(random.integers(len(whole)))] if trial % 3 == 0 else whole)
            for at in random.integers(0, max(1, len(damaged)), 6) if damaged else ():
                damaged[at] = int(random.integers(256))
            path.write_bytes(bytes(damaged))
            try:
                open_picture(path)
            except InvalidInputError as err:
                assert name in str(err)  # noqa: PT017 (most damage to pixels cannot be told)


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InvalidInputError, match="is a pipe or a device"):
        open_picture(tmp_path / "a.png")


def test_masks_are_black_and_white_or_zero_and_one(tmp_path: Path) -> None:
    region = np.zeros((6, 8), np.uint8)
    region[1:3, 2:5] = 1
    path = tmp_path / "m.png"
    palette = Image.new("P", (8, 6))
    palette.putdata(region.reshape(-1).tolist())
    palette.putpalette([200, 30, 30, 10, 90, 10] + [0] * 756)
    forms = (
        region * 255,
        region,
        region.astype(bool),
        region.astype(np.uint16) * 65535,
        np.stack([region * 255] * 3, 2),
    )
    for image in (palette, *map(Image.fromarray, forms)):
        image.save(path)
        assert np.array_equal(read_mask_picture(path), region)
    Image.fromarray(region * 128).save(path)
    assert np.allclose(read_mask_picture(path), region * 128 / 255)
    Image.fromarray(region * 7).save(path)
    with pytest.raises(InvalidInputError, match="grey values from 0 to 7, which look like numbers of classes"):
        read_mask_picture(path)
