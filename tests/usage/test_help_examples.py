"""Every example in a verb's help runs, as it stands there, in a folder that holds what it names."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.language import small_models
from xaikit import AttnLRP
from xaikit.cli import main
from xaikit.cli.job import JOBS
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.language import explain_generation

# Added at the end, where the last of two wins: enough to see that an example runs.
SHORTER = {
    "explain": ("--explainer", "gradient_x_input"),
    "mend": ("--epochs", "1"),
    "mitigate": ("--mitigator", "rrr:n_epochs=1"),
    "recommend": ("--seconds", "2"),
    "tune": ("--trials", "3"),
}
FEWER = {"--limit": "2", "--workers": "1"}  # tests/unit/cli/test_tune.py starts workers
NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential({layers}).eval()
"""
IMAGES = "nn.Conv2d({}, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10)"
N = 80


def examples(verb: str) -> list[str]:
    lines = (inspect.getdoc(JOBS[verb]) or "").partition("Examples:")[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


def leave(line: str) -> int:
    command, verb, *arguments = shlex.split(line)
    assert command == "xaikit"
    small = ("--size", "64") if "resnet18" in line and "--modality" not in line else ()
    small += tuple(word for option, few in FEWER.items() if option in arguments for word in (option, few))
    with pytest.raises(SystemExit) as left:
        main.run([verb, *arguments, *SHORTER.get(verb, ()), *small])
    return int(left.value.code or 0)


def images(folder: str, side: int) -> None:
    Path(folder).mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, side, side, 3), np.uint8)):
        Image.fromarray(pixels).save(f"{folder}/{i}.png")
    Path(f"{folder}/labels.csv").write_text("file,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(6)))


def reader(folder: str) -> None:
    """A Hugging Face model with its tokenizer."""
    import_torchvision()
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
    Path("vocabulary.txt").write_text("\n".join(words))
    BertTokenizer(vocab="vocabulary.txt").save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)


def writer(folder: str) -> None:
    """A language model with its tokenizer."""
    import_torchvision()
    small_models.llama().save_pretrained(folder)
    small_models.byte_level().save_pretrained(folder)


def named() -> None:
    """What the examples name, in the current folder."""
    rng = np.random.default_rng(0)
    x, y = rng.random((N, 1, 12, 12), np.float32), np.arange(N) % 4
    x[np.arange(N) % 8 < 4, :, :3, :3] += 5  # half of each class is seen by its corner: something to find
    for name in ("digits", "test"):
        np.savez(f"{name}.npz", x=x, y=y)
    np.save("digits.npy", x[:4])
    np.save("labels.npy", y[:4])
    Path("classes.txt").write_text("\n".join(f"animal {i}" for i in range(10)))
    reader("bert")
    writer("story")
    images("photos", 70)
    images("skin", 24)
    shutil.copy("photos/0.png", "cat.jpg")
    Image.fromarray((x[0, 0] * 255).astype(np.uint8)).save("digit.png")
    Path("people.csv").write_text("age,hours,outcome\n30,40,0\n50,20,1\n41,35,0\n")
    for name, layers in {"mynet": IMAGES.format(1), "skinnet": IMAGES.format(3), "people": "nn.Linear(2, 2)"}.items():
        Path(f"{name}.py").write_text(NETWORK.format(layers=layers))
    scope: dict[str, Any] = {}
    exec(Path("mynet.py").read_text(), scope)  # noqa: S102
    for file in ("w.pt", "mended.pt"):
        torch.save(scope["make"]().state_dict(), file)
    torch.save(import_torchvision().models.resnet18(weights=None).state_dict(), "resnet18.pt")
    mask = np.zeros((12, 12), np.uint8)
    mask[:3, :3] = 255
    for folder in ("rulers", "found"):
        Path(folder).mkdir()
    for name in ("ruler", "corner", *(f"rulers/{i}" for i in range(6))):
        Image.fromarray(mask).resize((24, 24) if "rulers" in name else (12, 12), Image.Resampling.NEAREST).save(
            f"{name}.png"
        )
    np.save("found/mask-1.npy", mask / np.float32(255))


def results() -> None:
    """What the verbs write that others read."""
    data = "--data digits.npz --model mynet:make --quiet"
    for run in ("run", "run-lrp", "run-vargrad"):
        assert leave(f"xaikit explain {data} --out {run}") == 0
    assert leave(f"xaikit evaluate {data} --explainer gradient") == 0
    assert leave(f"xaikit recommend {data} --explainer gradient --out recommended.json") == 0
    explain_generation(AttnLRP(small_models.llama()), None, [3, 4], generated=[5]).save("answer.npz")
    assert leave("xaikit tune digits.npy --model mynet:make --explainer vargrad --no-figure --quiet") == 0
    assert leave(f"xaikit mitigate {data} --mask corner.png") == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("named")
    with contextlib.chdir(folder):
        named()
    return folder


@pytest.fixture(scope="module")
def results_too(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with what the verbs write that others read."""
    folder = tmp_path_factory.mktemp("results") / "all"
    shutil.copytree(files, folder)
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results()
        shutil.rmtree("found")
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize("verb", sorted(set(JOBS) - {"demo", "studio"}))  # they have tests of their own
def test_the_examples_of_a_verb_run(
    verb: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = "results_too" if verb in ("report", "shortcuts", "summary") else "files"
    shutil.copytree(request.getfixturevalue(folder), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("mynet", "skinnet", "people"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    lines = examples(verb)
    assert lines
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are said to be so
        for line in lines:
            assert leave(line) == 0, line
