"""What the shell answers: Ctrl-C, models in files, names of results, overviews, what a run says."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit import metrics
from xaikit.cli.explain import Explain
from xaikit.cli.job import JOBS, Job
from xaikit.cli.models import load_model
from xaikit.cli.run_summary import run_summary
from xaikit.cli.single import name_of_text, result_name
from xaikit.cli.targets import read_target
from xaikit.core.errors import InvalidInputError
from xaikit.core.results import Stopped
from xaikit.metrics import Evaluation
from xaikit.runs import load_run

NET = """
import torch
from torch import nn
from beside_net import width

def make(hidden=width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 2))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets").mkdir()
    Path("nets/my_net.py").write_text(NET)
    Path("nets/beside_net.py").write_text("width = 3\n")
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.random((6, 1, 4, 4), np.float32), y=np.arange(6) % 2)
    np.save("x.npy", rng.random((1, 1, 4, 4), np.float32))
    np.save("m.npy", np.eye(4, dtype=np.float32))
    return tmp_path


DATA = ("--data", "x.npz", "--model", "./nets/my_net.py:make", "--quiet")
CALLS: dict[str, tuple[tuple[str, ...], str]] = {
    "explain": (("--out", "run"), "the same command goes on with run"),
    "evaluate": ((), "nothing was written"),
    "recommend": ((), "nothing was written"),
    "mitigate": (("--mask", "m.npy"), "the training had not begun"),
    "tune": (("--storage", "s.journal"), "the same command with --resume goes on"),
}


def press(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", CALLS)
def test_ctrl_c_says_how_to_go_on(
    leave: Callable[..., int], verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, how = CALLS[verb]
    with monkeypatch.context() as keyboard:
        keyboard.setattr("xaikit.cli.sources.ModelJob.loaded", press)
        assert leave(verb, *DATA, *flags) == 130
    shown = capsys.readouterr().err
    assert shown.startswith("xaikit: interrupted; ")
    assert how in shown
    assert shown.count("\n") == 1


def test_ctrl_c_in_a_job_file_and_in_the_middle_of_a_measurement(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("explain", *DATA, "--out", "run", "--save-job", "job.yaml") == 0
    with monkeypatch.context() as keyboard:
        keyboard.setattr("xaikit.runs.explain_dataset", press)
        assert leave("run", "job.yaml") == 130
    assert "the same command goes on with run" in capsys.readouterr().err
    measure = metrics.evaluate

    def stopped(*arguments: object, **options: object) -> Evaluation:
        return dataclasses.replace(measure(*arguments, **options), stopped=Stopped.INTERRUPTED)

    with monkeypatch.context() as keyboard:
        keyboard.setattr("xaikit.metrics.evaluate", stopped)
        assert leave("evaluate", *DATA, "--explainer", "gradient", "--limit", "1") == 130
    assert "table.json holds what was measured until then" in capsys.readouterr().err


def test_every_help_says_which_files_the_verb_takes() -> None:
    for verb, job in JOBS.items():
        text = job.__doc__ or ""
        assert "Examples:" in text, verb
        endings = (".npz",) if verb == "atlas" else (".npz", ".csv", ".parquet")  # an atlas has crops of pictures
        assert "data" not in job.model_fields or all(ending in text for ending in endings), verb
        assert "mask" not in job.model_fields or re.search(r"--mask is|--mask says", text), verb


def test_every_verb_can_say_how_to_go_on() -> None:
    for verb, job in JOBS.items():
        assert issubclass(job, Job), verb
    assert Explain(model="a:b", source="x").how_to_go_on() == "nothing was written"


def test_a_model_in_a_file_of_any_folder(leave: Callable[..., int]) -> None:
    model = load_model("./nets/my_net.py:make:hidden=5")
    assert model[1].out_features == 5  # type: ignore[index]
    assert load_model(f"{Path.cwd()}/nets/my_net.py:make")[1].out_features == 3  # type: ignore[index]
    assert "my_net" in sys.modules
    assert str(Path("nets").resolve()) not in sys.path
    Path("json.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(1, 1)\n")
    import json

    assert load_model("./json.py:make")(torch.ones(1, 1)).shape == (1, 1)
    assert sys.modules["json"] is json  # the name of a library stays the library's
    Path("failing.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(LookupError, match="nothing_of_this_name"):
        load_model("./failing.py:make")
    assert leave("explain", "x.npy", "--model", "nets/my_net.py:make", "--no-figure", "--quiet") == 0
    for name in ("my_net", "beside_net"):
        sys.modules.pop(name, None)


def test_a_job_may_name_a_file_below_this_folder_only(
    leave: Callable[..., int], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "net.py"
    elsewhere.write_text(NET.replace("from beside_net import width", "width = 3"))
    job = "verb: explain\nsource: x.npy\nfigure: false\nquiet: true\nmodel: "
    for name, code in (
        (f"{elsewhere}:make", 2),
        (f"../{elsewhere.parent.name}/net.py:make", 2),
        ("nets/my_net.py:make", 0),
    ):
        Path("job.yaml").write_text(job + name + "\n")
        assert leave("run", "job.yaml") == code, name
    assert "outside this folder" in capsys.readouterr().err
    for name in ("my_net", "beside_net"):
        sys.modules.pop(name, None)


def test_results_of_several_inputs_do_not_overwrite_each_other(leave: Callable[..., int], tmp_path: Path) -> None:
    Path("cats").mkdir()
    Path("dogs").mkdir()
    for name in ("cats/1.png", "dogs/1.png", "dogs/1.bmp", "2.png"):
        Image.new("L", (4, 4)).save(name)
    names = [result_name(Path(n)) for n in ("cats/1.png", "dogs/1.png", "dogs/1.bmp", "2.png", "../2.png")]
    assert names[:4] == ["cats-1", "dogs-1-png", "dogs-1-bmp", "2"]
    assert len(set(names)) == 5
    call = ("--model", "./nets/my_net.py:make", "--grey", "--explainer", "gradient", "--quiet")
    for name in ("cats/1.png", "dogs/1.png"):
        assert leave("explain", name, *call) == 0
    assert {p.name for p in tmp_path.glob("*.gradient.*")} == {
        "cats-1.gradient.npz", "cats-1.gradient.png", "dogs-1-png.gradient.npz", "dogs-1-png.gradient.png"
    }  # fmt: skip
    assert name_of_text("A fine film!") == "text-a-fine-film"
    long = "this is a very long sentence about a film that goes on"
    assert name_of_text(long) != name_of_text(long + " and on")
    assert name_of_text("...") != name_of_text("!!!")


def test_list_begins_with_an_overview(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("list") == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 50
    assert re.search(r"^\d+ explainers:\n .*attn_lrp", shown, re.M)
    assert "xaikit list explainers" in shown
    assert leave("list", "rrr") == 0
    assert "lambda_rrr" in capsys.readouterr().out


def test_doctor_knows_what_a_verb_needs(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("doctor", "tune") == 0
    shown = capsys.readouterr().out
    assert "optuna" in shown
    assert "jinja2" not in shown
    assert "nothing that tune needs is missing" in shown


def test_a_run_says_in_words_what_it_holds(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("explain", *DATA, "--classes", "no,yes", "--out", "run") == 0
    shown = capsys.readouterr().out.strip()
    run = load_run("run")
    right = sum(row["label"] == row["predicted"] for row in run.rows())
    assert shown == run_summary(run, Path("run"))
    assert shown.startswith("6 samples explained in run. ")
    assert f"The model is right for {right} of 6" in shown
    assert re.search(r"It predicts class [01] \((no|yes)\) (most often|for every sample)", shown)
    assert "adds up to its score" in shown or "misses the score" in shown
    assert shown.endswith("xaikit report run")


def test_words_of_classes_are_targets(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    call = ("explain", "x.npy", "--model", "./nets/my_net.py:make", "--no-figure", "--classes", "no,yes")
    assert leave(*call, "--target", "yes") == 0
    assert "class 1 yes," in capsys.readouterr().out
    with pytest.raises(InvalidInputError, match="a word of --classes"):
        read_target("maybe", ["no", "yes"])


def test_shortcuts_of_a_class_by_its_name(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    call = ("--model", "./nets/my_net.py:make", "--classes", "no,yes", "--explainer", "gradient_x_input", "--quiet")
    y = np.arange(12) % 2
    np.savez("named.npz", x=np.random.default_rng(0).random((12, *np.load("x.npy").shape[1:]), np.float32), y=y)
    assert leave("explain", "--data", "named.npz", *call, "--out", "named") == 0
    for name, number in (("yes", "1"), ("no", "0")):
        told = []
        for text in (name, number):
            capsys.readouterr()
            assert leave("shortcuts", "named", "--of-class", text, "--out", f"of-{text}", "--no-figure", "--json") == 0
            told.append(json.loads(capsys.readouterr().out)["clusters"])
        assert told[0] == told[1]
        assert sorted(s["index"] for c in told[0] for s in c["samples"]) == [
            i for i in range(12) if y[i] == int(number)
        ]
    assert leave("shortcuts", "named", "--of-class", "yess", "--out", "none") == 2
    assert "--of-class 'yess' is no class of the run; did you mean 'yes'?" in capsys.readouterr().err


def test_a_number_in_a_job_file_is_a_text_where_a_flag_takes_one(leave: Callable[..., int]) -> None:
    Path("job.yaml").write_text(
        "verb: explain\nsource: x.npy\nmodel: ./nets/my_net.py:make\nfigure: false\ntarget: 1\n"
    )
    assert leave("run", "job.yaml", "--quiet") == 0
