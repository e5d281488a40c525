"""Masks for pictures: matched by name, scaled and cut like the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.cli.class_names import ClassNames
from xaikit.cli.data import image_folder
from xaikit.cli.mask_placing import same_proportions
from xaikit.cli.masks import Masks
from xaikit.core.errors import InvalidInputError
from xaikit.files.pictures import Preparation


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """Six black pictures (40 x 60) with one white square each, and the same as masks in several forms of folders."""
    for k in range(6):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[4 * k : 4 * k + 12, 14 + 3 * k : 26 + 3 * k] = 255
        grey = pixels[:, :, 0]
        picture(tmp_path / f"flat/{k:02d}.png", pixels)
        picture(tmp_path / f"deep/{'ab'[k % 2]}/{k:02d}.png", pixels)
        picture(tmp_path / f"same/{k:02d}.png", grey)
        picture(tmp_path / f"isic/{k:02d}_segmentation.png", grey)
        picture(tmp_path / f"below/{'ab'[k % 2]}/{k:02d}.png", grey)
        (tmp_path / "arrays").mkdir(exist_ok=True)
        np.save(tmp_path / f"arrays/{k:02d}.npy", grey > 0)
    return tmp_path


def covered(images: Path, masks: Path, preparation: Preparation) -> list[float]:
    """How much of each picture's brightness lies in its mask."""
    data = image_folder(images, preparation, strict=True)
    x = torch.stack([data.read(i) for i in range(len(data))])
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    m = Masks(masks, data).of(order, x[order], len(data))
    return [float((image.mean(0) * mask).sum() / image.mean(0).sum()) for image, mask in zip(x[order], m, strict=True)]


LAYOUTS = [(images, masks) for images in ("flat", "deep") for masks in ("same", "isic", "arrays")]


# Flat names under folders of masks would be another layout.
@pytest.mark.parametrize(("images", "masks"), [*LAYOUTS, ("deep", "below")])
@pytest.mark.parametrize("size", [None, (40,), (20,), (20, 30), (64, 48)])
def test_a_mask_goes_the_way_of_its_own_picture(
    bars: Path, images: str, masks: str, size: tuple[int, ...] | None
) -> None:
    for share in covered(bars / images, bars / masks, Preparation(size=size, resampling=Image.Resampling.BOX)):
        assert share > 0.9


def test_a_crop_with_a_margin(bars: Path) -> None:
    preparation = Preparation(size=(28,), crop=0.875, resampling=Image.Resampling.BOX)
    assert min(covered(bars / "flat", bars / "same", preparation)) > 0.85


def test_missing_and_unused_masks_are_told(bars: Path) -> None:
    data = image_folder(bars / "flat", Preparation())
    (bars / "same" / "02.png").rename(bars / "same" / "99.png")
    with pytest.raises(InvalidInputError, match=r"no mask for 02\.png \(1 of 6 samples\); 99\.png belongs"):
        Masks(bars / "same", data)
    (bars / "flat" / "02.png").unlink()
    with pytest.warns(UserWarning, match=r"99\.png belongs to no sample"):
        Masks(bars / "same", image_folder(bars / "flat", Preparation()))


def test_two_pictures_of_one_name_have_their_own_masks(tmp_path: Path) -> None:
    for k, folder in enumerate("ab"):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[k] = 255
        picture(tmp_path / f"set/{folder}/0.png", np.stack([pixels] * 3, 2))
        picture(tmp_path / f"masks/{folder}/0.png", pixels)
    assert covered_two(tmp_path) == [1.0, 1.0]
    (tmp_path / "masks" / "b" / "0.png").rename(tmp_path / "masks" / "0.png")
    with pytest.raises(InvalidInputError, match=r"no mask for b/0\.png"):
        Masks(tmp_path / "masks", image_folder(tmp_path / "set", Preparation()))


def covered_two(root: Path) -> list[float]:
    data = image_folder(root / "set", Preparation())
    x = torch.stack([data.read(i) for i in range(2)])
    masks = Masks(root / "masks", data).of(torch.tensor([0, 1]), x, 2)
    return [float((i[0] * m).sum() / i[0].sum()) for i, m in zip(x, masks, strict=True)]


def test_masks_of_other_proportions_and_masks_that_are_cut_off(bars: Path) -> None:
    data = image_folder(bars / "flat", Preparation(size=(40,)))
    x = torch.zeros(2, 3, 40, 40)
    picture(bars / "odd.png", np.full((9, 30), 255, np.uint8))
    with pytest.raises(InvalidInputError, match=r"has 9x30 .*the picture 00\.png 40x60 and the model's input 40x40"):
        Masks(bars / "odd.png", data).of(torch.tensor([0, 1]), x, 6)
    left = np.zeros((40, 60), np.uint8)
    left[:, :10] = 255
    picture(bars / "left.png", left)
    with pytest.raises(InvalidInputError, match=r"left\.png covers nothing of what the model sees of 00\.png"):
        Masks(bars / "left.png", data).of(torch.tensor([0, 1]), x, 6)
    left[:, 10:13] = 255
    picture(bars / "left.png", left)
    mask = Masks(bars / "left.png", data).of(torch.tensor([0]), x[:1], 6)[0]
    assert mask[:, :3].min() == 1
    assert mask.sum() == 3 * 40
    picture(bars / "square.png", np.full((80, 80), 255, np.uint8))  # of the input's proportions
    assert Masks(bars / "square.png", data).of(torch.tensor([0]), x[:1], 6).shape == (1, 40, 40)


def test_samples_without_names_are_matched_by_number(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for k in (0, 1, 2, 10):
        np.save(tmp_path / "masks" / f"{k}.npy", np.full((2, 2), k / 10))

    class Rows:
        names = [f"row {i}" for i in range(3)]

    x = torch.zeros(3, 1, 2, 2)
    with pytest.warns(UserWarning, match=r"10\.npy belongs to no sample"):
        masks = Masks(tmp_path / "masks", Rows())
    assert masks.of(torch.tensor([2, 0, 1]), x, 3).amax((1, 2)).tolist() == pytest.approx([0.2, 0, 0.1])
    Rows.names = [f"row {i}" for i in range(5)]
    with pytest.raises(InvalidInputError, match=r"no mask for row 3 \(2 of 5 samples\); 10\.npy belongs"):
        Masks(tmp_path / "masks", Rows())


def test_proportions() -> None:
    assert same_proportions((333, 500), (171, 256))
    assert not same_proportions((3, 4), (2, 2))
    assert not same_proportions((40, 60), (40, 40))


def test_test_data_use_the_words_of_the_data() -> None:
    """`--test` may hold fewer classes than `--data`; their numbers stay."""
    with pytest.warns(UserWarning, match="'Yes' and 'yes' are two classes; write both in one way"):
        ClassNames().of(["yes", "Yes", "no"])
    labels, names = ClassNames().of(["b", "a", "c"])
    assert ClassNames(names, source="the classes of --data").of(["c", "b"]) == ([2, 1], names)
    with pytest.raises(LookupError, match="the label 'd' is none of the classes of --data"):
        ClassNames(names, source="the classes of --data").of(["d"])
    assert labels == [1, 0, 2]
