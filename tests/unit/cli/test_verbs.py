"""evaluate, recommend, shortcuts: against the library called directly, from job files, and wrong calls."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xaikit
from xaikit.cli.demo_digits import make_network
from xaikit.metrics import Evaluation
from xaikit.runs import load_run
from xaikit.shortcuts import ConceptAtlas, SpRAy, concept_atlas, make_masks, mask_overlap

NETWORK = "xaikit.cli.demo_digits:make_network"
DATA = ("--data", "d.npz", "--model", NETWORK, "--weights", "w.pt")
VERBS: dict[str, tuple[str, ...]] = {
    "evaluate": ("--explainer", "gradient", "--quiet"),
    "recommend": ("--explainer", "gradient", "--seconds", "5"),
    "mitigate": ("--mask", "m.npy", "--quiet", "--mitigator", "rrr:n_epochs=1"),
}


pytestmark = pytest.mark.usefixtures("samples")


# ---------------------------------------------------------------------- evaluate


def test_evaluate_gives_the_librarys_table(
    leave: Callable[..., int], samples: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--explainer", "gradient", "--explainer", "vargrad:n_iter=3", "--metric", "abpc", "--target", "label")
    assert leave("evaluate", *DATA, *arguments, "--batch-size", "8", "--out", "new/t.json", "--quiet") == 0
    shown = capsys.readouterr().out
    found = Evaluation.load("new/t.json")
    x, y = samples
    batches = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    expected = xaikit.evaluate(["gradient", "vargrad:n_iter=3"], "abpc", batches, model=make_network(), progress=False)
    assert [(r.explainer, r.values) for r in found] == [(r.explainer, r.values) for r in expected]
    assert str(expected) in shown
    assert shown.endswith("wrote new/t.json\n")


def test_evaluate_takes_the_predicted_class_masks_and_a_limit(
    leave: Callable[..., int], samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    asked = ("--metric", "relevance_mass", "--mask", "m.npy", "--limit", "5", "--explainer", "gradient", "--quiet")
    assert leave("evaluate", *DATA, *asked, "--save-job", "job.yaml") == 0
    assert not Path("table.json").exists()
    assert leave("run", "job.yaml") == 0
    x = samples[0][[0, 4, 8, 12, 16]].requires_grad_()
    output = make_network()(x)
    (gradient,) = torch.autograd.grad(output.max(1).values.sum(), x)
    size = gradient.clamp_min(0)[:, 0]
    expected = size[:, :3, :3].sum((1, 2)) / size.sum((1, 2))
    assert Evaluation.load("table.json")["gradient", "relevance_mass"].values == pytest.approx(expected.tolist())


def test_an_explainer_that_fails_leaves_its_reason_and_exit_code_1(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(xaikit.VarGrad, "_attribute", fail)
    arguments = ("--explainer", "vargrad", "--explainer", "gradient", "--quiet", "--json")
    assert leave("evaluate", *DATA, *arguments) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["error"] for row in rows] == ["RuntimeError: it broke", None]


# ---------------------------------------------------------------------- atlas


def test_an_atlas_is_the_librarys(
    leave: Callable[..., int], samples: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--target", "label", "--channels", "3", "--crops", "2", "--batch-size", "8", "--quiet")
    assert leave("atlas", *DATA, *options) == 0
    shown = capsys.readouterr().out
    layer = [name for name, module in make_network().named_modules() if isinstance(module, torch.nn.Conv2d)][-1]
    explainer = xaikit.LRPEpsilonPlus(make_network())
    expected = concept_atlas(explainer, samples, layer=layer, n_channels=3, n_samples=2, progress=False)
    atlas = ConceptAtlas.load("atlas.npz")
    assert (atlas.channels, atlas.samples.tolist()) == (expected.channels, expected.samples.tolist())
    assert torch.allclose(atlas.maps, expected.maps, atol=1e-5)
    numbers = ", ".join(map(str, expected.samples[0].tolist()))
    assert f"channel {expected.channels[0]} ({100 * expected.shares[0]:.1f} %): samples {numbers}; class" in shown
    assert shown.endswith("wrote atlas.npz, atlas.png\n")
    # The predicted class, a part of the data: the numbers are those of the data.
    assert leave("atlas", *DATA, "--limit", "5", "--layer", layer, "--no-figure", "--quiet", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert {i for channel in content["channels"] for i in channel["samples"]} == {0, 4, 8, 12, 16}
    assert leave("atlas", *DATA, "--layer", "nowhere", "--quiet") == 2
    assert "nowhere" in capsys.readouterr().err
    assert leave("atlas", *DATA, "--explainer", "gradient") == 2
    assert "needs LRP, such as --explainer lrp_epsilon_plus" in capsys.readouterr().err


# ---------------------------------------------------------------------- recommend


def test_recommend_ranks_as_the_library_does(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model", NETWORK, "--weights", "w.pt", "--modality", "image", "--differentiable", "--out", "rec.json")
    assert leave("recommend", *flags) == 0
    expected = xaikit.recommend(make_network(), "image", differentiable=True)
    assert capsys.readouterr().out == f"{expected!r}\nwrote rec.json\n"
    assert json.loads(Path("rec.json").read_text()) == json.loads(expected.to_json())


def test_recommend_measures_where_there_are_samples(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--explainer", "gradient", "--explainer", "gradient_x_input", "--n-samples", "4", "--json")
    assert leave("recommend", *DATA, *asked, "--save-job", "job.toml") == 0
    capsys.readouterr()
    assert leave("run", "job.toml") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "abpc"
    assert sorted(item["name"] for item in found["candidates"]) == ["gradient", "gradient_x_input"]
    assert all(item["value"] is not None for item in found["candidates"])


def test_recommend_needs_a_modality_or_data(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("recommend", "--model", NETWORK) == 2
    assert "name --modality, one of" in capsys.readouterr().err
    assert leave("recommend", "--model", NETWORK, "--modality", "imag") == 2
    assert "did you mean 'image'" in capsys.readouterr().err


# ---------------------------------------------------------------------- shortcuts

CORNER = """
import torch
from torch import nn

class Net(nn.Module):
    '''Looks at the corner where that is bright, else at the middle.'''

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        bright = (x[:, 0, 0, 0] > 1).float()
        corner, middle = x[:, 0, :2, :2].sum((1, 2)), x[:, 0, 3:6, 3:6].sum((1, 2))
        score = self.scale * (bright * corner + (1 - bright) * middle)
        return torch.stack([score, -score], 1)

def make():
    return Net()
"""


def make_run(leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A run over 30 samples, of which the listed ones are seen by their corner."""
    Path(f"{name}.py").write_text(CORNER)
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    bright = list(range(20, 30))
    x[bright, :, 0, 0] = 2
    np.savez("c.npz", x=x.numpy(), y=np.arange(30) % 2)
    call = ("--data", "c.npz", "--model", f"{name}:make", "--explainer", "gradient_x_input", "--target", "0")
    assert leave("explain", *call, "--out", "run", "--quiet") == 0
    return bright


def test_shortcuts_finds_the_cluster_and_its_mask(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bright = make_run(leave, monkeypatch, "corner_one")
    known = np.zeros((8, 8), np.float32)
    known[:2, :2] = 1
    np.save("corner.npy", known)
    capsys.readouterr()
    flags = ("shortcuts", "run", "--method", "spray:n_clusters=2", "--cluster", "1", "--mask", "corner.npy", "--json")
    assert leave(*flags, "--out", "found") == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(s["index"] for s in told["clusters"][1]["samples"]) == bright
    assert told["overlap"]["share_by_cluster"] == pytest.approx([0.0, 1.0])
    predicted = [s.predicted for s in load_run("run")]
    counts = {str(predicted[i]): sum(predicted[j] == predicted[i] for j in bright) for i in bright}
    assert told["clusters"][1]["predicted"] == counts
    assert leave("report", "--clusters", "found/shortcuts.json", "--out", "clusters.html") == 0
    page = Path("clusters.html").read_text()
    assert ", ".join(f"{k} ({n})" for k, n in told["clusters"][1]["predicted"].items()) in page
    assert "a scan finds it" in page
    Path("other.json").write_text("{}")
    assert leave("report", "--clusters", "other.json") == 2
    assert "holds no clusters" in capsys.readouterr().err
    values = torch.stack([s.values for s in load_run("run")])
    clusters, overlap = SpRAy(n_clusters=2)(values), mask_overlap(values, torch.from_numpy(known))
    assert told["overlap"]["p_value"] == overlap.p_value
    mask = torch.from_numpy(np.load("found/mask-1.npy"))
    assert torch.equal(mask, make_masks(values, clusters.samples(1))[bright[0]])
    assert set(mask.nonzero().unique().tolist()) <= {0, 1}
    assert {p.name for p in Path("found").iterdir()} == {"shortcuts.json", "clusters.png", "mask-1.npy"}
    # The same folder again, now with a mask for each sample.
    assert leave(*flags, "--out", "found", "--per-sample", "--no-figure") == 0
    masks = np.load("found/mask-1.npy")
    assert masks.shape == (30, 8, 8)
    assert sorted(set(np.nonzero(masks)[0].tolist())) == bright


def test_shortcuts_of_one_class_and_from_a_job_file(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(leave, monkeypatch, "corner_two")
    flags = ("shortcuts", "run", "--of-class", "1", "--method", "spray:n_clusters=2", "--no-figure", "--out", "found")
    assert leave(*flags, "--save-job", "job.json") == 0
    assert leave("run", "job.json") == 0
    found = json.loads(Path("found/shortcuts.json").read_text())
    assert sorted(s["index"] for c in found["clusters"] for s in c["samples"]) == list(range(1, 30, 2))
    assert "cluster 1: 5 samples" in capsys.readouterr().out


def damage(folder: str) -> None:
    shard = next((Path(folder) / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:100])


@pytest.mark.parametrize(
    ("arguments", "prepare", "words"),
    [
        (["nowhere"], None, "there is no folder nowhere"),
        (["run", "--method", "kmeans"], None, "--method is spray:key=value, got 'kmeans'"),
        (["run", "--method", "spray:clusters=2"], None, "did you mean"),
        (["run", "--cluster", "9", "--method", "spray:n_clusters=2"], None, "in 0..1, got 9"),
        (["run", "--of-class", "7"], None, "clusters need at least 3 samples, run holds 0 of class 7"),
        (
            ["run", "--mask", "wide.npy"],
            lambda: np.save("wide.npy", np.eye(8, 12)),
            "a map of (8, 12) is no scaled one of (8, 8)",
        ),
        (["run", "--mask", "none.png"], None, "there is no mask file none.png"),
        (
            ["run", "--threshold", "2", "--cluster", "0", "--method", "spray:n_clusters=2"],
            None,
            "--threshold is a share",
        ),
        (["run", "--per-sample"], None, "--per-sample is about the mask of a cluster; name one, --cluster K"),
        (["run"], lambda: damage("run"), "is damaged"),
        (["run", "--out", "mine"], lambda: (Path("mine").mkdir(), Path("mine/a").touch()), "mine is not empty"),
        (["run", "--out", "w.pt"], None, "--out w.pt is a file"),
    ],
)
def test_a_wrong_call_of_shortcuts(
    leave: Callable[..., int],
    arguments: list[str],
    prepare: Callable[[], object] | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(leave, monkeypatch, "corner_three")
    if prepare is not None:
        prepare()
    assert leave("shortcuts", *arguments) == 2
    assert words in capsys.readouterr().err


# ---------------------------------------------------------------------- what every one of them refuses


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--data": "nowhere"}, "no such file or folder: nowhere"),
        ({"--data": "two.csv", "--labels": "outcome"}, "two.csv has no column 'outcome'; did you mean 'outcom'"),
        ({"--data": "w.pt"}, "data is a folder of images, a .npy or .npz, a table (.csv"),
        ({"--data": "mixed", "--grey": ""}, "bring them to one size"),
        ({"--weights": "code.pt"}, "loading that could run any code"),
        ({"--weights": "few.pt"}, "do not fit the model (missing: "),
        ({"--model": "nowhere:make"}, "cannot import 'nowhere'"),
        ({"--device": "warp"}, "--device warp cannot be used here"),
        ({"--data": "module_of_none:data"}, "cannot import 'module_of_none' for a data set"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    leave: Callable[..., int], verb: str, changes: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("two.csv").write_text("outcom,a\n1,2\n")
    Path("mixed").mkdir()
    for i, side in enumerate((12, 13)):
        Image.fromarray(np.full((side, side), 100, np.uint8)).save(f"mixed/{i}.png")
    Path("mixed/labels.csv").write_text("file,label\n0.png,0\n1.png,1\n")
    Path("code.pt").write_bytes(pickle.dumps(Path.cwd, protocol=2))
    torch.save({"0.weight": torch.zeros(1)}, "few.pt")
    options = dict(zip(DATA[::2], DATA[1::2], strict=True)) | changes
    arguments = [part for pair in options.items() for part in pair if part]
    assert leave(verb, *arguments, *VERBS[verb]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize("verb", VERBS)
def test_an_unreadable_image_is_skipped_named_and_told(
    leave: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (6, 12, 12), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(f"images/{i}.png")
    Path("images/3.png").write_text("no image")
    rows = "".join(f"{i}.png,{i % 2}\n" for i in range(6))
    Path("images/labels.csv").write_text(f"file,label\n{rows}")
    arguments = (verb, "--data", "images", "--grey", *DATA[2:], *VERBS[verb])
    assert leave(*arguments) == 1
    error = capsys.readouterr().err
    assert "3.png is not a readable image" in error
    assert "1 of 6 samples were skipped" in error
    assert leave(*arguments, "--strict") == 2
    assert "3.png is not a readable image" in capsys.readouterr().err


def test_data_is_asked_for(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("evaluate", "mitigate"):
        assert leave(verb, "--model", NETWORK, *VERBS[verb]) == 2
        assert "--data is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--explainer", "gradiant"], "unknown explainer 'gradiant'; did you mean 'gradient'"),
        (["--metric", "abcp"], "unknown metric 'abcp'; did you mean 'abpc'"),
        (["--metric", "abpc", "--metric", "abpc"], "--metric abpc is given twice"),
        (["--metric", "relevance_mass"], "--metric relevance_mass compares with a region: name it by --mask"),
        (["--target", "cat"], "--target takes a class (3, one for all samples), a word of"),
        (["--target", "77"], "--target must lie in 0..9"),
        (["--out", "table.csv"], "--out must end in .json, got 'table.csv'"),
        (["--batch-size", "0"], "--batch-size must be >= 1"),
        (["--limit", "-1"], "--limit must be >= 0"),
        (["--confidence", "95"], "confidence must be > 0 and < 1"),
    ],
)
def test_a_wrong_call_of_evaluate(
    leave: Callable[..., int], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = leave("evaluate", *DATA, "--quiet", *arguments)
    shown = capsys.readouterr()
    assert words in shown.err + shown.out
    assert code == 2
