"""`xaikit explain` against the library called directly, and what it says to a wrong call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.cli import main
from xaikit.cli.demo_digits import make_network
from xaikit.core import Attribution
from xaikit.explainers import IntegratedGradients, VarGrad

NETWORK = "xaikit.cli.demo_digits:make_network"
SERIES = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 1))
"""


@pytest.fixture
def digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """An image in the current folder, and the model's input that it stands for."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    Image.fromarray(pixels).save("digit.png")
    return torch.tensor(pixels / 255, dtype=torch.float32)[None, None]


def leave(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main.run(["explain", *arguments])
    return int(left.value.code or 0)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_the_same_attribution_as_the_library(
    digit: torch.Tensor, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(make_network(seed=5).state_dict(), "weights.pt")
    call = ["digit.png", "--grey", "--model", NETWORK, "--weights", "weights.pt", "--target", "3"]
    assert leave(*call, "--explainer", "vargrad:n_iter=7", "--seed", "2", "--out", f"new/map.{suffix}") == 0
    saved = Attribution.load(f"new/map.{suffix}")
    expected = VarGrad(make_network(seed=5), n_iter=7).explain(digit, 3, seed=2)
    assert torch.equal(saved.values, expected.values)
    assert saved.spec == expected.spec
    assert torch.equal(saved.scores, expected.scores)
    with Image.open("new/map.png") as figure:
        assert min(figure.size) > 100
    score = make_network(seed=5)(digit)[0, 3].item()
    assert f"class 3, score {score:.4g}\nwrote new/map.{suffix}, new/map.png" in capsys.readouterr().out


def test_defaults(digit: torch.Tensor) -> None:
    """The predicted class; integrated gradients; names after the input; normalised as asked."""
    assert leave("digit.png", "--grey", "--model", NETWORK, "--mean", "0.5", "--std", "0.25", "--no-figure") == 0
    model, inputs = make_network(), (digit - 0.5) / 0.25
    saved = Attribution.load("digit.integrated_gradients.npz")
    predicted = model(inputs).argmax(1)
    assert saved.targets == predicted.tolist()
    assert torch.equal(saved.values, IntegratedGradients(model).attribute(inputs, predicted))
    assert not list(Path.cwd().glob("digit.integrated_gradients.png"))


def test_a_layer(digit: torch.Tensor) -> None:
    assert leave("digit.png", "--grey", "--model", NETWORK, "--layer", "3", "--out", "map.npz") == 0
    assert Attribution.load("map.npz").values.shape == (1, 32, 6, 6)
    assert Path("map.png").exists()


@pytest.mark.usefixtures("digit")
def test_a_batch_of_series_and_a_single_output() -> None:
    Path("series_factory.py").write_text(SERIES)
    np.save("x.npy", np.random.default_rng(0).normal(size=(12, 2, 10)))
    assert leave("x.npy", "--model", "series_factory:make", "--explainer", "gradient") == 0
    saved = Attribution.load("x.gradient.npz")
    assert saved.values.shape == (12, 2, 10)
    assert saved.targets is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.png"], 2, "no such file: absent.png"),
        (["digit.png", "--out", "map.txt"], 2, "--out must end in .npz or .safetensors, got 'map.txt'"),
        (["digit.png", "--explainer", "vargrat"], 2, "unknown explainer 'vargrat'; did you mean 'vargrad'"),
        (["digit.png", "--explainer", "vargrad:n_iter=0"], 2, "VarGrad.n_iter must be >= 1, got 0"),
        (["digit.png"], 2, "does not take inputs of shape (1, 3, 12, 12)"),
        (["digit.png", "--grey", "--target", "10"], 2, "--target must lie in 0..9"),
        (["digit.png", "--grey", "--target", "one"], 2, "--target takes a class"),
        (["digit.png", "--grey", "--size", "big"], 2, "--size is 224 or 240x320"),
        (["digit.png", "--grey", "--size", "1x2x3"], 2, "--size is 224 or 240x320"),
        (
            ["digit.png", "--grey", "--mean", "imagenet"],
            2,
            "--mean takes one number or one for each channel (1), got 3",
        ),
        (["digit.png", "--grey", "--layer", "nine"], 2, "no layer 'nine'"),
        (["digit.png", "--grey", "--device", "abacus"], 2, "--device abacus cannot be used here"),
        (["digit.png", "--grey", "--explainer", "gradient", "--out", "digit.png/map.npz"], 1, "digit.png: "),
    ],
)
@pytest.mark.usefixtures("digit")
def test_a_wrong_call_is_told_in_one_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(*arguments, "--model", NETWORK) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.startswith("xaikit: ")
    assert shown.count("\n") == 1


@pytest.mark.nightly
@pytest.mark.usefixtures("digit")
def test_a_torchvision_model_in_a_process_of_its_own() -> None:
    """ImageNet's size and statistics by default; random weights are said to be so."""
    code = "from xaikit.cli.main import run; run()"
    arguments = [
        "explain",
        "digit.png",
        "--model",
        "torchvision:squeezenet1_1",
        "--explainer",
        "gradient",
        "--target",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == (
        "xaikit: note: torchvision:squeezenet1_1 has random weights; pass --weights to explain a trained model"
    )
    assert Attribution.load("digit.gradient.npz").values.shape == (1, 3, 224, 224)


def test_each_example_of_the_help_stands_on_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("explain", "--help") == 0
    shown = capsys.readouterr().out
    assert "\\b" not in shown
    assert "\b" not in shown
    assert sum(line.strip().startswith("xaikit explain ") for line in shown.splitlines()) == 8


def test_classes_name_what_is_printed_and_drawn(digit: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"kind{k}" for k in range(10)]
    call = ["digit.png", "--grey", "--model", NETWORK, "--target", "3", "--explainer", "gradient"]
    assert leave(*call, "--classes", ",".join(names)) == 0
    shares = make_network().eval()(digit)[0].softmax(0).sort(descending=True)
    first, second = (f"{k} kind{k} ({100 * v:.1f} %)" for v, k in zip(*(t[:2].tolist() for t in shares), strict=True))
    out = capsys.readouterr().out
    assert f"predicted {first}, then {second}; class 3 kind3, score" in out
    assert leave(*call, "--classes", "a,b") == 2
    assert "--classes names 2 classes, and the model has 10 outputs" in capsys.readouterr().err
    assert leave(*call[:5], "3,1,2") == 2
    assert "--target takes one class for all samples, or one for each of 1, got 3" in capsys.readouterr().err


def test_a_model_that_computes_nan_is_told(digit: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    state = make_network().state_dict()
    next(iter(state.values())).view(-1)[0] = float("nan")
    torch.save(state, "w.pt")
    assert leave("digit.png", "--grey", "--model", NETWORK, "--weights", "w.pt") == 1
    assert "the model gives NaN or infinite numbers" in capsys.readouterr().err
    assert not list(Path().glob("*.npz"))
