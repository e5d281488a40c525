"""Shortcut masks from explanations and from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient
from xaikit.mitigation import RRR
from xaikit.shortcuts import load_masks, make_masks
from xaikit.shortcuts.maps import relevance_maps


def test_a_mask_for_each_sample_by_threshold():
    a = torch.zeros(2, 2, 3, 3)
    a[0, 0, 0, 0], a[0, 1, 0, 0], a[0, 0, 1, 1], a[1, 1, 2, 2] = -1, 1, 0.9, 5
    assert make_masks(a, threshold=0.5).nonzero().tolist() == [[0, 0, 0], [1, 2, 2]]
    assert make_masks(a, threshold=0.4).nonzero().tolist() == [[0, 0, 0], [0, 1, 1], [1, 2, 2]]
    assert make_masks(a, threshold=0.5, sign="positive").nonzero().tolist() == [[0, 0, 0], [0, 1, 1], [1, 2, 2]]
    a[1] = 0
    assert not make_masks(a)[1].any()


def test_a_shared_region_is_what_the_others_do_not_look_at():
    a = torch.zeros(6, 1, 5, 5)
    a[:, :, 2, 2] = 3  # all look at the middle
    a[4:, :, 0, 0] = 2
    masks = make_masks(a, [4, 5])
    assert masks.nonzero().tolist() == [[4, 0, 0], [5, 0, 0]]
    everywhere = make_masks(a, [4, 5], everywhere=True, grow=1)
    assert everywhere.sum((1, 2)).tolist() == [4] * 6
    assert everywhere[0, :2, :2].all()


def test_series_and_tables():
    a = torch.zeros(3, 1, 7)
    a[:, :, 5] = 1
    assert make_masks(a, grow=1)[0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert make_masks(torch.eye(3)).tolist() == torch.eye(3).tolist()
    with pytest.raises(InvalidInputError, match="grow widens"):
        make_masks(torch.rand(2, 1, 2, 2, 2, 2), grow=1)


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ([7], {}, r"samples must lie in 0\.\.4, got 7 to 7"),
        ([-1], {}, "samples must lie in"),
        ([], {}, "list of sample indices"),
        ([True, False], {}, "list of sample indices"),
        ([0, 1, 2, 3, 4], {}, "no others to compare with"),
        (None, {"threshold": 0}, r"threshold must lie in \(0, 1\]"),
        (None, {"threshold": 1.5}, "threshold must lie in"),
        (None, {"grow": -1}, "grow must be"),
    ],
)
def test_what_cannot_be_right(samples, options, words):
    with pytest.raises(InvalidInputError, match=words):
        make_masks(torch.rand(5, 1, 4, 4), samples, **options)


def test_files_of_every_kind(tmp_path):
    mask = torch.zeros(4, 6)
    mask[1:3, 2:5] = 1
    np.save(tmp_path / "m.npy", mask.numpy())
    np.savez(tmp_path / "one.npz", mask=mask.numpy().astype(bool))
    np.savez(tmp_path / "two.npz", mask=mask.numpy(), other=np.ones(3))
    Image.fromarray((mask.numpy() * 255).astype(np.uint8)).save(tmp_path / "m.png")
    Image.fromarray((mask.numpy() * 255).astype(np.uint8)).convert("RGBA").save(tmp_path / "rgba.PNG")
    for name, key in [("m.npy", None), ("one.npz", None), ("two.npz", "mask"), ("m.png", None), ("rgba.PNG", None)]:
        assert torch.equal(load_masks(tmp_path / name, key=key).float(), mask), name
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):
        Image.fromarray((mask.roll(i, 0).numpy() * 255).astype(np.uint8)).save(folder / f"{i}.png")
    assert torch.equal(load_masks(folder), torch.stack([mask.roll(i, 0) for i in range(3)]))


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_heatmap_files_become_masks_for_a_mitigator(tmp_path, ending):
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    x, y = torch.rand(5, 1, 4, 6), torch.tensor([0, 1, 0, 1, 0])
    heat = Gradient(model).explain(x, y)
    masks = load_masks(heat.save(tmp_path / f"heat{ending}"), threshold=0.7)
    assert torch.equal(masks, make_masks(heat, threshold=0.7))
    assert RRR().loss(model, (x, y, masks)).penalty > 0


def test_files_that_cannot_be_masks(tmp_path):
    np.save(tmp_path / "two.npy", np.full((3, 3), 2.0))
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan))
    np.save(tmp_path / "words.npy", np.array(["a", "b"], dtype=object))
    np.savez(tmp_path / "several.npz", a=np.ones(3), b=np.ones(3))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "mask.doc").write_text("0 1")
    (tmp_path / "folder").mkdir()
    for name, words in [
        ("two.npy", r"\[0, 1\]"), ("nan.npy", "NaN"), ("words.npy", "cannot be read"), ("several.npz", "key="),
        ("broken.png", "broken.png cannot be read"), ("broken.npz", "cannot be read"), ("empty.npy", "cannot be read"),
        ("mask.doc", "masks are read from"), ("absent.png", "there is no mask file"), ("folder", "holds no mask"),
    ]:  # fmt: skip
        with pytest.raises(InvalidInputError, match=words):
            load_masks(tmp_path / name)
    with pytest.raises(InvalidInputError, match="no array 'c', only a, b"):
        load_masks(tmp_path / "several.npz", key="c")
    np.save(tmp_path / "folder" / "a.npy", np.ones((2, 2)))
    np.save(tmp_path / "folder" / "b.npy", np.ones((2, 3)))
    with pytest.raises(InvalidInputError, match="must have one shape"):
        load_masks(tmp_path / "folder")


def test_images_with_their_channels_last_are_told_by_their_form():
    """Their rows were once added up in place of their channels."""
    first = torch.randn(6, 3, 8, 11)
    assert torch.equal(relevance_maps(first.movedim(1, -1)), relevance_maps(first))
