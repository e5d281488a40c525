"""The skin example on images that we draw: the patches are found, masked, and no longer decide."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from examples.skin import skin
from examples.skin.data import load
from examples.skin.draw import draw
from examples.skin.patches import Patches


@pytest.mark.nightly
def test_the_patches_are_found_and_taken_away(tmp_path, capsys):
    arguments = ["--draw", "150", "--out", str(tmp_path), "--epochs", "12", "--trials", "1", "--seeds", "1"]
    table = skin.main([*arguments, "--methods", "counterexamples", "RRR"])
    assert table.mean("plain", "malignant flipped") < 0.6  # the plain model is fooled
    for name in ("counterexamples", "RRR"):
        assert table.mean(name, "malignant flipped") > table.mean("plain", "malignant flipped") + 0.2
        assert table.mean(name, "worst flipped") > table.mean("plain", "worst flipped") + 0.1
        assert table.mean(name, "accuracy removed") > 0.75
    assert table.mean("RRR", "mass gradient") < 0.7 * table.mean("plain", "mass gradient")
    suspects = (tmp_path / "suspects.txt").read_text().splitlines()
    assert sum("_patch" in name for name in suspects) > 0.8 * len(suspects)
    for name in ("clusters", "before_after", "mass", "examples"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "figures.json").read_text()) == table.to_dict()
    assert "are taken for the shortcut" in capsys.readouterr().out


def test_a_download_with_a_table_of_its_own(tmp_path, capsys):
    """Names without endings, columns of other names, other labels, images that are not there."""
    folder = draw(tmp_path / "images", 5, size=20)
    with (folder / "labels.csv").open(newline="") as table:
        rows = [(row["file"].removesuffix(".png"), row["label"]) for row in csv.DictReader(table)]
    with (tmp_path / "metadata.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("isic_id", "benign_malignant"), *rows, ("x", "benign"), (rows[0][0], "unsure")])
    found = load(folder, 16, tmp_path / "metadata.csv", ("isic_id", "benign_malignant"))
    assert found.x.shape == (10, 3, 16, 16)
    assert found.y.tolist() == [0] * 5 + [1] * 5
    assert "2 rows" in capsys.readouterr().out
    parts = found.split(0)
    assert [sorted(part.y.tolist()) for part in parts] == [[0, 0, 0, 1, 1, 1], [0, 1], [0, 1]]
    assert sorted(file.name for part in parts for file in part.files) == sorted(file.name for file in found.files)


def test_patches_are_put_and_taken_out():
    images = torch.rand(6, 3, 8, 8)
    place = torch.zeros(2, 8, 8)
    place[0, :2, :2] = place[1, 6:, 6:] = 1
    patches = Patches(torch.stack([torch.full((3, 8, 8), 2.0), torch.full((3, 8, 8), 3.0)]), place)
    shown = torch.tensor([True, True, True, True, False, False])
    made = patches.put(images, shown)
    outside = patches.region == 0
    assert torch.equal(made[:, :, outside], images[:, :, outside])
    for image, original, has in zip(made, images, shown, strict=True):
        skin_colour = original[:, outside].median(1).values
        corners = [image[:, 0, 0], image[:, 7, 7]]
        bare = [torch.equal(corner, skin_colour) for corner in corners]
        assert sum(bare) == (1 if has else 2)  # the other corner of a donor shows no patch
        assert not has or {2.0, 3.0} & {float(corner[0]) for corner in corners}
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    made = {name: decoy(images, y) for name, decoy in patches.decoys().items()}
    assert torch.equal(made["flipped"][::2], made["removed"][::2])
    assert not torch.equal(made["flipped"][1::2], made["removed"][1::2])


def test_a_folder_that_is_not_one(tmp_path):
    with pytest.raises(SystemExit, match="there is no table of labels .* name it with --labels"):
        skin.main([str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "labels.csv").write_text("image,class\na,benign\n")
    with pytest.raises(SystemExit, match="has no columns file and label, but image, class; name them with --columns"):
        skin.main([str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="must hold images of benign and malignant; .* names 0 that are there"):
        skin.main([str(tmp_path), "--out", str(tmp_path / "out"), "--columns", "image", "class"])
    with pytest.raises(SystemExit):
        skin.main(["--out", str(tmp_path / "out")])
