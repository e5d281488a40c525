"""--mask from annotation tools: matched by name, placed like the pictures, refused where they are of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.cli.data import image_folder
from xaikit.cli.masks import read_masks
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.files.pictures import Preparation

H, W = 40, 60
NAMES = ("a/0.png", "a/1.png", "b/0.png", "b/2.png")


def region(k: int) -> tuple[int, int, int, int]:
    """Left, top, width, height of the white square of a picture."""
    return 14 + 6 * k, 6 * k, 12, 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Black pictures with a white square each, two of one name, and their annotations in every format."""
    monkeypatch.chdir(tmp_path)
    images, annotations, cvat = [], [], "<annotations>"
    for k, name in enumerate(NAMES):
        left, top, width, height = region(k)
        pixels = np.zeros((H, W, 3), np.uint8)
        pixels[top : top + height, left : left + width] = 255
        path = Path("set", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        images.append({"id": k, "file_name": f"images/{name}", "height": H, "width": W})
        annotations.append({"image_id": k, "category_id": 1, "bbox": region(k)})
        annotations.append({"image_id": k, "category_id": 2, "bbox": [0, 30, 60, 10]})
        cvat += f'<image name="{name}" width="{W}" height="{H}"><box label="square" xtl="{left}" ytl="{top}"'
        cvat += f' xbr="{left + width}" ybr="{top + height}"/></image>'
        shapes = [{"label": "square", "shape_type": "rectangle", "points": [[left, top], [left + width, top + height]]}]
        write(f"labelme/{name[:-4]}.json", json.dumps({"imageHeight": H, "imageWidth": W, "shapes": shapes}))
        shares = f"0 {(left + width / 2) / W} {(top + height / 2) / H} {width / W} {height / H}\n"
        write(f"yolo/{name[:-4]}.txt", shares)
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "floor"}]
    write("coco.json", json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    write("cvat.xml", cvat + "</annotations>")
    write("yolo/classes.txt", "square\nfloor\n")
    return tmp_path


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def changed(**fields: Any) -> dict[str, Any]:
    return {**json.loads(Path("coco.json").read_text()), **fields}


def shares(mask: str, preparation: Preparation, data: str = "set") -> list[float]:
    """How much of each picture's brightness lies in its mask, and of the mask in the bright part."""
    samples = image_folder(Path(data), preparation, strict=True)
    x = torch.stack([samples.read(i) for i in range(len(samples))])
    order = torch.randperm(len(samples))
    masks = read_masks(Path(mask), (), samples, labels=["square"])
    assert masks is not None
    m = masks.of(order, x[order], len(samples))
    bright = x[order].mean(1)
    return [float((b * v).sum() / max(b.sum(), v.sum())) for b, v in zip(bright, m, strict=True)]


@pytest.mark.parametrize("mask", ["coco.json", "cvat.xml", "labelme", "yolo"])
@pytest.mark.parametrize("size", [None, (40,), (20, 30)])
def test_every_format_goes_the_way_of_its_picture(folder: Path, mask: str, size: tuple[int, ...] | None) -> None:
    preparation = Preparation(size=size, resampling=Image.Resampling.BOX)
    assert min(shares(mask, preparation)) > 0.9


@pytest.mark.parametrize("way", [5, 6, 7, 8])
def test_photographs_on_their_side(folder: Path, way: int) -> None:
    """Some tools show the stored pixels, others the picture turned upright."""
    exif = Image.Exif()
    exif[0x0112] = way
    for name in NAMES:
        with Image.open(f"set/{name}") as image:
            image.save(f"set/{name}", exif=exif)
    assert min(shares("coco.json", Preparation())) > 0.99
    Image.fromarray(np.full((H, W), 255, np.uint8)).save("mask.png")
    samples = image_folder(Path("set"), Preparation())
    image = samples.read(0)[None]
    assert image.shape[2:] == (W, H)
    bright = image[0, 0] > 0.5
    left, top = int(bright.any(0).nonzero()[0]), int(bright.any(1).nonzero()[0])
    width, height = int(bright.any(0).sum()), int(bright.any(1).sum())
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [left, top, width, height]}]
    images = [{"id": k, "file_name": name, "height": W, "width": H} for k, name in enumerate(NAMES)]
    write("upright.json", json.dumps(changed(images=images, annotations=boxes)))
    mask = read_masks(Path("upright.json"), (), samples, labels=["square"])
    assert mask is not None
    assert torch.equal(mask.of(torch.tensor([0]), image, 4)[0] > 0, bright)


def test_beside_the_pictures_in_one_folder(folder: Path) -> None:
    for name in NAMES:
        Path(f"labelme/{name[:-4]}.json").rename(f"set/{name[:-4]}.json")
    assert min(shares("set", Preparation())) > 0.99
    Image.new("L", (W, H)).save("set/a/other.png")
    with pytest.warns(UserWarning, match=r"says nothing of a/other\.png .1 of 5 pictures.; such a picture counts as"):
        assert min(shares("set", Preparation())[:2]) >= 0
    (folder / "masks").mkdir()
    Image.new("L", (W, H)).save("masks/0.png")
    write("masks/1.json", "{}")
    with pytest.raises(InvalidInputError, match=r"holds masks as pictures \(0\.png\) and annotations \(1\.json\)"):
        shares("masks", Preparation())


def test_what_belongs_to_other_pictures(folder: Path) -> None:
    coco = changed()
    for image in coco["images"]:
        image["height"] += 1
    write("other.json", json.dumps(coco))
    with pytest.raises(InvalidInputError, match=r"annotated at 41x60 .height x width., and [ab]/.\.png has 40x60"):
        shares("other.json", Preparation())
    write(
        "alone.json", json.dumps(changed(images=[{**i, "file_name": i["file_name"][9:]} for i in changed()["images"]]))
    )
    with pytest.raises(
        InvalidInputError, match=r"a/0\.png and b/0\.png are both called 0|0\.png .*2 times|0\.png and 0"
    ):
        shares("alone.json", Preparation())
    write("part.json", json.dumps(changed(images=changed()["images"][1:])))
    with pytest.warns(UserWarning, match=r"says nothing of a/0\.png|belong to no image"):
        shares("part.json", Preparation())
    Path("set/a/1.png").unlink()
    with pytest.warns(UserWarning, match=r"images/a/1\.png belongs to no picture"):
        assert min(shares("coco.json", Preparation())) > 0.9
    with (
        pytest.warns(UserWarning, match="belong to no image"),
        pytest.raises(InvalidInputError, match=r"says nothing of a/0\.png .*, and names images/a/1\.png"),
    ):
        shares("part.json", Preparation())
    Path("strange").mkdir()
    Image.new("L", (W, H)).save("strange/z.png")
    with pytest.raises(InvalidInputError, match=r"names none of the 1 pictures, such as z\.png; it has images/a/0"):
        shares("coco.json", Preparation(), "strange")
    with pytest.raises(UnknownNameError, match="--mask-label: .* has no label 'squares'; did you mean 'square'"):
        read_masks(Path("coco.json"), (), image_folder(Path("set"), Preparation()), labels=["squares"])


def test_two_endings_of_one_name(folder: Path) -> None:
    Image.new("L", (W, H)).save("set/a/0.bmp")
    Image.new("L", (W, H)).save("strange.png")
    Path("masks/a").mkdir(parents=True)
    Image.new("L", (W, H)).save("masks/a/0.png")
    with pytest.raises(InvalidInputError, match=r"a/0\.bmp and a/0\.png have one name but for their endings"):
        read_masks(Path("masks"), (), image_folder(Path("set"), Preparation()))


def test_on_the_command_line(folder: Path, leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    write("net.py", "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(2700, 2))\n")
    model = ("--data", "set", "--size", "30", "--model", "net:make", "--quiet")
    metric = ("--metric", "relevance_mass", "--explainer", "gradient_x_input", "--json")
    for mask in ("coco.json", "yolo"):
        assert leave("evaluate", *model, *metric, "--mask", mask, "--mask-label", "square") == 0
        assert json.loads(capsys.readouterr().out)["rows"][0]["mean"] > 0.9
    assert leave("evaluate", *model, *metric, "--mask", "coco.json", "--mask-label", "squares") == 2
    assert "did you mean 'square'" in capsys.readouterr().err
    assert leave("evaluate", *model, *metric, "--mask-label", "square") == 2
    assert "--mask, which is not named" in capsys.readouterr().err
    mend = ("--mask", "coco.json", "--test", "set", "--mitigator", "rrr:n_epochs=1", "--out", "m.pt")
    assert leave("mitigate", *model, *mend) == 0
    np.savez("x.npz", x=np.zeros((2, 3, 30, 30), np.float32))
    assert leave("evaluate", "--data", "x.npz", *model[4:], *metric, "--mask", "coco.json") == 2
    assert "annotations of pictures, which --data must be a folder of" in capsys.readouterr().err


def test_shortcuts_matches_masks_with_the_runs_samples_by_name(
    folder: Path, leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        "net2.py", "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(7200, 2))\n"
    )
    run = ("--model", "net2:make", "--explainer", "gradient_x_input", "--out", "run", "--quiet")
    assert leave("explain", "--data", "set", *run) == 0
    for k, name in enumerate(NAMES):
        left, top, width, height = region(k)
        pixels = np.zeros((H, W), np.uint8)
        pixels[top : top + height, left : left + width] = 255
        Path("masks", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(f"masks/{name[:-4]}_seg.png")
    found = ("shortcuts", "run", "--out", "found", "--no-figure", "--method", "spray:n_clusters=2,n_neighbors=2")
    capsys.readouterr()
    assert leave(*found, "--mask", "masks", "--json") == 0
    assert json.loads(capsys.readouterr().out)["overlap"]["share"] == pytest.approx(1)
    assert leave(*found, "--mask", "coco.json") == 2
    assert "a run holds only the model's inputs" in capsys.readouterr().err
