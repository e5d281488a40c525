"""DICOM files: rescale, window, bits, colours, frames; what has no pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xaikit.core.errors import InvalidInputError
from xaikit.files import dicom
from xaikit.files.pictures import open_picture, picture_size, pixels_of

pydicom = pytest.importorskip("pydicom")
STORED = np.arange(24, dtype=np.int16).reshape(4, 6) * 100 - 1000


def scan(path: Path, pixels: np.ndarray | None = STORED, **fields: Any) -> Path:
    """A DICOM file with these stored values and header fields."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Modality = "CT"
    if pixels is not None:
        colour = pixels.ndim == 3 and pixels.shape[2] == 3
        dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        if colour:
            dataset.PlanarConfiguration = 0
        dataset.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def read(path: Path) -> np.ndarray:
    return pixels_of(open_picture(path, grey=True), grey=True)[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_rescale_and_window(tmp_path: Path, photometric: str) -> None:
    fields = {"RescaleSlope": 2, "RescaleIntercept": -24, "WindowCenter": [40, 1], "WindowWidth": [400, 2]}
    found = read(scan(tmp_path / "a.dcm", PhotometricInterpretation=photometric, **fields))
    expected = []
    for value in STORED.reshape(-1):  # the standard's own lines, PS3.3 C.11.2.1.2.1
        x, c, w = 2.0 * value - 24, 40, 400
        if x <= c - 0.5 - (w - 1) / 2:
            y = 0.0
        elif x > c - 0.5 + (w - 1) / 2:
            y = 1.0
        else:
            y = (x - (c - 0.5)) / (w - 1) + 0.5
        expected.append(1 - y if photometric == "MONOCHROME1" else y)
    assert np.allclose(found.reshape(-1), expected, atol=1e-6)
    assert len(np.unique(found)) > 3
    assert picture_size(tmp_path / "a.dcm") == (4, 6)


def test_windows_of_other_kinds_and_none(tmp_path: Path) -> None:
    window = {"WindowCenter": 100, "WindowWidth": 1000}
    exact = read(scan(tmp_path / "a.dcm", VOILUTFunction="LINEAR_EXACT", **window))
    assert np.allclose(exact, np.clip((STORED - 100) / 1000 + 0.5, 0, 1), atol=1e-6)
    curve = read(scan(tmp_path / "a.dcm", VOILUTFunction="SIGMOID", **window))
    assert np.allclose(curve, 1 / (1 + np.exp(-4 * (STORED - 100) / 1000)), atol=1e-6)
    assert np.allclose(read(scan(tmp_path / "a.dcm")), (STORED.astype(float) + 32768) / 65535, atol=1e-6)
    twelve = np.array([[0, 4095], [1000, 2000]], np.uint16)
    assert np.allclose(read(scan(tmp_path / "a.dcm", twelve, BitsStored=12, HighBit=11)), twelve / 4095, atol=1e-6)
    with pytest.raises(InvalidInputError, match="window of the width 0"):
        read(scan(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=0))


def test_colours_and_frames(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = open_picture(scan(tmp_path / "a.dcm", colours))
    assert np.array_equal(np.array(image), colours)
    assert open_picture(tmp_path / "a.dcm", grey=True).mode == "L"
    frames = np.stack([STORED, STORED[::-1]])
    with pytest.warns(UserWarning, match=r"b\.dcm has 2 frames; the first one is read"):
        found = read(scan(tmp_path / "b.dcm", frames, NumberOfFrames=2))
    assert np.allclose(found, (STORED.astype(float) + 32768) / 65535, atol=1e-6)


def test_what_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match=r"a\.dcm is a DICOM file without pixels \(SR\); leave it out"):
        open_picture(scan(tmp_path / "a.dcm", None, Modality="SR"))
    with pytest.raises(InvalidInputError, match="without pixels"):
        picture_size(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InvalidInputError, match=r"b\.dcm cannot be read as DICOM"):
        open_picture(tmp_path / "b.dcm")
    with pytest.raises(InvalidInputError, match=r"c\.dcm cannot be read as DICOM"):
        open_picture(scan(tmp_path / "c.dcm", Rows=40000))
    monkeypatch.setattr(dicom, "MOST_PIXELS", 10)
    with pytest.raises(InvalidInputError, match="is said to have 4x6 pixels"):
        open_picture(scan(tmp_path / "d.dcm"))


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_name_themselves(tmp_path: Path) -> None:
    random, path = np.random.default_rng(0), tmp_path / "a.dcm"
    scan(path, WindowCenter=100, WindowWidth=1000, RescaleSlope=2, RescaleIntercept=1)
    content = path.read_bytes()
    for trial in range(60):
        damaged = bytearray(content[: int(random.integers(len(content)))] if trial % 3 == 0 else content)
        for at in random.integers(0, max(1, len(damaged)), 4) if damaged else ():
            damaged[at] = int(random.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            open_picture(path)
        except InvalidInputError as err:
            assert "a.dcm" in str(err)  # noqa: PT017 (most damage to pixels cannot be told)
