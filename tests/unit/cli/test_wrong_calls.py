"""A hundred wrong calls over every verb: one sentence with the rule, what came, and a flag or a file to change."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

NETS = """
import torch
from torch import nn

def make(hidden=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 2))

def needs(hidden, depth):
    return nn.Linear(hidden, depth)

def number():
    return 3

def table():
    return nn.Linear(2, 2)

def broken():
    raise KeyError("weights")

class Forward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 2)

    def forward(self, x):
        return {}["logits"]

class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 2)

    def forward(self, x):
        return {"a": self.layer(x.flatten(1)), "b": self.layer(x.flatten(1))}
"""
D, M = "--data x.npz", "--model wrongnets:make"
ONE = f"explain x.npy {M}"
ALL = f"explain {D} {M} --out run"
EVALUATE, MITIGATE, TUNE = f"evaluate {D} {M}", f"mitigate {D} {M} --mask m.npy", f"tune {D} {M} --trials 2"

# The call, and what its message must say.
CALLS: list[tuple[str, tuple[str, ...]]] = [
    # The model.
    ("explain x.npy", ("--model",)),
    ("explain x.npy --model wrongnets", ("module:factory", "'wrongnets'")),
    ("explain x.npy --model wrongnet:make", ("wrongnet", "looked in", "did you mean 'wrongnets'?")),
    ("explain x.npy --model wrongnets:mak", ("'mak'", "did you mean 'make'")),
    ("explain x.npy --model ./wrongnets.py:mak", ("'mak'", "did you mean 'make'")),
    ("explain x.npy --model ./nothing.py:make", ("no such file", "nothing.py")),
    ("explain x.npy --model wrongnets:needs", ("needs hidden, depth", "wrongnets:needs:hidden=...,depth=...")),
    ("explain x.npy --model wrongnets:make:wide=3", ("cannot be made with wide=3",)),
    ("explain x.npy --model wrongnets:number", ("returned int", "torch.nn.Module")),
    ("explain x.npy --model wrongnets:broken", ("your code (wrongnets.py, line", "KeyError: weights")),
    ("explain x.npy --model wrongnets:Forward", ("your code (wrongnets.py, line", "in forward", "KeyError: logits")),
    ("explain x.npy --model wrongnets:Several", ("--head", "'a'", "'b'")),
    ("explain x.npy --model torchvision:resnet81", ("'resnet81'", "did you mean")),
    ("explain x.npy --model hf:nowhere", ("hf:nowhere", "config.json")),
    ("explain x.npy --model hf:code", ("its own code", "--model module:factory")),
    (f"{ONE} --weights none.pt", ("no such file: none.pt",)),
    (f"{ONE} --weights other.pt", ("other.pt do not fit the model", "missing", "unexpected")),
    (f"{ONE} --weights pickled.pt", ("pickled.pt", "any code", "torch.save")),
    (f"{ONE} --weights text.pt", ("text.pt is not a file of weights",)),
    (f"{ONE} --weights nan.pt", ("NaN", "--weights")),
    (f"{ONE} --layer 9", ("no layer '9'",)),
    (f"{ONE} --head b", ("--head b", "one tensor")),
    (f"{ONE} --device cuda:9", ("--device", "cuda:9")),
    (f"{ONE} --device gpu", ("--device", "gpu")),
    # What is explained.
    (f"explain {M}", ("INPUT", "--data")),
    (f"explain x.npy {D} {M}", ("either an INPUT, or --data",)),
    (f"explain none.png {M}", ("no such file: none.png",)),
    (f"explain xx.npy {M}", ("no such file: xx.npy; did you mean 'x.npy'",)),
    (f"explain photos {M}", ("photos is a folder", "--data photos")),
    (f"explain people.csv {M}", ("--row N", "--data people.csv")),
    (f"explain people.csv --row 9 {M} --columns age,hours", ("rows 2 to 4", "--row 9")),
    (f'explain "a fine film" {M}', ("tokenizer", "--tokenizer hf:FOLDER")),
    (f"explain broken.png {M}", ("broken.png is not a readable image",)),
    ("explain x.npy --model whole.pt", ("whole.pt holds weights", "--weights", "mymodel:make")),
    (f"explain words.npy {M}", ("words.npy",)),
    (f"explain flat.npy {M}", ("flat.npy", "samples first", "(N, ...)")),
    (f"explain photo.png {M} --size 9", ("does not take inputs of shape (1, 3, 9, 9)", "--size", "--grey")),
    (f"explain photo.png {M} --size big", ("--size is 224 or 240x320", "'big'")),
    (f"explain photo.png {M} --size 0", ("--size", "'0'")),
    (f"explain photo.png {M} --mean 1,2 --grey", ("--mean", "got 2")),
    (f"explain photo.png {M} --mean imagnet", ("--mean takes numbers", "or 'imagenet'")),
    (f"explain photo.png {M} --std 0 --grey --size 8", ("--std must be positive",)),
    (f"explain photo.png {M} --mean imagenet --grey --size 8", ("--mean", "got 3")),
    (f"{ONE} --target 7", ("7", "--target")),
    (f"{ONE} --target cat", ("--target takes a class", "--classes", "'cat'")),
    (f"{ONE} --target 0,1,0", ("--target", "got 3")),
    (f"{ONE} --target label", ("--target label", "--data")),
    (f"{ONE} --target position:index=1", ("position",)),
    (f"{ONE} --classes a,b,c", ("--classes names 3", "2 outputs")),
    (f"{ONE} --explainer smothgrad", ("'smothgrad'", "did you mean")),
    (f"{ONE} --explainer smoothgrad:n_iters=3", ("n_iters", "did you mean")),
    (f"{ONE} --explainer smoothgrad:n_iter=0", ("n_iter", "0")),
    (f"{ONE} --explainer smoothgrad:n_iter=many", ("n_iter", "many")),
    (f"{ONE} --explainer gradcam", ("convolution", "--explainer gradcam:target_layer=")),
    (f"{ONE} --out result.txt", ("--out must end in .npz or .safetensors", "result.txt")),
    (f"{ONE} --seed -1", ("--seed", "-1")),
    (f"{ONE} --processes 2", ("--processes", "--data")),
    # Data sets.
    (f"explain {D} {M}", ("--out",)),
    (f"explain --data none {M} --out run", ("no such file or folder: none",)),
    (f"explain --data empty {M} --out run", ("empty holds no image",)),
    (f"explain --data notes.txt {M} --out run", ("data is a folder of images", "notes.txt")),
    (f"explain --data wrongnets:data {M} --out run", ("'data'",)),
    (f"explain --data cut.npz {M} --out run", ("cut.npz is not an array",)),
    (f"explain --data noy.npz {M} --out run --target label", ("--target label needs", "--labels")),
    (f"explain --data nox.npz {M} --out run", ("nox.npz must hold the samples as 'x'", "it holds z")),
    (f"explain --data floaty.npz {M} --out run", ("floaty.npz", "y must hold one whole number")),
    ("explain --data people.csv --model wrongnets:table --out run", ("'low' is no number", "--columns", "--one-hot")),
    ("explain --data people.csv --labels riks --model wrongnets:table --out run", ("'riks'", "did you mean 'risk'")),
    (
        "explain --data people.csv --columns age --model wrongnets:table --out run",
        ("does not take", "--columns"),
    ),
    (
        "explain --data gaps.csv --model wrongnets:table --out run",
        ("column 'age'", "1 of 2 values are missing", "row 3"),
    ),
    ("explain --data twice.csv --model wrongnets:table --out run", ("2 columns called 'a'", "rename")),
    ("explain --data comma.csv --model wrongnets:table --out run", ("row 2", "decimal comma")),
    (f"{ALL} --classes no", ("--classes", "2 outputs")),
    (f"{ALL} --text film", ("--text", "x.npz is none")),
    (f"{ALL} --target all", ("--target", "'all'")),
    (f"{ALL} --batch-size 0", ("--batch-size", "0")),
    (f"{ALL} --dtype float8", ("--dtype", "float8", "float16")),
    (f"explain {D} {M} --out full", ("full is not empty",)),
    (f"explain {D} {M} --out notes.txt", ("notes.txt",)),
    (
        f"explain --data many {M} --out run --size 8 --grey --target label",
        ("3 folders of pictures", "--classes"),
    ),
    (f"explain --data halflabels {M} --out run --size 8 --grey", ("no label for", "1 of 2")),
    # Evaluate.
    (f"{EVALUATE} --metric abcp", ("'abcp'", "did you mean")),
    (f"{EVALUATE} --metric abpc --metric abpc", ("--metric abpc is given twice",)),
    (f"{EVALUATE} --metric relevance_mass", ("--mask",)),
    (f"{EVALUATE} --out table.csv", ("--out must end in .json", "table.csv")),
    (f"{EVALUATE} --confidence 2", ("--confidence", "2")),
    (f"{EVALUATE} --limit -3", ("--limit", "-3")),
    (f"{EVALUATE} --postprocess halve", ("'halve'",)),
    (f"{EVALUATE} --metric relevance_mass --mask wide.npy", ("--mask",)),
    (f"{EVALUATE} --metric relevance_mass --mask none.png", ("none.png",)),
    (f"{EVALUATE} --metric relevance_mass --mask two.npy", ("[0, 1]", "save as 1 what is > 0")),
    (f"{EVALUATE} --metric relevance_mass --mask regions.npy", ("[0, 1]", "save as 1 what is == 3 for one")),
    (f"{EVALUATE} --mask m.npy --mask-names age", ("not both",)),
    (f"{EVALUATE} --mask coco.json", ("coco.json", "folder")),
    # Mitigate.
    (f"mitigate {D} {M}", ("--mask", "--mask-names")),
    (f"mitigate --data noy.npz {M} --mask m.npy", ("--data has no labels", "labels.csv")),
    (f"{MITIGATE} --mitigator rr", ("'rr'", "rrr")),
    (f"{MITIGATE} --mitigator rrr:lambda=3", ("lambda", "lambda_rrr")),
    (f"{MITIGATE} --mitigator rrr:n_epochs=0", ("n_epochs", "0")),
    (f"{MITIGATE} --out m.bin", ("--out must end in .pt", "m.bin")),
    (f"{MITIGATE} --assessment m.txt", ("--assessment must end in .json",)),
    (f"{MITIGATE} --seed -2", ("--seed", "-2")),
    (f"{MITIGATE} --explainer nothing", ("'nothing'",)),
    (f"{MITIGATE} --test nothere.npz", ("nothere.npz",)),
    (f"{MITIGATE} --processes 0", ("--processes", "0")),
    # Tune.
    (f"tune {M}", ("INPUT", "--data")),
    (f"{TUNE} --trials 0", ("--trials", "0")),
    (f"{TUNE} --workers 2", ("--storage", "sqlite:///study.db")),
    (f"{TUNE} --resume", ("--resume", "--storage")),
    (f"{TUNE} --sampler best", ("sampler", "best")),
    (f"{TUNE} --pruner best", ("--pruner best", "--batch-size")),
    (f"{TUNE} --storage mysql://x", ("storage", "mysql")),
    (f"{TUNE} --vary nothing", ("nothing", "--vary")),
    (f"{TUNE} --weigh 1,2,3", ("--weigh", "3")),
    (f"{TUNE} --timeout -1", ("--timeout", "-1")),
    # Recommend, shortcuts, report, list, run, doctor.
    (f"recommend {M} --modality pictures", ("pictures", "image")),
    (f"recommend {M}", ("--modality",)),
    (f"recommend {D} {M} --n-samples 0", ("--n-samples", "0")),
    ("shortcuts nowhere", ("no folder nowhere",)),
    ("shortcuts full", ("full holds no run",)),
    ("report", ("name at least one run",)),
    ("report nowhere", ("no folder nowhere",)),
    ("report --evaluation notes.txt", ("notes.txt is not JSON",)),
    ("report --tuning coco.json", ("coco.json is not what xaikit tune wrote",)),
    ("report --assessment coco.json", ("coco.json is not what xaikit mitigate, mend, assess or compare wrote",)),
    ("report --table coco.json", ("coco.json holds no rows",)),
    (f"atlas {D} {M} --channels 0", ("--channels must be >= 1, got 0",)),
    (f"atlas {D} {M} --crops 0", ("--crops must be >= 1, got 0",)),
    (f"atlas {D} {M} --crop 2", ("--crop must be", "got 2")),
    (f"atlas {D} {M} --explainer gradient", ("--explainer lrp_epsilon_plus or attn_lrp", "'gradient'")),
    (f"atlas {D} {M} --layer nope", ("no layer 'nope'", "known are")),
    ("list explaners", ("'explaners'", "did you mean 'explainers'")),
    ("doctor explan", ("'explan'", "did you mean 'explain'")),
    ("run none.yaml", ("no such file: none.yaml",)),
    ("run notes.txt", (".yaml, .toml or .json", "notes.txt")),
    ("run noverb.json", ("noverb.json is no job", "verb")),
    ("run badverb.json", ("no verb 'explan'", "did you mean 'explain'")),
    ("run badfield.json", ("explain has no 'modle'", "did you mean 'model'")),
    ("run evil.json", ("outside this folder", "--trust")),
    ("explian x.npy", ("No such command 'explian'",)),
    ("explain x.npy --modle wrongnets:make", ("No such option", "--modle")),
    (f"{ONE} --row two", ("--row", "integer")),
]
PYTHON = re.compile(r"(?<![-:,.])\b[a-z_]+=(?=[\s,;)]|$)")  # an argument of Python, not a setting of a spec


def make_folder() -> None:
    """What the calls name, in the current folder."""
    Path("wrongnets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    x = rng.random((4, 1, 8, 8), np.float32)
    np.save("x.npy", x[:2])
    np.save("m.npy", np.eye(8, dtype=np.float32))
    np.save("wide.npy", np.ones((3, 9), np.float32))
    np.save("two.npy", np.full((8, 8), 2.0))
    np.save("regions.npy", np.arange(64).reshape(8, 8) % 4)
    np.save("words.npy", np.array(["a"]))
    np.save("flat.npy", np.ones(3))
    np.savez("x.npz", x=x, y=np.arange(4) % 2)
    np.savez("noy.npz", x=x)
    np.savez("nox.npz", z=x)
    np.savez("floaty.npz", x=x, y=np.ones(4))
    Path("cut.npz").write_bytes(Path("x.npz").read_bytes()[:99])
    Path("people.csv").write_text("age,hours,risk\n30,40,low\n50,20,high\n41,35,low\n")
    Path("gaps.csv").write_text("age,hours\n30,40\n,20\n")
    Path("twice.csv").write_text("a,a\n30,40\n")
    Path("comma.csv").write_text("a,b\n1,5,2\n")
    for name in ("notes.txt", "broken.png", "text.pt"):
        Path(name).write_text("no such thing")
    for name in ("photos/a.png", "halflabels/a.png", "halflabels/b.png", *(f"many/{k}/a.png" for k in "abc")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(name)
    Image.open("photos/a.png").save("photo.png")
    Path("halflabels/labels.csv").write_text("file,label\na.png,0\n")
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    Path("code").mkdir()
    Path("code/config.json").write_text(json.dumps({"architectures": ["Mine"], "auto_map": {"AutoModel": "mine.Mine"}}))
    Path("code/model.safetensors").write_bytes(b"")
    Path("coco.json").write_text(json.dumps({"images": [], "annotations": []}))
    jobs = {
        "noverb": {},
        "badverb": {"verb": "explan"},
        "badfield": {"verb": "explain", "modle": "wrongnets:make"},
        "evil": {"verb": "explain", "model": "os:system:command=true", "source": "x.npy"},
    }
    for name, job in jobs.items():
        Path(f"{name}.json").write_text(json.dumps(job))
    state = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2)).state_dict()
    torch.save({"0.weight": torch.ones(2)}, "other.pt")
    torch.save(nn.Linear(2, 2), "pickled.pt")
    torch.save({k: v * float("nan") for k, v in state.items()}, "nan.pt")


def judge(code: object, text: str, fragments: tuple[str, ...]) -> str:
    """What is wrong with a message; nothing where it is right."""
    missing = [fragment for fragment in fragments if fragment.lower() not in text.lower()]
    if code not in (1, 2):
        return f"exit code {code}"
    if "Traceback" in text or missing:
        return f"does not say {missing}"
    if PYTHON.search(text):
        return f"names {PYTHON.search(text)}"
    lines = [line for line in text.splitlines() if not line.startswith("xaikit: note:")]
    if len([line for line in lines if line.startswith("xaikit:")]) > 1:
        return "several sentences"
    return ""


@pytest.mark.parametrize(("call", "fragments"), CALLS, ids=[call for call, _ in CALLS])
def test_a_wrong_call_is_told(
    call: str,
    fragments: tuple[str, ...],
    leave: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    wrong_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "hf:code" in call:  # which classes transformers has, only transformers knows
        pytest.importorskip("transformers", reason="transformers is not installed (the extra test has it)")
    monkeypatch.chdir(wrong_folder)
    code = leave(*shlex.split(call))
    problem = judge(code, capsys.readouterr().err, fragments)
    assert not problem, problem


@pytest.fixture(scope="session")
def wrong_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_folder()
    return folder
