"""Files of annotation tools, against a plain loop over pixels and against pictures of the same regions."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xaikit import load_masks
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.files.annotations import read_annotations
from xaikit.files.annotations.regions import Bitmap, box, ellipse, polygon

H, W = 20, 30
SQUARE = np.zeros((H, W), np.float32)
SQUARE[4:10, 5:17] = 1
CORNER = np.zeros((H, W), np.float32)
CORNER[:3, 26:] = 1


def inside(points: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule for one place, edge by edge."""
    odd = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@pytest.mark.parametrize("seed", range(6))
def test_a_polygon_covers_the_pixels_whose_centres_lie_inside(seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-8, 38, (3 + seed, 2))
    mask = np.zeros((H, W), np.bool_)
    polygon(points.tolist()).draw_on(mask)
    expected = [[inside(points, x + 0.5, y + 0.5) for x in range(W)] for y in range(H)]
    assert np.array_equal(mask, expected)
    assert 0 < mask.sum() < H * W


def test_turned_boxes_ellipses_and_bitmaps_over_the_edge() -> None:
    mask = np.zeros((H, W), np.bool_)
    ellipse((15, 10), (8, 4)).draw_on(mask)
    y, x = np.mgrid[:H, :W] + 0.5
    assert np.array_equal(mask, ((x - 15) / 8) ** 2 + ((y - 10) / 4) ** 2 <= 1)
    quarter = np.zeros((H, W), np.bool_)
    box(12, 4, 18, 16, 90).draw_on(quarter)  # turned about (15, 10): 12 wide, 6 high
    assert quarter.sum() == 72
    assert quarter[7:13, 9:21].all()
    one_eighth = np.zeros((H, W), np.bool_)
    box(10, 5, 20, 15, 45).draw_on(one_eighth)
    assert one_eighth[10, 9]
    assert not one_eighth[5, 10]
    edge = np.zeros((4, 4), np.bool_)
    Bitmap(np.ones((3, 3), np.bool_), left=-1, top=2).draw_on(edge)
    assert edge.sum() == 4
    assert edge[2:, :2].all()
    Bitmap(np.ones((3, 3), np.bool_), left=9, top=-9).draw_on(edge)
    assert edge.sum() == 4


def coco(segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": H, "width": W}],
        "categories": [{"id": 1, "name": "ruler"}, {"id": 2, "name": "patch"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "segmentation": segmentation, "bbox": [5, 4, 12, 6]},
            {"image_id": 7, "category_id": 2, "segmentation": [], "bbox": [26, 0, 4, 3]},
        ],
        **fields,
    }


def packed(counts: list[int]) -> str:
    """Run lengths as COCO's own tools pack them, written from their description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
            text += chr(48 + (bits | 32 if more else bits))
    return text


def runs(mask: np.ndarray) -> list[int]:
    lengths, value = [0], 0.0
    for pixel in mask.reshape(-1):
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


FORMS = {
    "polygon": [[5, 4, 17, 4, 17, 10, 5, 10]],
    "runs": {"size": [H, W], "counts": runs(SQUARE.T)},
    "packed runs": {"size": [H, W], "counts": packed(runs(SQUARE.T))},
    "box": [],
}


@pytest.mark.parametrize("form", FORMS)
def test_coco(tmp_path: Path, form: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco(FORMS[form])))
    assert np.array_equal(load_masks(path), [np.maximum(SQUARE, CORNER)])
    assert np.array_equal(load_masks(path, labels=["ruler"]), [SQUARE])
    with pytest.raises(UnknownNameError, match=r"no label 'rulers'; did you mean 'ruler'"):
        load_masks(path, labels=["rulers"])


def labelme(**fields: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray((CORNER[:3, 26:] * 255).astype(np.uint8)).save(buffer, "PNG")
    drawn = {"label": "patch", "shape_type": "mask", "points": [[26, 0], [29, 2]]}
    return {
        "imagePath": "a.png",
        "imageHeight": H,
        "imageWidth": W,
        "shapes": [
            {"label": "ruler", "shape_type": "rectangle", "points": [[17, 10], [5, 4]]},
            {"label": "ruler", "points": [[5, 4], [17, 4], [17, 10], [5, 10]]},
            {**drawn, "mask": base64.b64encode(buffer.getvalue()).decode()},
        ],
        **fields,
    }


def test_labelme(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(labelme()))
    assert np.array_equal(load_masks(tmp_path / "a.json"), np.maximum(SQUARE, CORNER))
    assert np.array_equal(load_masks(tmp_path, labels=["ruler"]), [SQUARE, SQUARE])
    circle = {"label": "c", "shape_type": "circle", "points": [[10, 10], [10, 14]]}
    line = {"label": "l", "shape_type": "line", "points": [[0, 0], [4, 4]]}
    (tmp_path / "a.json").write_text(json.dumps(labelme(shapes=[circle, line])))
    with pytest.warns(UserWarning, match="a shape of type line has no area"):
        assert load_masks(tmp_path / "a.json").sum() == pytest.approx(np.pi * 16, abs=4)


CVAT = f"""<?xml version="1.0"?><annotations>
<meta><job><labels><label><name>nothing</name></label></labels></job></meta>
<image id="0" name="a.png" width="{W}" height="{H}">
<box label="ruler" xtl="5" ytl="4" xbr="17" ybr="10" z_order="0"/>
<polygon label="ruler" points="5.0,4.0;17.0,4.0;17.0,10.0;5.0,10.0"/>
<mask label="patch" rle="0, 12" left="26" top="0" width="4" height="3"/>
</image></annotations>"""


def test_cvat(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT)
    assert np.array_equal(load_masks(path), [np.maximum(SQUARE, CORNER)])
    assert np.array_equal(load_masks(path, labels=["patch"]), [CORNER])
    assert load_masks(path, labels=["nothing"]).sum() == 0
    path.write_text(CVAT.replace("<image", '<ellipse cx="1"/><track/><image', 1))
    with pytest.raises(InvalidInputError, match="tracks of a video"):
        load_masks(path)


def test_yolo(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ruler\npatch\n")
    text = f"0 {11 / W} {7 / H} {12 / W} {6 / H}\n1 {26 / W} 0 1 0 1 {3 / H} {26 / W} {3 / H}\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "empty.txt").write_text("")
    assert np.array_equal(load_masks(tmp_path / "a.txt", size=(H, W)), np.maximum(SQUARE, CORNER))
    assert np.array_equal(load_masks(tmp_path, size=(H, W), labels=["patch"]), [CORNER, 0 * CORNER])
    with pytest.raises(InvalidInputError, match="does not say; pass size="):
        load_masks(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text("names:\n  0: ruler\n  1: patch\n")
    assert read_annotations(tmp_path / "a.txt").labels == ["patch", "ruler"]
    (tmp_path / "data.yaml").unlink()
    assert np.array_equal(load_masks(tmp_path / "a.txt", size=(H, W), labels=[1]), CORNER)


def test_index_pictures_and_arrays_by_number(tmp_path: Path) -> None:
    classes = (SQUARE * 3 + CORNER * 7).astype(np.uint8)
    palette = Image.fromarray(classes).copy()
    palette = Image.frombytes("P", (W, H), classes.tobytes())
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(classes).save(tmp_path / "grey.png")
    Image.fromarray(classes.astype(np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "array.npy", classes)
    for name in ("palette.png", "grey.png", "deep.png", "array.npy"):
        assert np.array_equal(load_masks(tmp_path / name, labels=[3]), SQUARE), name
        assert np.array_equal(load_masks(tmp_path / name, labels=["3", "7"]), np.maximum(SQUARE, CORNER)), name
    Image.fromarray(np.stack([classes] * 3, 2)).save(tmp_path / "colours.png")
    with pytest.raises(InvalidInputError, match="has colours"):
        load_masks(tmp_path / "colours.png", labels=[3])
    with pytest.raises(InvalidInputError, match="has numbers as labels, got 'ruler'"):
        load_masks(tmp_path / "grey.png", labels=["ruler"])


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><annotations>&b;</annotations>'
)
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xml", BOMB, r"a\.xml declares a document type"),
        ("a.xml", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "declares a document type"),
        ("a.xml", "<annotations>", r"a\.xml is not XML"),
        ("a.xml", "<annotation><filename>a</filename></annotation>", "begins with <annotation>"),
        ("a.xml", CVAT.replace("xtl", "left", 1), "box xtl must be a number, got 'None'"),
        ("a.xml", CVAT.replace('rle="0, 12"', 'rle="0, 99999999999"'), "do not add up to 3x4"),
        ("a.json", DEEP, r"a\.json is not JSON"),
        ("a.json", "[]", "'images' and 'annotations', LabelMe has 'shapes'"),
        ("a.json", json.dumps(coco([[1, 2, 3]])), "x and y in turn"),
        ("a.json", json.dumps(coco([[1, 2, 3, 4]])), "three pairs"),
        ("a.json", json.dumps(coco({"size": [H, W], "counts": "z~"})), "which packed run lengths do not have"),
        ("a.json", json.dumps(coco({"size": [10**6, 10**6], "counts": [10**12]})), "no picture has"),
        ("a.json", json.dumps(coco([], annotations=[{"image_id": 7}])), "needs 'bbox'"),
        ("a.json", json.dumps(coco([], images=[{"id": 1}])), "needs 'height'"),
        ("a.json", json.dumps(labelme(imageHeight=None)), "height must be a number"),
        ("a.json", json.dumps(labelme(shapes=[3])), "needs 'points'"),
        ("a.json", json.dumps(labelme(shapes=[{"shape_type": "star", "points": []}])), "'star' is not known"),
        ("a.txt", "0 1 2\n", "line 1: a line of YOLO is"),
        ("a.txt", "0 100 200 30 40\n", "YOLO has shares of the picture"),
        ("a.txt", "ruler 0.1 0.2 0.3 0.4\n", "must be a number, got 'ruler'"),
    ],
)
def test_what_cannot_be_right(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=said):
        load_masks(tmp_path / name, size=(H, W))


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": H + i, "width": W} for i in range(2)]
    (tmp_path / "a.json").write_text(json.dumps(coco([], images=images, annotations=[])))
    with pytest.raises(InvalidInputError, match="20x30 of 0.png, 21x30 of 1.png"):
        load_masks(tmp_path / "a.json")
