"""Images and arrays become batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.cli.inputs import IMAGENET, Preparation, read_batch
from xaikit.core.errors import InvalidInputError


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """20 rows, 30 columns; red grows with the column, green with the row."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = 8 * np.arange(30), 12 * np.arange(20)[:, None]
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


def test_pixels_in_the_order_of_torch(ramp: Path) -> None:
    batch, picture = read_batch(ramp, Preparation())
    assert batch.shape == (1, 3, 20, 30)
    assert batch.is_contiguous()
    assert torch.equal(batch, picture)
    assert torch.allclose(batch[0, 0, 5], torch.arange(30) * 8 / 255)
    assert torch.allclose(batch[0, 1, :, 5], torch.arange(20) * 12 / 255)


def test_one_size_takes_the_centre_square(ramp: Path) -> None:
    _, picture = read_batch(ramp, Preparation(size=(20,)))
    assert torch.allclose(picture[0, 0, 0], torch.arange(5, 25) * 8 / 255)


def test_two_sizes_are_height_and_width(ramp: Path) -> None:
    assert read_batch(ramp, Preparation(size=(7, 11)))[0].shape == (1, 3, 7, 11)


def test_normalisation_by_hand(ramp: Path) -> None:
    batch, picture = read_batch(ramp, Preparation(mean=IMAGENET[0], std=IMAGENET[1]))
    expected = (picture[0, 1, 3, 4] - 0.456) / 0.224
    assert torch.allclose(batch[0, 1, 3, 4], expected)
    assert 0 <= picture.min() <= picture.max() <= 1


def test_grey(ramp: Path) -> None:
    assert read_batch(ramp, Preparation(grey=True, mean=(0.5,)))[0].shape == (1, 1, 20, 30)


def test_palette_and_alpha_images_have_three_channels(tmp_path: Path) -> None:
    for mode in ("P", "RGBA", "L", "1"):
        Image.new(mode, (4, 4)).save(tmp_path / "odd.png")
        assert read_batch(tmp_path / "odd.png", Preparation())[0].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8"])
def test_arrays(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    batch = read_batch(tmp_path / "a.npy", Preparation())[0]
    assert np.array_equal(batch.numpy(), array)
    assert batch.dtype == (torch.float32 if dtype == "float64" else getattr(torch, dtype))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array(["a", "b"]), "must hold numbers"),
        (np.arange(3.0), r"shape \(N, \.\.\.\); got float64 of shape \(3,\)"),
        (np.array([{}], dtype=object), "not an array of numbers"),
    ],
)
def test_an_array_of_something_else(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InvalidInputError, match=words):
        read_batch(tmp_path / "a.npy", Preparation())


def test_what_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name in ("text.png", "cut.png"):
        with pytest.raises(InvalidInputError, match="is not a readable image"):
            read_batch(tmp_path / name, Preparation())
    with pytest.raises(InvalidInputError, match="no such file"):
        read_batch(tmp_path / "absent.png", Preparation())


def test_normalisation_that_does_not_fit(ramp: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"--mean takes one number or one for each channel \(3\), got 2"):
        read_batch(ramp, Preparation(mean=(0.1, 0.2)))
    with pytest.raises(InvalidInputError, match="--std must be positive"):
        read_batch(ramp, Preparation(std=(0.0,)))
