"""The verb studio: what it opens, what it refuses in one sentence."""

from __future__ import annotations

import json
import shutil
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.cli import studio_demo
from xaikit.cli.demo_digits import make_network
from xaikit.studio import Studio
from xaikit.studio.jobs import Jobs

NETWORK = "xaikit.cli.demo_digits:make_network"
MODEL = ("--model", NETWORK, "--weights", "w.pt")
PHOTOS = ("--data", "photos", "--grey")
Leave = Callable[..., int]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Studio]:
    """The studios that the verb would serve."""
    studios: list[Studio] = []

    def serve(studio: Studio, ready: Callable[[str], Any]) -> None:
        studio.session()
        studios.append(studio)
        ready(studio.link(8431))

    monkeypatch.setattr(Studio, "serve", serve)
    monkeypatch.setattr(webbrowser, "open", lambda link: False)
    return studios


@pytest.fixture
def explained(samples: tuple[torch.Tensor, torch.Tensor], leave: Leave) -> None:  # noqa: ARG001
    """Two runs over d.npz, and one over pictures."""
    call = ("--data", "d.npz", *MODEL, "--explainer", "gradient", "--quiet")
    assert leave("explain", *call, "--out", "run") == 0
    Path("photos").mkdir()
    for i in range(4):
        Image.fromarray(np.full((12, 12), 40 * i, np.uint8)).save(f"photos/{i}.png")
    photos = ("--data", "photos", "--grey", *MODEL, "--explainer", "gradient", "--quiet")
    assert leave("explain", *photos, "--out", "run-photos") == 0


@pytest.mark.usefixtures("explained")
def test_it_opens_runs_with_what_jobs_need(
    leave: Leave, opened: list[Studio], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("studio", "run", *MODEL, "--data", "d.npz", "--classes", ",".join("abcdefghij"), "--head", "0") == 0
    said = capsys.readouterr()
    link = said.out.split()[2]
    assert link.startswith("http://127.0.0.1:8431/?key=")
    assert "no browser opened; open the link" in said.err
    (studio,) = opened
    session = studio.session()
    assert session.names.of_class(2) == "c"
    assert session.jobs.can_start
    assert studio.options == {"classes": "a,b,c,d,e,f,g,h,i,j", "head": "0"}
    assert Path(studio.data) == Path("d.npz").absolute()
    assert leave("studio", "run", "--no-browser", "--json") == 0
    assert json.loads(capsys.readouterr().out)["link"] == link
    assert not opened[1].session().jobs.can_start
    assert leave("studio", "run", "--host", "0.0.0.0", "--no-browser") == 0
    assert "open to other machines: whoever reaches it and has the link can look" in capsys.readouterr().err


@pytest.mark.usefixtures("explained", "opened")
def test_wrong_calls_have_one_sentence(leave: Leave, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(make_network(3).state_dict(), "other.pt")
    np.savez("moved.npz", x=np.zeros((20, 1, 12, 12), np.float32), y=np.arange(20) % 10)
    shutil.copytree("photos", "gone")
    Path("gone/0.png").unlink()
    np.savez("short.npz", x=np.zeros((3, 1, 12, 12), np.float32))
    calls = {
        (): "name a RUN, a folder that xaikit explain --data wrote, or take --demo",
        ("nowhere",): "nowhere",
        ("run", *MODEL): "--data is missing beside --model",
        ("run", "--data", "d.npz"): "--model is missing beside --data",
        ("run", "--model", NETWORK, "--weights", "other.pt", "--data", "d.npz"): "the model is not the one that run",
        ("run", *MODEL, "--data", "moved.npz"): "--data moved.npz: row 19 has another content than when run explained",
        ("run", *MODEL, "--data", "short.npz"): "--data short.npz does not hold the samples of run",
        ("run-photos", *MODEL, "--data", "gone", "--grey"): "0.png is not where it was",
        ("run-photos", *MODEL, "--data", "away", "--grey"): "no such file or folder: away",
        (
            "run-photos",
            *MODEL,
            "--data",
            "photos",
            "--grey",
            "--size",
            "24",
        ): "(1, 12, 12) there, (1, 24, 24) here), so marks",
        (
            "run-photos",
            *MODEL,
            "--data",
            "photos",
            "--grey",
            "--mean",
            "9",
        ): "(other values), so marks would lie elsewhere",
        ("run", "--demo"): "--demo brings its own run, model and data",
    }
    for call, words in calls.items():
        assert leave("studio", *call, "--no-browser") == 2, call
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("xaikit: ")
        assert words in error, error


@pytest.mark.usefixtures("explained")
def test_a_job_refuses_what_is_no_longer_the_run_s(leave: Leave, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(make_network(3).state_dict(), "other.pt")
    other = ("--model", NETWORK, "--weights", "other.pt", "--data", "d.npz")
    np.savez("moved.npz", x=np.zeros((20, 1, 12, 12), np.float32), y=np.arange(20) % 10)
    moved = (*MODEL, "--data", "moved.npz")
    trained = (*MODEL, "--data", "d.npz", "--validation", "moved.npz")
    mask, mended = ("--mask", "m.npy"), ("--out", "mended.pt")
    calls = [
        (("scan", *other), "the model is not the one that run explained"),
        (("assess", *other, *mask), "the model is not the one that run explained"),
        (("mend", *other, *mask, *mended), "the model is not the one that run explained"),
        (("assess", *moved, *mask), "has another content than when run explained it"),
        (("mend", *trained, *mask, *mended), "--data moved.npz: row 19 has another content"),
    ]
    for call, sentence in calls:
        assert leave(*call, "--same-as", "run", "--quiet") == 2, call
        assert sentence in capsys.readouterr().err
    assert leave("assess", *MODEL, "--data", "d.npz", *mask, "--same-as", "run", "--quiet") == 0


@pytest.mark.usefixtures("explained", "opened")
def test_marks_of_the_run_mend_and_assess_from_the_shell(leave: Leave, capsys: pytest.CaptureFixture[str]) -> None:
    from xaikit.studio.mark_desk import MarkDesk

    session = Studio("run").session()
    session.catalogues[0].fill()
    edit = {"meaning": "must-not-matter", "scope": "all", "position": 0, "base": 0}
    MarkDesk(session).change({**edit, "added": [n for row in range(3) for n in (12 * row, 3)]})
    results = []
    for mask in ("run/marks/must-not-matter", "m.npy"):  # the same corner
        assert leave("assess", "--data", "d.npz", *MODEL, "--mask", mask, "--json", "--quiet") == 0
        results.append(json.loads(capsys.readouterr().out)["assessment"])
    assert results[0] == results[1]
    assert leave("assess", "--data", "d.npz", *MODEL, "--mask", "run/marks", "--quiet") == 2
    assert "holds marks of two meanings" in capsys.readouterr().err


def test_the_demo_is_made_once_and_opened(
    leave: Leave, opened: list[Studio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studio_demo, "EPOCHS", 1)
    monkeypatch.setattr("xaikit.cli.demo_digits.N_TRAIN", 60)
    assert leave("studio", "--demo", "--no-browser", "--quiet") == 0
    session = opened[0].session()
    assert session.runs[0].job["samples"] == 60
    assert session.jobs.can_start
    monkeypatch.setattr(studio_demo, "_train", lambda *_: pytest.fail("trained again"))
    assert leave("studio", "--demo", "--no-browser", "--quiet") == 0


def test_marks_on_large_photographs_lie_where_they_were_drawn(
    leave: Leave, opened: list[Studio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of wide photographs the model sees the middle, scaled; marks are drawn on that, and jobs see the same."""
    from xaikit.cli.job import load_job
    from xaikit.studio.mark_desk import MarkDesk

    def strong(x: torch.Tensor) -> torch.Tensor:
        return x > (x.min() + x.max()) / 2

    monkeypatch.setattr(Jobs, "_launch", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    torch.save(make_network().state_dict(), "w.pt")
    Path("wide").mkdir()
    for i in range(3):
        photograph = np.zeros((36, 72), np.uint8)
        photograph[6 * i : 6 * i + 6, 30 + 6 * i : 36 + 6 * i] = 255  # 2 x 2 pixels of the input
        Image.fromarray(photograph).save(f"wide/{i}.png")
    call = ("--data", "wide", "--grey", "--size", "12", *MODEL)
    assert leave("explain", *call, "--explainer", "gradient", "--out", "run-wide", "--quiet") == 0
    assert leave("studio", "run-wide", *call, "--no-browser") == 0
    session = opened[0].session()
    session.catalogues[0].fill()
    inputs = []
    for row in session.catalogues[0].query()[1]:
        _, sample = next(session.samples_of(row))
        bright = np.flatnonzero(strong(sample.inputs).numpy())
        assert 1 <= len(bright) <= 9
        inputs.append(sample.inputs)
        edit = {"meaning": "must-not-matter", "scope": "sample", "position": row["position"], "base": 0}
        MarkDesk(session).change({**edit, "added": [n for place in bright.tolist() for n in (place, 1)]})
    number = session.jobs.start("assess", {}, session.marks.folder)
    job = load_job(session.jobs.home(number) / "step-00.json")
    data = job.samples(job.model)
    seen = torch.stack([data[i] for i in range(3)])
    assert torch.equal(seen, torch.stack(inputs))
    assert torch.equal(job.masks(data).of(torch.arange(3), seen, 3), torch.stack([strong(x)[0] for x in seen]).float())
