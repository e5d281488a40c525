"""`xaikit tune` against the library called directly, its workers, and what it says to a wrong call."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.forks import children, warm
from xaikit.cli import main
from xaikit.cli.demo_digits import make_network
from xaikit.explainers import SmoothGrad, VarGrad
from xaikit.metrics import AbPC
from xaikit.tuning import TuneResult, tune
from xaikit.tuning.optuna_private import disconnect
from xaikit.tuning.study import open_storage

NETWORK = "xaikit.cli.demo_digits:make_network"
ROOT = Path(__file__).parents[3]
# Slow enough that a worker can be killed in the middle of its work.
SLOW = """
import time
import torch
from torch import nn

class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.01)
        return super().forward(x)

def make():
    torch.manual_seed(0)
    return Slow(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
"""


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and labels in the current folder."""
    monkeypatch.chdir(tmp_path)
    x, y = torch.rand(6, 1, 12, 12), torch.arange(6) % 10
    np.save("x.npy", x.numpy())
    np.save("y.npy", y.numpy())
    return x, y


def leave(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main.run(["tune", "x.npy", "--quiet", *arguments])
    return int(left.value.code or 0)


CALL = ("--model", NETWORK, "--target", "y.npy", "--explainer", "smoothgrad:n_iter=10", "--vary", "noise_level")


def test_the_same_result_as_the_library(
    digits: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(*CALL, "--trials", "4", "--seed", "3", "--out", "new/found.json") == 0
    model = make_network()
    found = TuneResult.load("new/found.json", model)
    explainer = SmoothGrad(model, n_iter=10)
    expected = tune(explainer, "abpc", digits, n_trials=4, space=["noise_level"], seed=3, progress=False)
    assert [(r["settings"], r["value"]) for r in found.trials] == [(r["settings"], r["value"]) for r in expected.trials]
    assert found.best == expected.best
    shown = capsys.readouterr().out
    assert f"abpc: {found.value:.4g}, before {found.default_value:.4g}" in shown
    assert "4 trials" in shown
    assert {p.name for p in Path("new").iterdir()} == {"found.json", "found.history.png", "found.importance.png"}


def test_several_explainers_and_objectives(
    digits: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", NETWORK, "--target", "3", "--explainer", "gradient", "--explainer", "vargrad"]
    assert (
        leave(*arguments, "--vary", "explainer.n_iter=10,20", "--metric", "lerf", "--metric", "morf", "--trials", "5")
        == 0
    )
    found = TuneResult.load("tuned.json")
    assert [goal.name for goal in found.goals] == ["lerf", "morf"]
    assert {row["settings"].get("explainer.n_iter") for row in found.trials} == {None, 10, 20}
    assert Path("tuned.front.png").exists()
    assert re.search(r"front: \d of \d trials\n  lerf [\d.-]+, morf [\d.-]+: ", capsys.readouterr().out)
    arguments += ["--metric", "lerf", "--metric", "morf", "--weigh", "1,1", "--trials", "3", "--no-figure"]
    assert leave(*arguments, "--batch-size", "2") == 0
    joined = TuneResult.load("tuned.json", make_network())
    value = AbPC().evaluate(joined.best, digits[0], 3).double().mean().item()
    assert joined.value == pytest.approx(value, abs=1e-6)


def test_a_study_goes_on(digits: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    storage = ("--storage", "study.journal", "--trials", "2", "--no-figure")
    assert leave(*CALL, *storage) == 0
    assert leave(*CALL, *storage) == 2
    assert "already holds a study 'xaikit'; pass --resume" in capsys.readouterr().err
    assert leave(*CALL, *storage, "--resume") == 0
    assert len(TuneResult.load("tuned.json").trials) == 4
    assert leave(*CALL, *storage, "--resume", "--seed", "1") == 2
    assert "was made with seed 0, now it is 1" in capsys.readouterr().err


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], "several workers need a --storage that they share"),
        (["--workers", "0"], "--workers must be >= 1, got 0"),
        (["--trials", "0"], "--trials must be >= 1, got 0"),
        (["--resume"], "--resume needs the --storage that holds the study"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/none"], "me:***@127.0.0.1:1/none does not answer"),
        (["--metric", "abcp"], "unknown metric 'abcp'; did you mean 'abpc'"),
        (["--explainer", "smoothgard"], "unknown explainer 'smoothgard'; did you mean 'smoothgrad'"),
        (["--vary", "noise"], "cannot tune 'noise'; did you mean 'noise_level'"),
        (["--weigh", "1,2"], "--weigh takes a number for each --metric (1), got 2"),
        (["--pruner", "median"], "the data is a single one"),
        (["--sampler", "tpf"], "unknown sampler 'tpf'"),
        (["--target", "x.npy"], "--target x.npy must hold a class for each sample"),
        (["--target", "none.npy"], "--target none.npy is not an array"),
        (["--target", "77"], "--target must lie in 0..9"),
        (["--out", "a.txt"], "--out must end in .json, got 'a.txt'"),
        (["--batch-size", "-1"], "--batch-size must be >= 0"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--model", NETWORK, "--explainer", "smoothgrad", *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert "secret" not in error


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "xaikit", "tune", "x.npy", "--model", "slow:make", "--target", "0"]
    with warm():
        return subprocess.Popen(
            [*command, "--explainer", "vargrad:n_iter=10", "--no-figure", "--quiet", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )


def finished(storage: str) -> int:
    import optuna

    opened = open_storage(storage)
    try:
        study = optuna.load_study(study_name="xaikit", storage=opened)
        return sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))
    except KeyError:
        return 0
    finally:
        disconnect(opened)


def slow_case() -> nn.Module:
    np.save("x.npy", np.random.default_rng(0).random((4, 4), np.float32))
    Path("slow.py").write_text(SLOW)
    scope: dict[str, object] = {}
    exec(SLOW, scope)  # noqa: S102
    return scope["make"]()


@pytest.mark.nightly
def test_two_workers_on_postgresql_one_of_them_killed(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    slow_case()
    job = start("--trials", "16", "--workers", "2", "--storage", postgresql, "--resume")
    end = time.monotonic() + 240
    while finished(postgresql) < 4:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)
    workers = children(job.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    assert re.search(r"note: worker \d was killed by signal 9; the others go on", err)
    assert "secret" not in out + err
    found = TuneResult.load("tuned.json")
    done = [row for row in found.trials if row["state"] == "complete"]
    assert 16 <= len(done) <= 17
    assert sum(row["state"] == "unfinished" for row in found.trials) <= 1
    assert found.stopped == "done"


@pytest.mark.nightly
def test_workers_that_all_fail_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    slow_case()
    job = start("--trials", "500", "--workers", "2", "--storage", "s.journal")
    end = time.monotonic() + 240
    while finished("s.journal") < 2 and time.monotonic() < end:
        time.sleep(0.2)
    for worker in children(job.pid):
        os.kill(worker, signal.SIGKILL)
    _, err = job.communicate(timeout=240)
    assert job.returncode == 1
    assert "every worker ended before the 500 trials were made" in err
    assert "Traceback" not in err


@pytest.mark.nightly
def test_a_result_rebuilds_the_explainer_in_another_process(
    digits: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model = make_network()
    found = tune(VarGrad(model, n_iter=10), "abpc", digits, n_trials=5, cautious=False, progress=False)
    found.save(tmp_path / "found.json")
    script = (
        "import numpy as np, torch\n"
        "from xaikit.cli.demo_digits import make_network\n"
        "from xaikit.tuning import TuneResult\n"
        f"found = TuneResult.load(r'{tmp_path}/found.json', make_network())\n"
        "x, y = torch.tensor(np.load('x.npy')), torch.tensor(np.load('y.npy'))\n"
        "print(repr([found.value, found.metric.evaluate(found.best, x, y).double().mean().item()]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", script]
    with warm():
        done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == [found.value, found.value]


def test_a_job_file_tunes_and_json_is_for_scripts(
    digits: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*CALL, "--trials", "3", "--no-figure", "--json")
    assert leave(*flags, "--out", "flags.json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trials"] == 3
    assert told["written"] == ["flags.json"]
    assert leave(*flags, "--out", "file.json", "--save-job", "job.yaml") == 0
    assert not Path("file.json").exists()
    with pytest.raises(SystemExit) as left:
        main.run(["run", "job.yaml"])
    assert left.value.code in (0, None)
    by_flags, by_file = (TuneResult.load(f"{name}.json") for name in ("flags", "file"))
    assert by_file.best == by_flags.best
    assert by_file.value == by_flags.value == told["value"]


@pytest.mark.usefixtures("digits")
def test_settings_that_change_nothing_are_no_reason_to_fail() -> None:
    """There is no importance to draw where all trials gave the same."""
    Path("constantnet.py").write_text(
        "import torch\nnet = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))\n"
        "torch.nn.init.eye_(net[1].weight)\n"  # whose gradient is the same at each place
    )
    call = ("--model", "constantnet:net", "--explainer", "smoothgrad:n_iter=2", "--target", "0", "--trials", "2")
    assert leave(*call, "--vary", "noise_level") == 0
    assert not Path("tuned.importance.png").exists()
