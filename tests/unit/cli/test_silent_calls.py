"""Calls that went wrong in silence: options that nothing reads, words and settings that stand twice, stale labels."""

from __future__ import annotations

import json
import os
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
    return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 2))

def one():
    return nn.Linear(2, 1)

def table():
    return nn.Linear(2, 2)

def leaves():
    raise SystemExit(4)

class Total(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 2)

    def forward(self, x):
        return self.layer(x.flatten(1)).sum()

def data():
    return [(torch.full((1, 4, 4), i / 4), i % 2) for i in range(4)]

def fed(path):
    return data()
"""
M = "--model silentnets:make --weights w.pt"
X = f"--data x.npz {M}"
RUN = f"explain {X} --explainer gradient --out"
COMPARE = "compare --model silentnets:make --mask m.npy --weights a=w.pt"
REPEATED, IDLE, FILES, CODE, FOUND, LABELS = ["repeated", "idle", "files", "code", "found", "labels"]

# What it is about, the call, and what its message must say.
CALLS: list[tuple[str, str, tuple[str, ...]]] = [
    (REPEATED, f"explain x.npy {M} --explainer smoothgrad:n_iter=3,n_iter=4", ("'n_iter' twice", "smoothgrad")),
    (REPEATED, "explain x.npy --model silentnets:make:hidden=3,hidden=4", ("'hidden' twice",)),
    (REPEATED, f"evaluate {X} --explainer gradient --metric abpc:n_steps=2,n_steps=3", ("'n_steps' twice",)),
    (REPEATED, f"explain x.npy {M} --classes a,a", ("--classes", "'a' twice")),
    (REPEATED, f"explain --data photos {M} --size 4 --grey --classes cat,dog,cat --out q", ("'cat' twice",)),
    (REPEATED, f"tune x.npy {M} --explainer smoothgrad --trials 1 --classes a,a", ("--classes", "'a' twice")),
    (REPEATED, "run twice.yaml", ("twice.yaml", "'verb' stands there twice")),
    (REPEATED, "run twice.json", ("twice.json", "'seed' stands there twice")),
    (IDLE, f"explain x.npy {M} --mean imagenet", ("--mean prepares images", "x.npy")),
    (IDLE, f"{RUN} q --size 8", ("--size prepares images", "x.npz")),
    (IDLE, f"evaluate {X} --explainer gradient --std 0.2", ("--std prepares images",)),
    (IDLE, f"mend {X} --mask m.npy --grey", ("--grey prepares images",)),
    (IDLE, f"tune {X} --explainer smoothgrad --size 4 --trials 1", ("--size prepares images",)),
    (IDLE, "scan --data t.csv --labels y --model silentnets:table --mean 0.5", ("--mean prepares images", "t.csv")),
    (IDLE, "explain t.csv --row 2 --labels y --model silentnets:table --grey", ("--grey prepares images",)),
    (IDLE, f"explain --data silentnets:data {M} --grey --out q", ("--grey prepares images", "silentnets:data")),
    (IDLE, f"{RUN} q --length 7", ("--length is about texts", "x.npz")),
    (IDLE, f"explain x.npy {M} --dtype float16", ("--dtype is about a data set",)),
    (IDLE, f"explain x.npy {M} --no-keep-inputs", ("--keep-inputs is about a data set",)),
    (IDLE, f"assess {X} --mask m.npy --channel-axis 1", ("--channel-axis is about a factor",)),
    (IDLE, f"scan {X} --channel-axis 2", ("--channel-axis is 1 or -1, got 2",)),
    (IDLE, "summary run --tokenizer hf:empty", ("--tokenizer hf:empty holds no tokenizer",)),
    (IDLE, "report run --kind images", ("--kind is image, series, tabular or text, got 'images'",)),
    (IDLE, "report run --classes cat", ("--classes names 1 classes", "has a class 1", "name all of them")),
    (IDLE, "report run --limit 0", ("--limit must be >= 1",)),
    (FILES, f"explain x.npy --model silentnets:make --weights {os.sep}dev{os.sep}null", ("a pipe or a device",)),
    (FILES, "explain x.npy --model silentnets:make --weights photos", ("photos is a folder",)),
    (FILES, "explain x.npy --model silentnets:make --weights none.pt", ("no such file: none.pt",)),
    (FILES, "explain x.npy --model silentnets:make --weights empty.pt", ("empty.pt is empty",)),
    (FILES, "explain x.npy --model silentnets:make --weights w.h5", ("w.h5 is not a file of weights of PyTorch",)),
    (FILES, f"explain --data pipe.npy {M} --out q", ("pipe.npy is a pipe or a device",)),
    (FILES, "run photos", ("photos is a folder",)),
    (FILES, f"assess {X} --mask pipe.npy", ("pipe.npy is a pipe or a device",)),
    (FILES, "summary run --out w.pt", ("--out w.pt is a file",)),
    (FILES, f"{COMPARE} --data x.npz --weights b=none.pt", ("none.pt",)),
    (CODE, "explain x.npy --model silentnets:leaves", ("silentnets:leaves ended the program", "__main__")),
    (CODE, "explain x.npy --model parses:make", ("parses:make ended the program", "__main__")),
    (CODE, "explain x.npy --model syntax:make", ("syntax.py, line 2 is no Python",)),
    (CODE, "explain x.npy --model needing:make", ("'not_there_at_all'", "not installed", "needing.py, line 1")),
    (CODE, "explain x.npy --model ./silentnets.txt:make", ("./file.py:make", "./silentnets.txt:make")),
    (CODE, "explain x.npy --model silentnets:Total", ("a row of scores for each sample", "a single number")),
    (CODE, f"explain --data silentnets:fed {M} --out q", ("silentnets:fed needs path",)),
    (FOUND, f"mitigate {X} --mask zero.npy --out q.pt", ("--mask", "empty everywhere")),
    (FOUND, "summary trun --column agee", ("'agee'", "'a', 'b'")),
    (FOUND, "shortcuts run --method spray:n_clusters=2 --cluster 0 --threshold 2", ("--threshold", "(0, 1]", "2")),
    (FOUND, f"mend {X} --mask m.npy --method rr --out q.pt", ("'rr'", "rrr")),
    (LABELS, f"assess --data noy.npz {M} --mask m.npy", ("--data has no labels", "--labels COLUMN")),
    (LABELS, f"scan --data noy.npz {M}", ("--data has no labels", "--labels COLUMN")),
    (LABELS, f"{COMPARE} --data noy.npz --weights b=w.pt", ("--data has no labels",)),
    (LABELS, f"explain --data negative.npz {M} --out q --target label", ("row 1 has the label -1", "from 0")),
    (LABELS, "explain --data amount.csv --labels y --model silentnets:one --out q", ("for a regression",)),
    (LABELS, f"explain --data other.npz {M} --explainer gradient --out run", ("begun with other labels", "--out")),
]  # fmt: skip


def make_folder() -> None:
    """What the calls name, in the current folder."""
    Path("silentnets.py").write_text(NETS)
    Path("syntax.py").write_text("\ndef make(:\n")
    Path("needing.py").write_text("import not_there_at_all\n")
    Path("parses.py").write_text("import argparse\nparser = argparse.ArgumentParser()\nparser.exit(2)\n")
    x = np.random.default_rng(0).random((8, 1, 4, 4), np.float32)
    y = np.arange(8) % 2
    np.save("x.npy", x[:2])
    np.save("m.npy", np.eye(4, dtype=np.float32))
    np.save("zero.npy", np.zeros((4, 4), np.float32))
    np.savez("x.npz", x=x, y=y)
    np.savez("noy.npz", x=x)
    np.savez("negative.npz", x=x, y=np.where(np.arange(8) == 1, -1, y))
    np.savez("other.npz", x=x, y=np.where(np.arange(8) == 5, 0, y))
    Path("amount.csv").write_text("a,b,y\n1,2,1.5\n2,3,2.5\n3,1,0.5\n")
    Path("t.csv").write_text("a,b,y\n1,2,0\n2,3,1\n3,1,0\n4,1,1\n")
    Path("w.h5").write_bytes(b"\x89HDF\r\n")
    Path("empty.pt").write_bytes(b"")
    Path("empty").mkdir()
    os.mkfifo("pipe.npy")
    for name in ("photos/cat/a.png", "photos/dog/a.png"):
        Path(name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(name)
    Path("twice.yaml").write_text("verb: explain\nmodel: silentnets:make\nsource: x.npy\nverb: list\n")
    Path("twice.json").write_text('{"verb": "explain", "model": "silentnets:make", "seed": 1, "seed": 2}')
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 2))
    torch.save(net.state_dict(), "w.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, leave: Callable[..., int]) -> Path:
    path = tmp_path_factory.mktemp("silent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        make_folder()
        assert leave(*shlex.split(f"{RUN} run --quiet")) == 0
        table = "explain --data t.csv --labels y --model silentnets:table --explainer gradient --no-figure --out trun"
        assert leave(*shlex.split(f"{table} --quiet")) == 0
    return path


def _entries(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if "__pycache__" not in p.parts and p.name[0] != "."}


@pytest.mark.parametrize(("about", "call", "fragments"), CALLS, ids=[f"{about}: {call}" for about, call, _ in CALLS])
def test_it_is_told_and_nothing_is_written(
    about: str,
    call: str,
    fragments: tuple[str, ...],
    leave: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = _entries(folder)
    assert leave(*shlex.split(call), *([] if call.startswith("run ") else ["--quiet"])) == 2, about
    message = capsys.readouterr().err
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, message
    assert _entries(folder) == before


def test_data_may_be_what_a_function_returns(
    leave: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    call = f"explain --data silentnets:data {M} --explainer gradient --quiet --out {tmp_path / 'run'}"
    assert leave(*shlex.split(call)) == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["job"]["samples"] == 4


def test_folders_of_results_are_made(
    leave: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    job, page, encoding = tmp_path / "a" / "job.yaml", tmp_path / "b" / "page.html", tmp_path / "c" / "encoding.json"
    assert leave(*shlex.split(f"explain x.npy {M} --save-job {job}")) == 0
    assert leave("report", "run", "--out", str(page), "--quiet") == 0
    table = f"explain t.csv --row 2 --labels y --standardise --encoding {encoding} --model silentnets:table"
    assert leave(*shlex.split(f"{table} --no-figure --quiet --out {tmp_path / 'd' / 'r.npz'}")) == 0
    assert job.is_file()
    assert page.is_file()
    assert encoding.is_file()


def test_an_empty_mask_says_nothing_of_the_model(
    leave: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert leave(*shlex.split(f"assess {X} --mask zero.npy --quiet")) == 2
    assert "is unknown: nothing was exchanged" in capsys.readouterr().err


def test_what_assess_wrote_stands_on_the_page(
    leave: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    measures, page = tmp_path / "assessed.json", tmp_path / "page.html"
    assert leave(*shlex.split(f"assess {X} --mask m.npy --quiet --out {measures}")) == 0
    verdict = json.loads(measures.read_text())["verdict"].replace("on it", "on the shortcut", 1)
    assert leave(*shlex.split(f"report run --assessment {measures} --out {page} --quiet")) == 0
    text = page.read_text()
    assert f"The model {verdict}." in text
    assert text.index(verdict) < text.index("Assessment: accuracy in each group")


@pytest.mark.parametrize("verb", ["mend", "assess", "compare", "mitigate", "scan"])
def test_the_help_says_of_a_mask_what_it_means_there(
    verb: str, leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A mask says where relevance should lie in `evaluate`, and the contrary of it here."""
    assert leave(verb, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "should lie" not in said
    assert "Where the factor region is" in said or "Where the shortcut is" in said


@pytest.mark.parametrize("name", ["link:make", "packed.deep:make", "linked.outside:make", "./link.py:make"])
def test_a_job_runs_no_code_that_a_link_leads_to(
    name: str,
    leave: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    (here / "packed").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "outside.py").write_text("open('ran', 'w')\ndef make():\n    pass\n")
    (here / "packed" / "__init__.py").touch()
    (here / "link.py").symlink_to(elsewhere / "outside.py")
    (here / "packed" / "deep.py").symlink_to(elsewhere / "outside.py")
    (here / "linked").symlink_to(elsewhere)
    monkeypatch.chdir(here)
    Path("job.json").write_text(json.dumps({"verb": "explain", "source": "x.npy", "model": name}))
    assert leave("run", "job.json") == 2
    assert "is code from outside this folder" in capsys.readouterr().err
    assert not Path("ran").exists()
