"""--target in every verb that takes one: classes, words, every registered target; wrong ones before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.cli.targets import read_target
from xaikit.core import TARGETS
from xaikit.core.errors import InvalidInputError
from xaikit.core.spec_strings import target_text
from xaikit.runs import load_run

NETS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 3)

    def forward(self, x):
        return {"start": self.a(x), "end": self.b(x)}

def seeded(make):
    torch.manual_seed(0)
    return make().eval()

def maps():
    return seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)))

def tokens():
    return seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6)))

def two():
    return seeded(Two)

def classes():
    return seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
"""
SHAPES = {"maps": (6, 1, 8, 8), "tokens": (6, 5, 4), "two": (6, 4), "classes": (6, 4)}
HEADS = 'heads:of={"start": 3, "end": 1}'
QUICK = ("--explainer", "gradient_x_input", "--quiet")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets of several outputs and a few samples of each, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("targetnets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        np.save(f"{name}.npy", rng.random(shape, np.float32))


def on(net: str) -> tuple[str, ...]:
    return ("--data", f"{net}.npy", "--model", f"./targetnets.py:{net}")


def outputs(net: str) -> torch.Tensor:
    scope: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NETS, scope)  # noqa: S102
    with torch.no_grad():
        returned: torch.Tensor = scope[net]()(torch.from_numpy(np.load(f"{net}.npy")))
    return returned


def expected(net: str, target: str) -> torch.Tensor:
    """The scores by plain torch."""
    z = outputs(net)
    by_target = {
        "region:class_=1": lambda: z[:, 1].flatten(1).sum(1),
        "region:class_=2,mask=left.png": lambda: z[:, 2, :, :3].flatten(1).sum(1),
        "position:position=-1,index=5": lambda: z[:, -1, 5],
        "probability:of=(position:position=-1,index=5)": lambda: z[:, -1].softmax(1)[:, 5],
        HEADS: lambda: z["start"][:, 3] + z["end"][:, 1],  # type: ignore[call-overload]
        "contrast:for_=2,against=0": lambda: z[:, 2] - z[:, 0],
        "probability:of=1": lambda: z.softmax(1)[:, 1],
        "log_probability:of=1": lambda: z.log_softmax(1)[:, 1],
        "class:index=2": lambda: z[:, 2],
        "high": lambda: z[:, 2],
    }
    return by_target[target]()


ASKED = [
    ("maps", "region:class_=1"),
    ("maps", "region:class_=2,mask=left.png"),
    ("tokens", "position:position=-1,index=5"),
    ("tokens", "probability:of=(position:position=-1,index=5)"),
    ("two", HEADS),
    ("classes", "contrast:for_=2,against=0"),
    ("classes", "probability:of=1"),
    ("classes", "log_probability:of=1"),
    ("classes", "class:index=2"),
    ("classes", "high"),
]
DAILY = (ASKED[1], ASKED[3], ASKED[5])  # a file, a target in a target, settings


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("net", "target"), [pytest.param(*a, marks=[pytest.mark.nightly] * (a not in DAILY)) for a in ASKED]
)
def test_a_data_set_is_explained_for_a_target(leave: Callable[..., int], net: str, target: str) -> None:
    Image.fromarray(np.tile(np.where(np.arange(8) < 3, 255, 0).astype(np.uint8), (8, 1))).save("left.png")
    names = ("--classes", "low,middle,high") if target == "high" else ()
    assert leave("explain", *on(net), *QUICK, "--target", target, *names, "--out", "run") == 0
    run = load_run("run")
    scores = torch.tensor([sample.score for sample in run])
    assert torch.allclose(scores, expected(net, target), atol=1e-5)
    assert leave("explain", *on(net), *QUICK, "--target", target, *names, "--out", "run") == 0  # goes on, nothing to do
    assert leave("report", "run", "--quiet") == 0


def test_every_registered_target_is_tried() -> None:
    assert {text.partition(":")[0] for _, text in ASKED} - {"high"} == set(TARGETS)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("net", "target"), [ASKED[0], ASKED[2], ASKED[3]])
def test_targets_in_the_other_verbs(leave: Callable[..., int], net: str, target: str) -> None:
    head = ("--head", "start") if net == "two" else ()
    assert leave("explain", f"{net}.npy", *on(net)[2:], *QUICK, "--target", target, "--no-figure", *head) == 0
    assert leave("evaluate", *on(net), *QUICK, "--target", target, "--out", "table.json") == 0
    assert json.loads(Path("table.json").read_text())["rows"][0]["mean"] is not None
    short = ("--trials", "2", "--no-figure", "--explainer", "vargrad:n_iter=2", "--quiet")
    assert leave("tune", *on(net), *short, "--target", target) == 0
    assert leave("recommend", *on(net), *QUICK, "--seconds", "5", "--target", target, *head) == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("verb", ["explain", "evaluate", "recommend", "tune"])
@pytest.mark.parametrize(
    ("net", "target", "message"),
    [
        ("classes", "77", "--target must lie in 0..2 for a model with 3 outputs, got 77"),
        ("classes", "contrast:for_=1,against=77", "must lie in 0..2"),
        ("classes", "positon:index=1", "did you mean 'position'"),
        ("maps", "", "say what is explained, --target region:class_=1"),
        ("tokens", "2", "say what is explained, --target position:position=-1,index=5"),
        ("maps", "region:class_=3", "must lie in 0..2"),
        ("maps", "region:class_=1,mask=none.png", "none.png"),
        ("two", 'heads:of={"start": 9}', "must lie in 0..4"),
    ],
)
def test_a_target_that_the_model_lacks_is_refused_before_any_work(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str], verb: str, net: str, target: str, message: str
) -> None:
    out = {"explain": ("--out", "run"), "evaluate": ("--out", "new.json"), "tune": ("--out", "new.json")}.get(verb, ())
    assert leave(verb, *on(net), *QUICK, "--target", target, *out) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()
    assert not Path("new.json").exists()


def test_one_class_for_each_sample_is_for_input_alone() -> None:
    assert read_target("3, 1", per_sample=True) == [3, 1]
    with pytest.raises(InvalidInputError, match="one for all samples"):
        read_target("3,1")


@pytest.mark.parametrize("text", ["position:position=-1,index=5", HEADS, "contrast:for_=3,against=5"])
def test_a_target_is_written_as_it_was_read(text: str) -> None:
    assert target_text(read_target(text).spec()) == text


@pytest.mark.usefixtures("here")
def test_a_class_of_an_output_of_positions_names_the_flag_and_a_layers_input_is_a_layer(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("explain", *on("tokens"), *QUICK, "--target", "class:index=1", "--out", "run") == 2
    assert "say what is explained, --target position:position=-1,index=5" in capsys.readouterr().err
    for explainer in ("gradient_x_input", "integrated_gradients:n_steps=3"):
        chosen = ("--explainer", explainer, "--layer", "2.input", "--target", "1", "--out", explainer[:8])
        assert leave("explain", *on("classes"), *chosen, "--quiet") == 0
        assert load_run(explainer[:8])[0].values.shape == (8,)
