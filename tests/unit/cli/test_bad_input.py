"""What cannot work, on every verb where it can happen: one sentence, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xaikit.cli.demo_digits import make_network
from xaikit.metrics import Evaluation
from xaikit.runs import load_run
from xaikit.runs.shards import path_of

MODEL = ("--model", "xaikit.cli.demo_digits:make_network")
DATA = ("--data", "d.npz")
VERBS: dict[str, tuple[str, ...]] = {
    "explain": ("--explainer", "gradient", "--out", "run"),
    "evaluate": ("--explainer", "gradient", "--out", "run.json"),
    "recommend": ("--explainer", "gradient", "--out", "run.json"),
    "tune": ("--explainer", "vargrad:n_iter=2", "--trials", "2", "--no-figure", "--out", "run.json"),
    "mitigate": ("--mask", "m.npy", "--mitigator", "rrr:n_epochs=1", "--out", "run.pt"),
}


@pytest.fixture(autouse=True)
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((12, 1, 12, 12), np.float32)
    np.savez("d.npz", x=x, y=np.arange(12) % 3)
    np.save("m.npy", np.eye(12, dtype=np.float32))


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("xaikit: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_models_and_data(leave: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path("d.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    assert zipfile.is_zipfile("d.npz")
    assert not zipfile.is_zipfile("cut.npz")
    np.savez("whole.npz", x=np.zeros((12, 1, 12, 12), np.int64), y=np.arange(12) % 3)
    np.savez("rgb.npz", x=np.zeros((12, 3, 12, 12), np.float32), y=np.arange(12) % 3)
    torch.save({"0.weight": torch.zeros(2, 3), "extra": torch.zeros(1)}, "odd.pt")
    torch.save(make_network(), "whole.pt")
    for change, said in {
        ("--data", "cut.npz"): "cut.npz is not an array of numbers",
        ("--data", "rgb.npz"): "does not take inputs of shape",
        ("--layer", "99"): "the model has no layer '99'",
        ("--data", "whole.npz"): "does not take torch.int64 inputs",
        ("--weights", "odd.pt"): "(missing: 0.bias, 3.weight, 3.bias, 7.weight and 3 more; unexpected: extra; of "
        "another shape: 0.weight: (2, 3) in the file, (16, 1, 3, 3) in the model)",
        ("--weights", "whole.pt"): "loading that could run any code; save model.state_dict() with torch.save",
    }.items():
        assert leave(verb, *DATA, *MODEL, "--quiet", *VERBS[verb], *change) == 2, change
        assert said in sentence(capsys)
    assert not Path("run.json").exists()
    assert not Path("run.pt").exists()


def refuse(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_is_full(
    leave: Callable[..., int], verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Old files stay, no half file is left, the result is printed, and the same command works later."""
    call = (verb, *DATA, *MODEL, "--quiet", *VERBS[verb])
    old = Path("run.json") if verb != "mitigate" else Path("run.pt")
    if verb != "explain":
        old.write_text("old")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", refuse)
        assert leave(*call) == 1
    shown = capsys.readouterr()
    assert "No space left on device" in shown.err
    assert shown.err.count("\n") == 1
    if verb != "explain":
        assert old.read_text() == "old"
    assert not list(Path.cwd().rglob("*.partial"))
    if verb in ("evaluate", "tune"):
        assert "abpc" in shown.out
    assert leave(*call) == 0


def test_a_damaged_shard_or_manifest_is_named_and_repaired(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("explain", *DATA, *MODEL, "--quiet", *VERBS["explain"])
    assert leave(*call) == 0
    whole = [sample.values.clone() for sample in load_run("run")]  # else they are read from the file to be damaged
    for path in (path_of(Path("run"), 0), Path("run/manifest.json")):
        path.write_bytes(path.read_bytes()[:50])
        capsys.readouterr()
        for reader in (call, ("report", "run"), ("shortcuts", "run", "--quiet")):
            assert leave(*reader) == 2
            told = sentence(capsys)
            assert path.name in told
            assert "--repair" in told
        assert leave(*call, "--repair") == 0
        assert all(torch.equal(a, sample.values) for a, sample in zip(whole, load_run("run"), strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo", "--out", "mine"), "--out mine is not empty and holds no results.json"),
        (("demo", "--out", "m.npy"), "--out m.npy is a file"),
        (("shortcuts", "mine"), "mine holds no run"),
        (("explain", *DATA, *MODEL, "--out", "mine"), "mine is not empty and holds no run"),
        (("run", "bytes.yaml"), "bytes.yaml is not YAML"),
        (("tune", *DATA, "x.npy", *MODEL), "either an INPUT, or --data"),
        (("tune", "x.npy", *MODEL, "--target", "1,2"), "one class for all samples, or one for each of 3, got 2"),
        (("report", "--evaluation", "m.npy"), "m.npy is not JSON"),
    ],
)
def test_other_wrong_calls(
    leave: Callable[..., int], arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00verb")
    np.save("x.npy", np.zeros((3, 1, 12, 12), np.float32))
    assert leave(*arguments) == 2
    assert said in sentence(capsys)
    assert [p.name for p in Path("mine").iterdir()] == ["thesis.txt"]


def test_tune_takes_what_explain_takes(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """The same search as on the same samples in an array."""
    with np.load("d.npz") as file:
        np.save("some.npy", file["x"][::3])
        np.save("labels.npy", file["y"][::3])
    options = ("--quiet", "--explainer", "smoothgrad:n_iter=3", "--trials", "4", "--no-figure", "--json")
    assert leave("tune", *DATA, *MODEL, *options, "--target", "label", "--limit", "4", "--out", "a.json") == 0
    of_data = json.loads(capsys.readouterr().out)
    assert leave("tune", "some.npy", *MODEL, *options, "--target", "labels.npy", "--out", "b.json") == 0
    of_array = json.loads(capsys.readouterr().out)
    assert {**of_data, "written": 0} == {**of_array, "written": 0}
    Path("people.csv").write_text("age,sex,outcome\n31,0,no\n52,1,yes\n40,1,no\n")
    Path("tunednet.py").write_text("import torch\nnet = torch.nn.Linear(2, 2)\n")
    table = ("--data", "people.csv", "--labels", "outcome", "--model", "tunednet:net", "--explainer", "smoothgrad")
    assert leave("tune", *table, *options[:1], *options[3:], "--target", "label", "--metric", "lerf") == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 4


def test_an_evaluation_in_batches_is_that_of_all_at_once(leave: Callable[..., int]) -> None:
    call = ("evaluate", *DATA, *MODEL, "--quiet", "--explainer", "vargrad", "--metric", "lerf")
    for size in ("5", "12"):
        assert leave(*call, "--batch-size", size, "--out", f"{size}.json") == 0
    (parts,), (whole,) = Evaluation.load("5.json"), Evaluation.load("12.json")
    assert parts.values == pytest.approx(whole.values, abs=1e-6)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("d.csv.gz", "it is packed; unpack it"), ("d.zip", "it is packed"), ("d.XLSX", "save it as .csv")],
)
def test_archives_and_spreadsheets_say_what_to_do(
    leave: Callable[..., int], name: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(b"PK")
    for how in (
        ("--data", name, "--out", "run"),
        (name,),
        (name, "--row", "2"),
        ("--data", name, "--labels", "y", "--out", "run"),
    ):
        assert leave("explain", *how, *MODEL) == 2
        assert f"{name} cannot be read as it is: " in (error := sentence(capsys))
        assert remedy in error
