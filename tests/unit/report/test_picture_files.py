"""Explanations as picture files: colours, gamma, grids, what is refused."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xaikit import Gradient
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.report.picture_files import save_images
from xaikit.runs import explain_dataset, load_run


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def coloured(name, share):
    return (np.asarray(matplotlib.colormaps[name](round(share * 255)))[:3] * 255).round().astype(int)


def test_colours_and_gamma(tmp_path):
    values = np.array([[[4.0, -1.0], [0.0, 2.0]], [[0.5, 0.0], [0.0, 0.0]]])
    first, second = save_images(values, tmp_path, cmap="seismic", gamma=0.5)
    assert [first.name, second.name] == ["000000.png", "000001.png"]
    for row, column, share in ((0, 0, 1.0), (0, 1, -0.5), (1, 0, 0.0), (1, 1, 0.5**0.5)):
        assert (pixels(first)[row, column] == coloured("seismic", (share + 1) / 2)).all()
    assert (pixels(second)[0, 0] == coloured("seismic", 1.0)).all()
    _, second = save_images(values, tmp_path, cmap="seismic", together=True)
    assert (pixels(second)[0, 0] == coloured("seismic", (1 + 0.125) / 2)).all()


def test_an_attribution_without_negative_values_and_a_grid(tmp_path):
    values = torch.rand(5, 3, 4, 6)
    (path,) = save_images(values, tmp_path / "new", grid=True)
    sheet = pixels(path)
    assert sheet.shape == (2 * 5 - 1, 3 * 7 - 1, 3)
    summed = values[4].double().sum(0)
    share = float(summed[1, 2] / summed.max())
    assert (sheet[5 + 1, 7 + 2] == coloured("inferno", share)).all()  # the second row's second map


def test_of_a_run(tmp_path):
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2)), torch.rand(3, 1, 5, 5)
    explain_dataset(Gradient(model), x, out=tmp_path / "run", targets=0)
    run = load_run(tmp_path / "run")
    from_run = [pixels(p) for p in save_images(run, tmp_path / "a")]
    of_values = [pixels(p) for p in save_images(Gradient(model).explain(x, 0), tmp_path / "b")]
    assert len(from_run) == 3
    assert all((a == b).all() for a, b in zip(from_run, of_values, strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"explanations": torch.rand(2, 5)}, InvalidInputError, r"of a sample, got values \(5,\)"),
        ({"explanations": (torch.rand(2, 3, 3),) * 2}, InvalidInputError, "got several inputs"),
        ({"gamma": 0}, InvalidInputError, "gamma must be > 0, got 0"),
        ({"gamma": "2"}, InvalidTypeError, "gamma must be a number, got '2'"),
        ({"cmap": matplotlib.colormaps["seismic"]}, InvalidTypeError, "must be the name of a palette"),
        ({"cmap": "seismik"}, UnknownNameError, "no palette 'seismik'.*seismic"),
        ({"explanations": torch.rand(0, 3, 3)}, InvalidInputError, "no explanation"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, arguments, error, match):
    with pytest.raises(error, match=match):
        save_images(**{"explanations": torch.rand(2, 3, 3), "folder": tmp_path, **arguments})


def test_what_is_not_finite_is_drawn_as_zero_and_told(tmp_path):
    """Infinity once took all colours, so that the rest of its map was white."""
    values = torch.tensor([[[1.0, -0.5], [torch.inf, torch.nan]]])
    with pytest.warns(UserWarning, match="1 explanations hold NaN or inf, which are drawn as 0"):
        (found,) = save_images(values, tmp_path / "a")
    (expected,) = save_images(values.nan_to_num(posinf=0), tmp_path / "b")
    assert (pixels(found) == pixels(expected)).all()
