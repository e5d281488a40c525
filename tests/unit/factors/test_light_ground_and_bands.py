"""Light, ground, frequencies, columns, time: each against a formula or a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.filters import threshold_otsu

from xaikit.core import FACTORS
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.factors import Column, DataFacts, EachColumn, Frequencies, Window
from xaikit.factors.ground import foreground, otsu

GENERATOR = torch.Generator().manual_seed(0)
X, DONORS = torch.rand(2, 6, 3, 10, 12, generator=GENERATOR)


def objects(n, *, background, value):
    """A square of one value before a background of its own in each image."""
    x = torch.full((n, 1, 12, 12), 0.0) + background.view(-1, 1, 1, 1)
    for i in range(n):
        x[i, :, 2 + i : 7 + i, 3:8] = value
    return x


def test_brightness_contrast_and_sharpness_take_the_donors_number():
    wide = DataFacts.of(torch.cat([X, DONORS]), low=torch.full((3,), -9.0), high=torch.full((3,), 9.0))
    bright = FACTORS.create("brightness").exchange(X, DONORS, facts=wide)
    assert torch.allclose(bright.mean((1, 2, 3)), DONORS.mean((1, 2, 3)), atol=1e-5)
    for changed, x, donor in zip(bright, X, DONORS, strict=True):
        values = np.sort(x.flatten().numpy())
        assert np.sort(changed.flatten().numpy())[36] == pytest.approx(np.sort(donor.flatten().numpy())[36], abs=1e-5)
        line = np.polynomial.Polynomial.fit(values, np.sort(changed.flatten().numpy()), 1)
        assert np.allclose(line(values), np.sort(changed.flatten().numpy()), atol=1e-5)  # scaled, and something added
    contrast = FACTORS.create("contrast").exchange(X, DONORS * 0.3, facts=wide)
    assert np.std(contrast.numpy(), axis=(1, 2, 3)) == pytest.approx(np.std(0.3 * DONORS.numpy(), axis=(1, 2, 3)))
    assert torch.allclose(contrast.mean((1, 2, 3)), X.mean((1, 2, 3)), atol=1e-5)
    smooth = torch.nn.functional.avg_pool2d(DONORS, 3, 1, 1)
    changed = FACTORS.create("sharpness").exchange(X, smooth, facts=wide)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))

    def detail(x):
        return (x - torch.nn.functional.avg_pool2d(x, 3, 1, 1))[inner].std()

    assert detail(changed) < 0.6 * detail(X)
    cut = FACTORS.create("brightness").exchange(X, DONORS + 5)
    assert float(cut.max()) <= 6


def test_an_object_before_black_stays_before_black():
    """Nothing is added to it, since no other image has a lighter ground; where all have one, it is exchanged."""
    dim, light = (objects(3, background=torch.zeros(3), value=v) for v in (0.2, 0.8))
    black = torch.zeros(3)
    brightness = FACTORS.create("brightness")
    assert torch.allclose(brightness.exchange(dim, light), light, atol=1e-6)
    veiled = objects(3, background=black + 0.3, value=1.1)
    assert torch.allclose(
        brightness.exchange(light, veiled, facts=DataFacts.of(veiled - 1 + 2 * light)), veiled, atol=1e-6
    )


def test_images_without_contrast_stay():
    flat = torch.full_like(X, 0.5)
    for name in ("contrast", "sharpness"):
        assert torch.allclose(FACTORS.create(name).exchange(flat, DONORS), flat)


def test_otsu_is_that_of_scikit_image():
    values = torch.cat([torch.randn(4, 300, generator=GENERATOR), 4 + torch.randn(4, 200, generator=GENERATOR)], 1)
    threshold, separation = otsu(values)
    width = (values.amax(1) - values.amin(1)) / 64
    for i in range(4):
        row = values[i].numpy()
        assert abs(threshold[i].item() - threshold_otsu(row, nbins=64)) <= width[i].item()
        low, high = row[row <= threshold[i].item()], row[row > threshold[i].item()]
        between = len(low) * len(high) / len(row) ** 2 * (low.mean() - high.mean()) ** 2
        assert separation[i].item() == pytest.approx(between / row.var(), abs=0.02)


def test_background_and_foreground():
    ground = torch.tensor([0.1, 0.2, 0.3])
    x, donors = objects(3, background=ground, value=0.9), objects(3, background=ground + 0.3, value=0.0).flip(2)
    assert torch.equal(foreground(x), x == 0.9)
    behind = FACTORS.create("background").exchange(x, donors)
    assert torch.equal(behind[x == 0.9], x[x == 0.9])
    assert torch.allclose(behind[x != 0.9], (ground + 0.3).view(3, 1, 1, 1).expand_as(x)[x != 0.9])
    front = FACTORS.create("foreground").exchange(x, donors)
    assert torch.equal(front[donors == 0], donors[donors == 0])
    assert torch.allclose(front[donors != 0], ground.view(3, 1, 1, 1).expand_as(x)[donors != 0])


def test_a_faint_object_beside_a_bright_spot_is_foreground_too():
    x = objects(3, background=torch.zeros(3), value=0.2)
    x[:, :, :2, :2] = 1
    assert torch.equal(foreground(x), x > 0)
    noisy = 0.5 + 0.05 * torch.randn(3, 1, 30, 30, generator=GENERATOR)
    noisy[:, :, 10:20, 10:20] += 2
    expected = torch.zeros_like(noisy, dtype=torch.bool)
    expected[:, :, 10:20, 10:20] = True
    assert torch.equal(foreground(noisy), expected)


@pytest.mark.parametrize("band", ["low", "high", "all"])
def test_amplitudes_are_the_donors_and_phases_stay_unless_the_donor_stands_out(band):
    changed = Frequencies(band=band, cutoff=0.2).exchange(X, DONORS)
    own, other, new = (np.fft.fft2(t.double().numpy()) for t in (X, DONORS, changed))
    rows, columns = np.meshgrid(np.fft.fftfreq(10), np.fft.fftfreq(12), indexing="ij")
    radius = np.hypot(rows, columns)
    inside = {"low": (radius > 0) & (radius <= 0.2), "high": radius > 0.2, "all": radius > 0}[band]
    half = (radius > 0) & (radius <= 0.2) & (np.arange(12) <= 6)  # of a real transform
    energy = [(np.abs(t[..., half]) ** 2).sum((1, 2)) for t in (own, other)]
    other *= np.sqrt(energy[0] / energy[1])[:, None, None, None]  # in proportion to the low frequencies
    assert np.abs(new)[..., inside] == pytest.approx(np.abs(other)[..., inside], abs=1e-4)
    assert new[..., ~inside] == pytest.approx(own[..., ~inside], abs=1e-4)
    phases = np.where((radius > 0.2) & (np.abs(other) > 5 * np.abs(own)), np.angle(other), np.angle(own))
    assert np.exp(1j * np.angle(new))[..., inside] == pytest.approx(np.exp(1j * phases)[..., inside], abs=1e-2)


def test_a_stripe_is_exchanged_whole():
    """A stripe of 4.5 cycles lies in several frequencies; pieced together by other phases it would be another one."""
    stripes = torch.sin(torch.arange(16) * 4.5 * 2 * torch.pi / 16).expand(4, 1, 16, 16) * 2
    plain = 0.05 * torch.randn(4, 1, 16, 16, generator=GENERATOR)
    changed = Frequencies(band="all").exchange(plain, stripes)
    assert float(torch.corrcoef(torch.stack([changed.flatten(), stripes.flatten()]))[0, 1]) > 0.95


def test_the_contrast_of_an_image_is_no_frequency():
    """An image with three times the contrast lends nothing; one with a stripe lends it, whatever the contrasts."""
    scene = torch.nn.functional.interpolate(torch.rand(4, 1, 5, 5, generator=GENERATOR), (16, 16), mode="bicubic")
    for band in ("low", "high", "all"):
        assert torch.allclose(Frequencies(band=band).exchange(scene, 3 * scene), scene, atol=1e-5)
    stripes = 0.5 * torch.sin(torch.arange(16) * 6 * 2 * torch.pi / 16).expand(4, 1, 16, 16)
    lent = Frequencies(band="high").exchange(scene, 2 * scene + stripes) - scene
    assert torch.allclose(lent, stripes / 2, atol=0.02)


FORMS = [((4, 1, 32, 32), 1, "image"), ((4, 32, 32, 3), 3, "image"), ((4, 64, 2), 2, "time_series")]


@pytest.mark.parametrize(("shape", "axis", "kind"), FORMS)
def test_spread_frequencies_leave_what_is_local(shape, axis, kind):
    """A stripe all over the donor comes along, a small square of the donor does not, and the sample's own stays."""
    facts = DataFacts(kind=kind, channel_axis=axis)
    length = shape[2 if len(shape) == 4 else 1]
    along = (-1, 1) if shape[-1] < 9 else (1, -1)
    slope = 3 * torch.cos(torch.arange(length) * 2 * torch.pi / length).view(along)  # low, in all alike
    x = slope + 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stripes = x + torch.sin(torch.arange(length) * 2.0).view(along)
    square = x.clone().movedim(axis, 1)
    square[(..., *[slice(10, 15)] * (len(shape) - 2))] += 1.0
    square = square.movedim(1, axis)
    factor = FACTORS.create("frequencies:band=high,where=spread")
    lent = (factor.exchange(x, stripes, facts=facts) - x).flatten()
    assert float(torch.corrcoef(torch.stack([lent, (stripes - x).flatten()]))[0, 1]) > 0.9
    local, plain = (
        (f.exchange(x, square, facts=facts) - x).norm() for f in (factor, FACTORS.create("frequencies:band=high"))
    )
    assert float(local) < 0.5 * float(plain)
    kept = factor.exchange(square, x, facts=facts)
    assert float((kept - square).norm()) < 0.5 * float((square - x).norm())


def test_series_in_both_layouts():
    x, donors = torch.rand(2, 4, 3, 16, generator=GENERATOR)
    facts = DataFacts.of(x)
    swapped = DataFacts.of(x.mT, channel_axis=-1)
    for spec in ("window:number=2,windows=4", "channel:index=1", "frequencies:band=low"):
        factor = FACTORS.create(spec)
        changed = factor.exchange(x, donors, facts=facts)
        assert torch.allclose(factor.exchange(x.mT, donors.mT, facts=swapped).mT, changed, atol=1e-6)
        assert not torch.equal(changed, x)
    changed = Window(number=2, windows=4).exchange(x, donors, facts=facts)
    assert torch.equal(changed[..., 8:12], donors[..., 8:12])
    assert torch.equal(changed[..., :8], x[..., :8])
    assert [m.title for m in FACTORS.create("windows:windows=3").members(x, x, facts)][0] == "window 1 of 3"
    named = DataFacts.of(x, columns=["pulse", "speed", "height"])
    assert [m.title for m in FACTORS.create("channels").members(x, x, named)][1] == "channel speed"
    with pytest.raises(InvalidInputError, match="cannot be divided into 40"):
        Window(windows=40).exchange(x, donors)
    with pytest.raises(InvalidInputError, match="no channel 7 among 3"):
        FACTORS.create("channel:index=7").exchange(x, donors)


def test_columns_and_those_that_are_one_variable():
    frame = pd.get_dummies(
        pd.DataFrame({"age": [1.5, 2, 3, 4], "race": list("abca"), "sex": [0, 1, 0, 1]}), dtype=float
    )
    x = torch.tensor(frame.to_numpy(), dtype=torch.float32)  # age, sex, race_a, race_b, race_c
    facts = DataFacts.of(x, columns=list(frame.columns))
    assert [m.title for m in EachColumn().members(x, x, facts)] == ["column age", "column sex", "column race"]
    unnamed = EachColumn().members(x, x, DataFacts.of(x))
    assert [m.title for m in unnamed] == ["column 0", "column 1", "columns 2, 3, 4"]
    told = DataFacts.of(x, columns=["age", "sex", "race=a", "race=b", "race=c"])
    assert [m.title for m in EachColumn().members(0 * x, x, told)] == ["column age", "column sex", "column race"]
    donors = x.roll(1, 0)
    changed = Column(names="race").exchange(x, donors, facts=facts)
    assert torch.equal(changed[:, 2:], donors[:, 2:])
    assert torch.equal(changed[:, :2], x[:, :2])
    assert torch.equal(Column(indices=[0]).exchange(x, donors)[:, 0], donors[:, 0])
    with pytest.raises(UnknownNameError, match="did you mean 'age'"):
        Column(names="agee").exchange(x, donors, facts=facts)
    with pytest.raises(InvalidInputError, match="needs the names of the columns"):
        Column(names="age").exchange(x, donors)
    with pytest.raises(InvalidInputError, match="no column 9 in a table of 5"):
        Column(indices=[9]).exchange(x, donors)


@pytest.mark.parametrize("factor", ["background", "foreground"])
def test_the_object_of_standardised_channels_is_that_of_the_picture(factor):
    """A channel that varies little has large numbers then, and its noise would outweigh the object in the others."""
    raw = 0.4 + 0.05 * torch.rand(8, 3, 12, 12, generator=GENERATOR)
    raw[:, 1:, 4:9, 3:8] += 0.4
    raw[0, :, 0, 0], raw[0, :, 0, 1] = 0.0, 1.0  # each channel has black and white
    mean, deviation = torch.tensor([0.4, 0.4, 0.4]), torch.tensor([0.01, 0.3, 0.3])
    standardised = (raw - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    expected = FACTORS.create(factor).exchange(raw, raw.flip(0).flip(2))
    changed = FACTORS.create(factor).exchange(standardised, standardised.flip(0).flip(2))
    back = changed * deviation.view(3, 1, 1) + mean.view(3, 1, 1)
    assert torch.allclose(back, expected, atol=1e-4)
