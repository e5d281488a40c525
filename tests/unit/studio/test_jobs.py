"""Jobs: the files that are written are jobs of the command line; states, logs, what the page may not name."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.forks import warm
from tests.unit.studio.conftest import Pictures
from xaikit.cli import main  # noqa: F401 (registers the verbs)
from xaikit.cli.job import load_job
from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import HEADER, MarkFolder, MarkKey, from_runs
from xaikit.studio import job_process
from xaikit.studio.job_forms import checked_settings
from xaikit.studio.jobs import Jobs
from xaikit.studio.marks import MarkEditor

TEMPLATE = {"model": "nets:make", "data": "x.npz", "weights": "w.pt", "size": "6"}
EXPLAIN = {"explainer": "vargrad:n_iter=3", "seed": 1, "target": "label"}


@pytest.fixture
def marks(tmp_path):
    folder = MarkFolder.begin(tmp_path / "marks", "image", (6, 6))
    nothing = from_runs([])
    MarkEditor(folder).change(
        MarkKey("must-not-matter", "all"), from_runs([0, 2]), nothing, base=0, identifier="", facts={}
    )
    return folder


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(Jobs, "_launch", lambda self, number: None)
    return Jobs(tmp_path / "jobs", TEMPLATE, tmp_path / "run", EXPLAIN)


def steps(jobs, number):
    return [load_job(path) for path in sorted(jobs.home(number).glob("step-*.json"))]


def test_the_steps_are_jobs_of_the_command_line(jobs, marks):
    number = jobs.start(
        "mend", {"epochs": 3, "budget": "2 min", "max_loss": "0.1", "method": "rrr:lambda_rrr=2"}, marks
    )
    mend, explain, report = steps(jobs, number)
    assert (mend.VERB, explain.VERB, report.VERB) == ("mend", "explain", "report")
    assert (mend.epochs, mend.budget, mend.max_loss, mend.method) == (3, "2 min", 0.1, ("rrr:lambda_rrr=2",))
    assert (explain.weights, explain.explainer, explain.target) == (mend.out, "vargrad:n_iter=3", "label")
    assert report.runs == ((jobs.folder.parent / "run").absolute(), explain.out)
    # The marks are those of the start, whatever becomes of them.
    copied = MarkFolder(mend.mask.parent)
    MarkEditor(marks).undo(MarkKey("must-not-matter", "all"))
    assert copied.read(MarkKey("must-not-matter", "all")).positions.tolist() == [0, 1]
    (scan,) = steps(jobs, jobs.start("scan", {"factor": "corner:size=2", "limit": 0}, marks))
    assert (scan.VERB, scan.factor, scan.limit, scan.size) == ("scan", ("corner:size=2",), 0, "6")
    (clusters,) = steps(jobs, jobs.start("shortcuts", {"of_class": "1", "n_clusters": 3}, marks))
    assert (clusters.VERB, clusters.of_class, clusters.method) == ("shortcuts", "1", "spray:n_clusters=3")
    (assess,) = steps(jobs, jobs.start("assess", {}, marks))
    assert assess.mask.name == "must-not-matter"
    # Each looks again at its start whether model and samples are still those of the run.
    assert {step.same_as for step in (mend, scan, assess)} == {(jobs.folder.parent / "run").absolute()}
    assert [job["number"] for job in jobs.list()] == ["4", "3", "2", "1"]


def test_other_training_samples_are_trained_on(tmp_path, marks, monkeypatch):
    monkeypatch.setattr(Jobs, "_launch", lambda self, number: None)
    jobs = Jobs(tmp_path / "jobs", {**TEMPLATE, "train": "more.npz"}, tmp_path / "run", EXPLAIN)
    mend, explain, _ = steps(jobs, jobs.start("mend", {}, marks))
    assert (mend.data, mend.validation, explain.data) == ("more.npz", "x.npz", "x.npz")


@pytest.mark.parametrize(
    ("verb", "settings", "words"),
    [
        ("explain", {}, "starts scan, mend, assess, shortcuts"),
        ("mend", {"model": "os:system"}, "no setting 'model'"),
        ("mend", {"out": "/etc/passwd"}, "no setting 'out'"),
        ("mend", {"budget": "1; rm -rf /"}, "Budget cannot be"),
        ("mend", {"epochs": -1}, "Epochs at most cannot be"),
        ("mend", {"epochs": 1.5}, "Epochs at most cannot be"),
        ("mend", {"epochs": True}, "Epochs at most cannot be"),
        ("mend", {"max_loss": "much"}, "cannot be 'much'"),
        ("mend", {"from_scratch": "os:system"}, "Train from scratch cannot be"),
        ("mend", {"method": "rrrr"}, "did you mean 'rrr'"),
        ("mend", {"method": "/tmp/x.py:f"}, "Method cannot be"),
        ("scan", {"factor": "cornr"}, "did you mean 'corner"),
        ("scan", {"factor": ["hue"]}, "Factor cannot be"),
    ],
)  # fmt: skip
def test_the_page_names_no_code_and_no_files(verb, settings, words):
    with pytest.raises(InvalidInputError, match=words):
        checked_settings(verb, settings)


def test_what_a_job_needs(jobs, tmp_path):
    empty = MarkFolder.begin(tmp_path / "empty", "image", (6, 6))
    for verb in ("mend", "assess"):
        with pytest.raises(InvalidInputError, match="mark it first"):
            jobs.start(verb, {}, empty)
    with pytest.raises(InvalidInputError, match="--model and --data"):
        Jobs(tmp_path, {}, tmp_path, {}).start("scan", {}, None)
    for number in ("9", "../1", "x", "1" * 20):
        with pytest.raises(InvalidInputError, match="there is no job"):
            jobs.describe(number)


def test_a_job_s_state_is_what_its_files_say(jobs, marks):
    number = jobs.start("mend", {}, marks)
    home = jobs.home(number)

    def put(name, **content):
        (home / name).write_text(json.dumps(content))

    put("process.json", process=os.getpid(), started=job_process.started_at(os.getpid()))
    put("step.json", step=2, steps=3, step_verb="explain")
    (home / "log.txt").write_text(
        "xaikit: note: odd\nmend:  10%|#  | 1/10 [00:01<00:09, 1.0it/s]\r"
        "\x1b[A\nexplain:  40%|##   | 4/10 [00:02<00:03,  1.9sample/s, a=1]"
    )
    about = jobs.describe(number)
    assert (about["state"], about["step"], about["steps"], about["verb"]) == ("running", 2, 3, "mend")
    assert about["progress"] == {"name": "explain", "percent": 40, "spent": "00:02", "left": "00:03"}
    assert about["log"] == ["xaikit: note: odd"]
    with (home / "log.txt").open("a") as log:
        log.write("\nstep 3 of 3: report\n")
    assert jobs.describe(number)["progress"] is None  # of the step before
    put("process.json", process=os.getpid(), started="another process of that number")
    assert jobs.describe(number)["state"] == "stopped"
    for code, state in ((0, "done"), (3, "done"), (130, "stopped"), (1, "failed"), (2, "failed"), (-9, "failed")):
        put("exit.json", code=code)
        assert jobs.describe(number)["state"] == state
    (home / "exit.json").write_text("{")  # torn
    assert jobs.describe(number)["state"] == "stopped"
    jobs.go_on(number)


def test_the_process_runs_steps_once(tmp_path, monkeypatch):
    """With a stand-in for xaikit that writes its step's name and fails where it is told to."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$4" | sed "s/.*step/step/"\ngrep -q fail "$4" && exit 1\nexit 0\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    for i, verb in enumerate(("mend", "fail", "report")):
        (tmp_path / f"step-{i:02d}.json").write_text(json.dumps({"verb": verb}))
    assert job_process.run_steps(tmp_path) == 1
    assert json.loads((tmp_path / "exit.json").read_text()) == {"code": 1}
    (tmp_path / "step-01.json").write_text(json.dumps({"verb": "explain"}))
    assert job_process.run_steps(tmp_path) == 0
    assert (tmp_path / "log.txt").read_text().split("\n") == [
        *("", "step 1 of 3: mend", "step-00.json"),
        *("", "step 2 of 3: fail", "step-01.json"),
        *("", "step 2 of 3: explain", "step-01.json"),
        *("", "step 3 of 3: report", "step-02.json", ""),
    ]


@pytest.mark.nightly
def test_mend_from_the_page_and_see_before_and_after(called, tmp_path, monkeypatch):
    """A job in real processes, of which the server's is not one: the server is replaced in the middle."""
    import time

    from xaikit.explainers import Gradient
    from xaikit.runs import explain_dataset

    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import torch\nfrom torch import nn\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))\n"
    )
    x, y = Pictures(200).x, torch.arange(200) % 2
    x[:, :, 3:] += 0.3 * y.view(-1, 1, 1, 1)
    x[:, :, :2, :2] = 3.0 * y.view(-1, 1, 1, 1)
    np.savez("x.npz", x=x.numpy(), y=y.numpy())
    monkeypatch.syspath_prepend(tmp_path)
    from nets import make

    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), "w.pt")
    names = [f"row {i}" for i in range(200)]

    class Named(Pictures):
        def __init__(self):
            self.x, self.names, self.classes = x, names, []

        def fingerprint(self, index):
            return ""

    explain_dataset(Gradient(model), Named(), out="run", keep_inputs=True, progress=False)
    options = {"model": "nets:make", "weights": "w.pt", "data": "x.npz"}
    page = called("run", **options)
    edit = {"meaning": "must-not-matter", "scope": "all", "position": 0, "base": 0, "added": [0, 2, 6, 2]}
    page.post("/api/marks", edit)
    with warm():
        number = page.post("/api/jobs", {"verb": "mend", "settings": {"epochs": 8}})["number"]
    page = called("run", **options)  # another server
    for _ in range(600):
        job = page.get(f"/api/jobs/{number}")
        if job["state"] not in ("running",):
            break
        time.sleep(0.2)
    assert job["state"] == "done", job["log"]
    result = page.get(f"/api/jobs/{number}/result")
    assert result["verdict"].startswith("does not rely on it any more")
    assert result["relies"] is False
    assert result["tables"][0]["rows"][0]["measure"] == "right, shortcut kept"
    counts = page.get(f"/api/jobs/{number}/after")
    cards = page.get(f"/api/samples?after={number}&change=changed&count=20")
    assert cards["total"] == counts["changed"]
    card = page.get(f"/api/samples?after={number}&count=1")["cards"][0]
    assert [m["explainer"] for m in card["maps"]] == ["gradient", "after"]
    assert card["maps"][0]["scale"] == card["maps"][1]["scale"]
    assert (
        page.raw("GET", f"/api/jobs/{number}/report.html", {"host": "127.0.0.1:8431", "cookie": page.cookie})[0] == 200
    )
    assert (tmp_path / "run/studio/jobs" / number / "marks" / HEADER).is_file()


def test_a_full_disk_leaves_no_half_written_job(tmp_path, marks, monkeypatch):
    jobs = Jobs(tmp_path / "jobs", TEMPLATE, tmp_path / "run", EXPLAIN)

    def full(*_):
        raise OSError(28, "No space left on device", "job.json")

    monkeypatch.setattr("xaikit.studio.jobs.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        jobs.start("scan", {}, marks)
    assert list((tmp_path / "jobs").iterdir()) == []
