"""The skin example on images that we draw: the patches are found, masked, and no longer decide."""

from __future__ import annotations

import json

import pytest

from examples.skin import skin
from examples.skin.draw import draw


@pytest.mark.slow
def test_the_patches_are_found_and_taken_away(tmp_path, capsys):
    folder = draw(tmp_path / "images", 150, size=32, patched=0.6)
    figures = skin.main([str(folder), "--out", str(tmp_path), "--epochs", "15"])
    plain, mended = figures["plain"], figures["mended"]
    fooled = "malignant turned benign by a patch"
    assert plain[fooled] > 0.5
    assert mended[fooled] < 0.6 * plain[fooled]
    assert mended["relevance in the region"] < 0.5 * plain["relevance in the region"]
    assert min(mended["benign"], mended["malignant"]) > 0.7
    suspects = (tmp_path / "suspects.txt").read_text().splitlines()
    assert sum("_patch" in name for name in suspects) > 0.6 * len(suspects)
    assert (tmp_path / "clusters.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert "are taken for the shortcut" in capsys.readouterr().out


def test_a_folder_that_is_not_one(tmp_path):
    (tmp_path / "benign").mkdir()
    with pytest.raises(SystemExit, match="must hold the folders benign and malignant"):
        skin.main([str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        skin.main(["--out", str(tmp_path / "out")])
