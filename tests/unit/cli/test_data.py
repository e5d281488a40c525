"""Whole data sets on the command line: explained, resumed, reported, refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xaikit.cli.data import array, image_folder, open_data
from xaikit.cli.demo_digits import make_network
from xaikit.cli.inputs import Preparation
from xaikit.cli.mask_matching import files_of
from xaikit.cli.samples import Samples
from xaikit.cli.table_data import TableOptions
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.explainers import Gradient
from xaikit.runs import load_run

NETWORK = "xaikit.cli.demo_digits:make_network"


def table(path: str, **options: Any) -> Samples:
    return open_data(path, Preparation(), options=TableOptions(**options))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images in a folder and a folder below it."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.bmp", "more/d.png", "more/e.png", "more/f.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 12), np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


EXPLAIN = ["explain", "--data", "photos", "--model", NETWORK, "--grey", "--explainer", "gradient", "--out", "run"]


def test_a_folder_of_images(leave: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(*EXPLAIN, "--quiet") == 0
    assert "6 samples explained in run" in capsys.readouterr().out
    run = load_run("run")
    assert [s.name for s in run] == ["a.png", "b.png", "c.bmp", "more/d.png", "more/e.png", "more/f.png"]
    x = torch.stack([s.inputs for s in run])
    assert torch.equal(x[0, 0], torch.from_numpy(np.array(Image.open(photos / "a.png"), dtype=np.float32) / 255))
    model = make_network()
    expected = Gradient(model).attribute(x, model(x).argmax(1))
    assert torch.allclose(torch.stack([s.values for s in run]), expected, atol=1e-6)
    assert leave(*EXPLAIN, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out) == {
        "explained": 6,
        "skipped": 0,
        "missing": 0,
        "run": "run",
        "written": [],
    }
    assert leave(*EXPLAIN, "--seed", "1", "--quiet") == 2
    assert "seed: 0 there, 1 here" in capsys.readouterr().err


def test_labels_beside_the_images(leave: Callable[..., int], photos: Path) -> None:
    with pytest.warns(UserWarning, match=r"without labels: 3 pictures lie in folders, and 3 beside .* such as a\.png"):
        names = [s for s in image_folder(photos, Preparation(grey=True)).names]
    (photos / "labels.csv").write_text(
        "file,label\n" + "".join(f"{n},{'dog' if i % 2 else 'cat'}\n" for i, n in enumerate(names))
    )
    samples = image_folder(photos, Preparation(grey=True))
    assert samples.classes == ["cat", "dog"]
    assert [samples[i][1] for i in range(6)] == [0, 1, 0, 1, 0, 1]
    assert leave(*EXPLAIN, "--target", "label", "--quiet") == 2  # two words for ten outputs
    classes = "a,b,dog,d,e,f,g,cat,i,j"
    assert leave(*EXPLAIN, "--target", "label", "--quiet", "--classes", classes) == 0
    assert [s.target for s in load_run("run")] == [7, 2, 7, 2, 7, 2]
    (photos / "labels.csv").write_text("file,label\na.png,cat\n")
    with pytest.raises(InvalidInputError, match=r"no label for 'b\.png' \(5 of 6 images\)"):
        image_folder(photos, Preparation())


@pytest.mark.filterwarnings("default:without labels")  # a note to the user
def test_what_systems_put_beside_the_pictures_is_no_picture(
    leave: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = photos.with_name("classes")
    for name in ("cat/A.PNG", "dog/b.png", ".thumbnails/b.png", "dog/.ipynb_checkpoints/b.png", "dog/._b.png"):
        (classes / name).parent.mkdir(parents=True, exist_ok=True)
        (classes / name).write_bytes((photos / "a.png").read_bytes())
    (classes / "__MACOSX").mkdir()
    (classes / "__MACOSX" / "b.png").write_bytes(b"no picture")
    samples = image_folder(classes, Preparation(grey=True))
    assert samples.names == ["cat/A.PNG", "dog/b.png"]
    assert (list(samples.labels), samples.classes) == ([0, 1], ["cat", "dog"])
    call = ["explain", "--data", "classes", "--model", NETWORK, "--grey", "--explainer", "gradient", "--out", "other"]
    assert leave(*call) == 0  # two folders, ten outputs
    assert "the folders' names are not taken for classes: there are 2 folders" in capsys.readouterr().err


def test_names_with_accents_and_labels_as_spreadsheets_write_them(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    for on_disk, in_table in ((composed, apart), (apart, composed)):
        folder = tmp_path / str(in_table == apart)
        folder.mkdir()
        for name in (on_disk, "b.png", "c.png"):
            Image.new("L", (4, 4)).save(folder / name)
        labels = folder / "labels.csv"
        labels.write_text(f"file,label\n{in_table},2.0\nb.png,1.0\nc.png,0\n", encoding="utf-8")
        samples = image_folder(folder, Preparation())
        assert dict(zip(samples.names, samples.labels, strict=True)) == {on_disk: 2, "b.png": 1, "c.png": 0}
        labels.write_text(f"file,label\n{in_table},cat\nb.png,dog\nc.png, \n", encoding="utf-8")
        with pytest.raises(InvalidInputError, match=r"labels\.csv has no label for 'c\.png' \(1 of 3 images\)"):
            image_folder(folder, Preparation())
        masks = tmp_path / f"masks of {in_table == apart}"
        masks.mkdir()
        for name in (in_table, "b.png", "c.png"):
            Image.new("L", (4, 4), 255).save(masks / name)
        assert {f.name for f in files_of(masks, samples.names, is_file=True)} == {in_table, "b.png", "c.png"}


def test_an_unreadable_image_is_named_and_left_out(
    leave: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "c.bmp").write_bytes(b"nothing")
    assert leave(*EXPLAIN, "--quiet") == 1
    told = capsys.readouterr()
    assert "c.bmp is not a readable image" in told.err
    assert "5 samples explained in run, 1 skipped" in told.out
    assert leave(*EXPLAIN, "--strict", "--quiet", "--out", "other") == 2
    assert "c.bmp" in capsys.readouterr().err


def test_images_of_mixed_sizes_need_a_size(
    leave: Callable[..., int], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (20, 10)).save(photos / "g.png")
    assert leave(*EXPLAIN, "--quiet") == 2
    assert "bring them to one size" in capsys.readouterr().err
    assert leave(*EXPLAIN, "--size", "12", "--quiet", "--out", "sized") == 0


def test_arrays(leave: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = np.random.default_rng(0).random((5, 1, 12, 12)), np.arange(5)
    np.save("x.npy", x)
    np.savez("xy.npz", x=x, y=y)
    assert torch.equal(array(Path("x.npy"))[3], torch.from_numpy(x[3].astype(np.float32)))
    assert array(Path("xy.npz"))[3][1] == 3
    call = ["explain", "--data", "xy.npz", "--model", NETWORK, "--target", "label", "--out", "run", "--quiet"]
    assert leave(*call) == 0
    assert [s.label for s in load_run("run")] == [0, 1, 2, 3, 4]
    np.savez("odd.npz", a=x)
    np.savez("float.npz", x=x, y=y / 2)
    Path("text.npy").write_text("no")
    for name, said in {
        "odd.npz": "must hold the samples as 'x'",
        "float.npz": "whole number for each of 5",
        "text.npy": "not an array",
    }.items():
        with pytest.raises(InvalidInputError, match=said):
            array(Path(name))


TABLE = "age,sex,priors,outcome\n31,0,2,no\n52,1,0,yes\n40,1,1,no\n"
MAKE = "from torch import nn\nimport torch\ntorch.manual_seed(0)\nnet = nn.Linear(3, 2)\n"


def test_a_table(
    leave: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text(TABLE)
    Path("tablenet.py").write_text(MAKE)
    samples = table("people.csv", labels="outcome")
    assert list(samples.features) == ["age", "sex", "priors"]
    assert samples[1][0].tolist() == [52, 1, 0]
    assert (samples.classes, samples[1][1]) == (["no", "yes"], 1)
    call = ["explain", "--data", "people.csv", "--labels", "outcome", "--model", "tablenet:net", "--quiet"]
    assert leave(*call, "--explainer", "gradient_x_input", "--out", "run") == 0
    assert leave("report", "run", "--features", "age,sex,priors", "--classes", "no,yes", "--out", "r.html") == 0
    assert "priors = 2" in Path("r.html").read_text()
    capsys.readouterr()
    assert leave(*call, "--labels", "outcom", "--out", "other") == 2
    assert "no column 'outcom'; did you mean 'outcome'" in capsys.readouterr().err
    with pytest.raises(InvalidInputError, match=r"row 2, column 'outcome': 'no' is no number"):
        table("people.csv")
    with pytest.raises(UnknownNameError, match="no column 'height'"):
        table("people.csv", labels="outcome", columns=["height"])
    Path("people.csv").write_text("a,b\n1\n")
    with pytest.raises(InvalidInputError, match="row 2: 1 values for 2 columns"):
        table("people.csv")


def test_texts_need_a_tokenizer_and_a_model_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reviews.csv").write_text("review,label\ngood film,1\n")
    with pytest.raises(InvalidInputError, match="hf:FOLDER"):
        table("reviews.csv", text="review")


@pytest.mark.slow
def test_a_hugging_face_folder_with_its_tokenizer(
    leave: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    from xaikit.core.torchvision_ops import import_torchvision

    import_torchvision()
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "very"]
    Path("vocabulary.txt").write_text("\n".join(words))
    BertTokenizer(vocab="vocabulary.txt").save_pretrained("bert")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForSequenceClassification(config).save_pretrained("bert")
    Path("reviews.csv").write_text("review,label\na very good film,1\na bad film,0\n")
    call = ["explain", "--data", "reviews.csv", "--text", "review", "--labels", "label", "--length", "6"]
    call += ["--model", "hf:bert", "--layer", "bert.embeddings.word_embeddings", "--quiet"]
    assert leave(*call, "--explainer", "gradient_x_input", "--out", "run") == 0
    run = load_run("run")
    assert run[0].name == "a very good film"
    assert run[0].inputs.tolist()[:6] == [2, 5, 9, 6, 8, 3]
    assert run[0].values.shape == (6, 16)
    assert leave("report", "run", "--tokenizer", "hf:bert", "--out", "r.html") == 0
    assert ">good</span>" in Path("r.html").read_text()
    for path in Path("bert").glob("*.safetensors"):
        path.unlink()
    capsys.readouterr()
    assert leave(*call, "--out", "other") == 2
    assert "holds no .safetensors weights" in capsys.readouterr().err
    assert leave("explain", "x.npy", "--model", "hf:nowhere") == 2


def test_a_dataset_of_ones_own(leave: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owndata.py").write_text("import torch\nrows = [(torch.rand(1, 12, 12), i % 3) for i in range(4)]\n")
    call = [
        "explain",
        "--data",
        "owndata:rows",
        "--model",
        NETWORK,
        "--explainer",
        "gradient",
        "--out",
        "run",
        "--quiet",
    ]
    assert leave(*call) == 0
    assert [s.label for s in load_run("run")] == [0, 1, 2, 0]
    for name, error in {
        "owndata:row": UnknownNameError,
        "nodata:rows": UnknownNameError,
        "x.txt": InvalidInputError,
    }.items():
        with pytest.raises(error):
            open_data(name, Preparation())


@pytest.mark.usefixtures("photos")
def test_wrong_calls(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for change, said in {
        ("--data", "empty"): "holds no image",
        ("--data", "nowhere"): "no such file or folder",
        ("--target", "3,1"): "a class (3, one for all samples)",
        ("--dtype", "int4"): "dtype must be one of",
        ("--out", "photos"): "is not empty and holds no run",
    }.items():
        assert leave(*EXPLAIN, "--quiet", *change) == 2
        assert said in capsys.readouterr().err
    assert leave("explain", "--model", NETWORK) == 2
    assert "either an INPUT, or --data" in capsys.readouterr().err
    assert leave("report", "empty") == 2
    assert "holds no run" in capsys.readouterr().err


def test_two_processes_share_the_command(
    leave: Callable[..., int], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del photos
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setitem(os.environ, "RANK", rank)
        assert leave(*EXPLAIN, "--quiet") == 0
    assert load_run("run").missing == []


def test_a_timm_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from xaikit.cli.models import load_model

    with pytest.warns(UserWarning, match="random weights"):
        model = load_model("timm:resnet10t")
    assert isinstance(model, nn.Module)
    with pytest.raises(UnknownNameError, match="timm has no model 'resnet10tt'; did you mean"):
        load_model("timm:resnet10tt")
