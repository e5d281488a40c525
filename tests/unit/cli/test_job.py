"""One job behind flags, YAML, TOML and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xaikit.cli.demo_digits import make_network
from xaikit.cli.explain import Explain
from xaikit.cli.job import JOBS, load_job, make
from xaikit.core import Attribution
from xaikit.core.errors import InvalidInputError, UnknownNameError

NETWORK = "xaikit.cli.demo_digits:make_network"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).random((2, 1, 12, 12), np.float32))
    return tmp_path


@pytest.mark.parametrize("ending", ["yaml", "yml", "toml", "json"])
def test_a_saved_job_is_the_same_job(ending: str) -> None:
    job = Explain(source="x.npy", model=NETWORK, explainer="vargrad:n_iter=3", seed=4, figure=False)
    assert load_job(job.save(Path(f"job.{ending}"))) == job


def test_run_does_what_the_flags_do(leave: Callable[..., int]) -> None:
    flags = ["explain", "x.npy", "--model", NETWORK, "--explainer", "gradient", "--no-figure", "--target", "3,1"]
    assert leave(*flags, "--out", "flags.npz") == 0
    assert leave(*flags, "--out", "file.npz", "--save-job", "job.yaml") == 0
    assert not Path("file.npz").exists()
    assert leave("run", "job.yaml") == 0
    flags_made, file_made = Attribution.load("flags.npz"), Attribution.load("file.npz")
    assert torch.equal(flags_made.values, file_made.values)
    x = torch.from_numpy(np.load("x.npy")).requires_grad_()
    scores = make_network()(x)[[0, 1], [3, 1]]
    assert torch.allclose(file_made.values, torch.autograd.grad(scores.sum(), x)[0], atol=1e-6)


def test_a_job_written_by_hand_is_checked(leave: Callable[..., int]) -> None:
    for content, said in {
        "verb: explain\nmodell: a\n": "model is missing; explain has no 'modell'; did you mean 'model'",
        "verb: explain\nmodel: a\nseed: high\n": "seed: Input should be a valid integer",
        "model: a\n": "must name its verb, one of .*explain",
        "- 1\n": "is no job",
        "verb: [\n": "is not YAML",
    }.items():
        Path("job.yaml").write_text(content)
        with pytest.raises(InvalidInputError, match=said):
            load_job(Path("job.yaml"))
    Path("job.yaml").write_text("verb: explian\n")
    with pytest.raises(UnknownNameError, match="did you mean 'explain'"):
        load_job(Path("job.yaml"))
    Path("loop.json").write_text(json.dumps({"verb": "run", "job": "loop.json"}))
    assert leave("run", "loop.json") == 2


@pytest.mark.parametrize("name", ["job.txt", "nowhere.yaml"])
def test_a_file_that_is_no_job(leave: Callable[..., int], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.txt").write_text("verb: explain")
    assert leave("run", name) == 2
    assert name in capsys.readouterr().err


def test_wrong_flags_are_named_as_flags() -> None:
    with pytest.raises(InvalidInputError, match="--batch-size: Input should be a valid integer"):
        make(Explain, {"model": "m", "batch_size": "many"})


@pytest.mark.parametrize("verb", sorted(JOBS))
def test_every_verb_has_help_with_an_example(
    leave: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(verb, "--help") == 0
    shown = capsys.readouterr().out
    assert f"xaikit {verb}" in shown.split("Example")[1]
    assert "--save-job" in shown


def test_doctor_tells_versions_as_text_and_as_json(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("doctor") == 0
    assert torch.__version__.partition("+")[0] in capsys.readouterr().out
    assert leave("doctor", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert told["problems"] == []


def test_doctor_names_what_is_missing(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xaikit.cli import doctor

    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "captum" else version(name))
    assert leave("doctor") == 1
    assert "captum is missing: pip install captum" in capsys.readouterr().out


def outcome(leave: Callable[..., int], capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = leave(*arguments)
    return code, capsys.readouterr().out


RESULTS = {
    "list": ("vargrad",),
    "doctor": (),
    "explain": ("x.npy", "--model", NETWORK, "--explainer", "gradient", "--no-figure"),
    "evaluate": ("--data", "x.npy", "--model", NETWORK, "--explainer", "gradient"),
    "recommend": ("--model", NETWORK, "--modality", "image", "--explainer", "gradient"),
    "tune": ("--data", "x.npy", "--model", NETWORK, "--explainer", "vargrad:n_iter=2", "--trials", "2", "--no-figure"),
    "mitigate": ("--data", "d.npz", "--model", NETWORK, "--mask", "m.npy", "--mitigator", "rrr:n_epochs=1"),
    "shortcuts": ("run", "--no-figure"),
    "report": ("run",),
    "summary": ("run",),
}


@pytest.mark.parametrize("verb", RESULTS)
def test_a_job_file_does_what_the_flags_do(
    leave: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quietly, and as JSON, on every verb; run itself passes both on."""
    x = np.random.default_rng(0).random((12, 1, 12, 12), np.float32)
    np.savez("d.npz", x=x, y=np.arange(12) % 3)
    np.save("m.npy", np.eye(12, dtype=np.float32))
    data = ("--data", "d.npz", "--model", NETWORK, "--explainer", "gradient", "--quiet")
    assert leave("explain", *data, "--out", "run") == 0
    capsys.readouterr()
    call = (verb, *RESULTS[verb])
    assert leave(*call, "--save-job", "job.yaml") == 0
    assert leave("run", "job.yaml", "--save-job", "job.toml") == 0
    assert load_job(Path("job.toml")) == load_job(Path("job.yaml"))
    capsys.readouterr()
    by_flags = outcome(leave, capsys, *call, "--json", "--quiet")
    by_file = outcome(leave, capsys, "run", "job.toml", "--json", "--quiet")
    assert by_flags[0] == by_file[0] == 0
    told = [json.loads(text, parse_float=lambda _: 0.0) for _, text in (by_flags, by_file)]
    assert without_time(told[0]) == without_time(told[1])
    assert outcome(leave, capsys, *call, "--quiet")[0] == 0
    assert capsys.readouterr().err == ""


def without_time(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_time(v) for k, v in value.items() if k not in ("seconds", "bytes")}
    return [without_time(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("verb", sorted(JOBS))
def test_every_verb_has_the_flags_for_scripts(
    leave: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(verb, "--help") == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--quiet", "--json", "--save-job"))
    assert leave(verb, "--nonsense") == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def neighbour(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's own beside the job file."""
    text = (
        "from os import system\nimport torch\nfrom torch import nn\n\n\n"
        "def make(width=3):\n    return nn.Sequential(nn.Flatten(), nn.Linear(144, width))\n"
    )
    (folder / "trustnet.py").write_text(text)
    monkeypatch.setattr("sys.modules", {k: v for k, v in sys.modules.items() if k != "trustnet"})
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        'model: os:system:command="touch ran"',
        "model: os:abort",
        'model: trustnet:system:command="touch ran"',
        "model: xaikit.core.files:write_whole:path=ran,content=x",
        "model: trustnet:make\ndata: shutil:rmtree",
        'model: subprocess:run:args="touch ran"',
    ],
)
def test_a_job_file_cannot_call_code_from_elsewhere(
    fields: str, neighbour: Path, leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    source = "" if "data" in fields else "source: x.npy\n"
    Path("job.yaml").write_text(f"verb: explain\n{fields}\n{source}")
    assert leave("run", "job.yaml") == 2
    assert "--trust" in capsys.readouterr().err
    assert not (neighbour / "ran").exists()


def test_a_job_file_runs_code_of_its_folder_and_other_code_with_trust(
    neighbour: Path, leave: Callable[..., int]
) -> None:
    Path("job.yaml").write_text("verb: explain\nmodel: trustnet:make:width=4\nsource: x.npy\nfigure: false\n")
    assert leave("run", "job.yaml", "--quiet") == 0
    elsewhere = "collections:OrderedDict"
    Path("other.yaml").write_text(f"verb: explain\nmodel: {elsewhere}\nsource: x.npy\n")
    assert leave("run", "other.yaml") == 2
    assert leave("run", "other.yaml", "--trust") == 2  # it ran, and is no model


def test_a_job_file_of_a_listing_names_no_code(leave: Callable[..., int]) -> None:
    Path("job.json").write_text(json.dumps({"verb": "list", "name": "gradient"}))
    assert leave("run", "job.json") == 0
