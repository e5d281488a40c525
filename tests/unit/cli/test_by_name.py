"""Names of the user's classes, columns, words and model settings, from the data to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from xaikit import SpRAy
from xaikit.cli import hugging_face
from xaikit.cli.data import ClassNames
from xaikit.cli.hugging_face import classes_of, image_settings
from xaikit.cli.inputs import IMAGENET, read_batch
from xaikit.cli.masks import NamedMasks
from xaikit.cli.models import load_model
from xaikit.cli.options import preparation
from xaikit.cli.run_maps import read_maps
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.runs import load_run

NETS = """
import torch
from torch import Tensor, nn

def table(hidden=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)
        with torch.no_grad():
            self.embedding.weight[7] = torch.tensor([0.0, 0, 9, 0])  # one word decides

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))
"""
PEOPLE = ("--data", "people.csv", "--labels", "risk", "--classes", "low,high", "--model", "namednets:table")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table whose second column is the label, and texts in which word 7 decides."""
    monkeypatch.chdir(tmp_path)
    Path("namednets.py").write_text(NETS)
    draw = np.random.default_rng(0)
    stamp = draw.integers(0, 2, 60)
    rows = [
        f"{a:.3f},{2 * s - 1},{b:.3f},{('low', 'high')[s]}"
        for a, b, s in zip(*draw.normal(size=(2, 60)), stamp, strict=True)
    ]
    Path("people.csv").write_text("age,stamp,priors,risk\n" + "\n".join(rows) + "\n")
    ids = draw.integers(1, 7, (12, 6))
    ids[np.arange(12), draw.integers(0, 6, 12)] = 7
    np.savez("texts.npz", x=ids, y=np.arange(12) % 2)
    return tmp_path


def test_a_table_by_the_names_of_its_columns_and_classes(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("mitigate", *PEOPLE, "--mask-names", "age,priors", "--out", "m.pt", "--quiet", "--mitigator",
                 "rrr:n_epochs=30,lr=1e-2,batch_size=16,output=logit,lambda_rrr=1") == 0  # fmt: skip
    told = json.loads(Path("m.json").read_text())
    assert told["after"]["mass"]["gradient"] < 0.5 * told["before"]["mass"]["gradient"]
    assert set(told["before"]["groups"]["kept"]) == {"low", "high"}  # the worst group is told by its name
    assert leave("report", "--assessment", "m.json", "--out", "mended.html") == 0
    assert "<td>high</td>" in Path("mended.html").read_text()
    model = ("--weights", "m.pt")
    assert leave("explain", *PEOPLE, *model, "--explainer", "gradient_x_input", "--out", "run", "--quiet") == 0
    run = load_run("run")
    assert run.display_names == {"classes": ["low", "high"], "features": ["age", "stamp", "priors"]}
    assert sum(row["label"] == row["predicted"] for row in run.rows()) > 55  # in the given order, not the alphabet's
    capsys.readouterr()
    assert leave("shortcuts", "run", "--mask-names", "stamp", "--out", "found", "--method", "spray:n_clusters=2") == 0
    assert "looks at stamp" in capsys.readouterr().out
    overlap = json.loads(Path("found/shortcuts.json").read_text())["overlap"]
    assert overlap["share"] > 2 * overlap["expected"]
    assert leave("report", "run", "--out", "r.html") == 0
    assert "stamp = 1" in Path("r.html").read_text()
    table = ("--metric", "relevance_mass", "--explainer", "gradient_x_input", "--mask-names", "stamp", "--quiet")
    assert leave("evaluate", *PEOPLE, *model, *table) == 0
    assert json.loads(Path("table.json").read_text())["rows"][0]["mean"] > 0.6


def test_token_ids_are_explained_at_the_embedding_and_compared_by_word(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("--data", "texts.npz", "--model", "namednets:Reader", "--quiet")
    assert leave("explain", *call, "--explainer", "gradient_x_input", "--target", "0", "--out", "run") == 0
    run = load_run("run")
    assert run[0].values.shape == (6, 4)
    about = read_maps(run, None, pictures=False)
    assert about.vocabulary is not None
    seven = about.vocabulary.tolist().index(7)
    for row, sample in zip(about.maps, run, strict=True):  # a word's relevance wherever it stands
        expected = sample.values.sum(1)[sample.inputs == 7].abs().sum()
        assert row[seven] == pytest.approx(float(expected), rel=1e-6)
    assert leave("shortcuts", "run", "--mask-names", "7", "--out", "found", "--cluster", "0", "--method",
                 "spray:n_clusters=2") == 0  # fmt: skip
    assert "looks at 7" in capsys.readouterr().out
    assert np.load("found/mask-0.npy").shape == (12, 6)
    assert leave("evaluate", *call, "--explainer", "gradient_x_input", "--metric", "sparseness") == 0
    assert leave("explain", "texts.npy", "--model", "namednets:Reader") == 2
    found = NamedMasks(["b"], type("Data", (), {"ids": lambda names: [7]}))
    ids = run[0].inputs[None]
    assert found.of(torch.tensor([0]), ids, 12).equal((ids == 7).float())


def test_a_job_that_fails_at_once_leaves_the_folder_to_another(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("explain", *PEOPLE, "--layer", "9", "--out", "run", "--quiet") == 2
    assert leave("explain", *PEOPLE, "--explainer", "gradient", "--out", "run", "--quiet") == 0
    capsys.readouterr()
    assert leave("explain", *PEOPLE, "--explainer", "vargrad", "--out", "run", "--quiet") == 2
    assert "holds another job" in capsys.readouterr().err


def test_names_that_are_not_there(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for change, said in {
        ("--mask-names", "stamps"): "no column 'stamps'; did you mean 'stamp'",
        ("--mask-names", "stamp", "--mask", "m.npy"): "not both",
        ("--classes", "low,highest", "--mask-names", "stamp"): "the label 'high' is none of --classes",
        ("--model", "namednets:table:width=3", "--mask-names", "stamp"): "cannot be made with width=3",
    }.items():
        assert leave("mitigate", *PEOPLE, "--quiet", *change) == 2
        assert said in capsys.readouterr().err
    assert leave("mitigate", "--data", "texts.npz", "--model", "namednets:Reader", "--mask-names", "b") == 2
    assert "takes columns of a table, or tokens" in capsys.readouterr().err


def test_classes_in_the_order_of_the_model() -> None:
    assert ClassNames().of(["b", "a", "b"]) == ([1, 0, 1], ["a", "b"])
    assert ClassNames(from_user=("b", "a")).of(["b", "a"]) == ([0, 1], ("b", "a"))
    assert ClassNames(from_model=("b", "a", "c")).of(["a", "b"]) == ([1, 0], ("b", "a", "c"))
    assert ClassNames(from_model=("x", "y")).of(["a", "b"]) == ([0, 1], ["a", "b"])  # other words than the model's
    assert ClassNames(from_user=("no", "yes")).of(["1", "0"]) == ([1, 0], ("no", "yes"))
    with pytest.raises(UnknownNameError, match="is none of --classes"):
        ClassNames(from_user=("a",)).of(["b"])


def test_a_model_is_made_with_settings() -> None:
    assert load_model("namednets:table:hidden=5")[0].out_features == 5  # type: ignore[index]
    with pytest.raises(InvalidInputError, match="cannot be made with"):
        load_model("namednets:table:wide=5")


def test_images_as_the_models_makers_prepare_them() -> None:
    usual = preparation("torchvision:resnet18", "", False, "", "")
    assert (usual.size, usual.mean, usual.std) == ((224,), *IMAGENET)
    assert preparation("torchvision:resnet18", "32", False, "0.5", "").mean == (0.5,)
    Path("vit").mkdir()
    told = {"size": {"height": 32, "width": 48}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    Path("vit/preprocessor_config.json").write_text(json.dumps(told))
    found = preparation("hf:vit", "", False, "", "")
    assert (found.size, found.mean, found.std) == ((32, 48), (0.5,) * 3, (0.25,) * 3)
    told = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_normalize": False}
    Path("vit/preprocessor_config.json").write_text(json.dumps({**told, "do_center_crop": True}))
    assert image_settings("hf:vit") == {"size": (32,), "crop": 0.8}
    assert image_settings("hf:nowhere") == {}


@pytest.mark.slow
def test_timm_images_as_timm_prepares_them() -> None:
    found = preparation("timm:vit_tiny_patch16_224:img_size=64,num_classes=2", "", False, "", "")
    assert (found.size, found.mean) == ((64,), (0.5, 0.5, 0.5))
    assert preparation("timm:resnet18", "", False, "", "").mean == IMAGENET[0]
    assert preparation("timm:resnet18", "64", False, "", "").crop == 1  # the user's own size is that of the whole


def _timm_way() -> Callable[[Image.Image], Tensor]:
    import_torchvision()
    timm = pytest.importorskip("timm")
    told = timm.get_pretrained_cfg("resnet18").to_dict()
    return timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=told))


def _torchvision_way(name: str) -> Callable[[Image.Image], Tensor]:
    return import_torchvision().models.get_model_weights(name).DEFAULT.transforms()


@pytest.mark.slow
@pytest.mark.parametrize("side", [(300, 300), (260, 391)])
@pytest.mark.parametrize(
    ("model", "way", "size"),
    [
        ("timm:resnet18", _timm_way, 224),
        ("torchvision:resnet18", lambda: _torchvision_way("resnet18"), 224),
        ("torchvision:resnet50:num_classes=3", lambda: _torchvision_way("resnet50"), 224),
        ("torchvision:efficientnet_b1", lambda: _torchvision_way("efficientnet_b1"), 240),
        ("torchvision:swin_v2_t", lambda: _torchvision_way("swin_v2_t"), 256),
    ],
)
def test_an_image_is_cut_as_the_makers_cut_it(model, way, size, side: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*side, 3), dtype=np.uint8))
    picture.resize((side[1] // 8, side[0] // 8)).resize((side[1], side[0])).save("blobs.png")
    found = read_batch(Path("blobs.png"), preparation(model, "", False, "", ""))[0][0]
    assert found.shape == (3, size, size)
    with Image.open("blobs.png") as picture:
        assert float((found - way()(picture)).abs().mean()) < 0.01  # of pixels with std 1; one pixel off is 0.1


def test_a_model_of_torchvision_that_is_no_classifier() -> None:
    assert preparation("torchvision:fcn_resnet50", "", False, "", "").size == (224,)
    assert preparation("torchvision:nothing", "", False, "", "").size == (224,)  # told when it is loaded


def test_padding_gets_no_attention_and_classes_have_names() -> None:
    class Attends(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return attention_mask

    model = Attends()
    ids = torch.tensor([[5, 3, 0, 0]])
    hook = hugging_face.functools.partial(hugging_face._hide_padding, 0)
    model.register_forward_pre_hook(hook, with_kwargs=True)
    assert model(ids).tolist() == model(input_ids=ids).tolist() == [[1, 1, 0, 0]]
    assert model(ids, attention_mask=ids).equal(ids)  # what the caller gives stays
    assert model(ids.float()) is None
    Path("bert").mkdir()
    for names, expected in {("bad", "good"): ["bad", "good"], ("LABEL_0", "LABEL_1"): ()}.items():
        Path("bert/config.json").write_text(json.dumps({"id2label": {str(i): n for i, n in enumerate(names)}}))
        assert classes_of("hf:bert") == expected


def test_columns_of_a_table_are_not_averaged_with_their_neighbours() -> None:
    values = torch.rand(20, 100)
    found = SpRAy(n_clusters=2)(values)
    assert found.maps.shape == (20, 100)
    assert SpRAy(n_clusters=2)(values[:, None]).maps.shape[1] < 33  # a series is
