"""Several processes share one job: torchrun, and --processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.forks import warm
from xaikit.cli.demo_digits import make_network
from xaikit.runs import load_run

ROOT = Path(__file__).parents[3]
DATA = ("--data", "d.npz", "--model", "xaikit.cli.demo_digits:make_network", "--weights", "w.pt")
EXPLAIN = ("explain", *DATA, "--explainer", "smoothgrad:n_iter=4", "--batch-size", "8", "--quiet")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xaikit")
N = 300  # three shards


@pytest.fixture(autouse=True)
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((N, 1, 12, 12), np.float32)
    np.savez("d.npz", x=x, y=np.arange(N) % 10)
    np.savez("few.npz", x=x[:24], y=np.arange(24) % 10)
    mask = np.zeros((12, 12), np.float32)
    mask[:3, :3] = 1
    np.save("m.npy", mask)
    torch.save(make_network().state_dict(), "w.pt")


@pytest.fixture
def started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], leave: Callable[..., int]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line here, or torchrun; with the exit code, what the processes that it starts print, and say."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: str, by: tuple[str, ...] = ()) -> tuple[int, str, str]:
        if by:
            code = subprocess.run([*by, *arguments], check=False).returncode
        else:
            with warm():  # torchrun starts fresh ones
                code = leave(*arguments)
        return code, *capfd.readouterr()

    return run


Started = Callable[..., tuple[int, str, str]]


@pytest.mark.nightly
@pytest.mark.parametrize("by", ["torchrun", "--processes"])
def test_two_processes_explain_as_one_does(leave: Callable[..., int], started: Started, by: str) -> None:
    options = () if by == "torchrun" else ("--processes", "2")
    code, printed, said = started(*EXPLAIN, *options, "--out", "two", "--json", by=TORCHRUN if not options else ())
    assert code == 0, said
    told = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert told == [{"explained": N, "skipped": 0, "missing": 0, "run": "two", "written": []}]
    assert leave(*EXPLAIN, "--out", "one") == 0
    one, two = load_run("one"), load_run("two")
    assert two.indices == list(range(N))
    assert all(torch.equal(a.values, b.values) and a.target == b.target for a, b in zip(one, two, strict=True))
    assert {p.name for p in Path("two/shards").iterdir()} == {p.name for p in Path("one/shards").iterdir()}


@pytest.mark.nightly
def test_two_processes_mend_as_one_does(leave: Callable[..., int], started: Started) -> None:
    pytest.importorskip("lightning_fabric")
    data = ("--data", "few.npz", *DATA[2:])
    call = ("mitigate", *data, "--mask", "m.npy", "--mitigator", "rrr:n_epochs=2,lr=0.01", "--quiet", "--json")
    code, printed, said = started(*call, "--processes", "2", "--out", "two.pt")
    assert code == 0, said
    assert json.loads(printed)["written"] == ["two.pt", "two.json"]
    assert leave(*call, "--out", "one.pt") == 0
    one, two = (torch.load(name, weights_only=True) for name in ("one.pt", "two.pt"))
    start = make_network().state_dict()
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-3 * (one[name] - start[name]).abs().max()
    first, second = (json.loads(Path(f"{name}.json").read_text()) for name in ("one", "two"))
    assert first["before"] == second["before"]
    assert first["after"]["accuracy"] == second["after"]["accuracy"]


@pytest.mark.nightly
def test_what_is_wrong_is_said_once(started: Started) -> None:
    code, _, said = started(*EXPLAIN, "--explainer", "gradiant", "--processes", "2", "--out", "o")
    assert code == 2
    assert said == "xaikit: unknown explainer 'gradiant'; did you mean 'gradient' or 'gradcam' or 'xgradcam'?\n"


def test_processes_that_cannot_be(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.zeros((2, 1, 12, 12), np.float32))
    assert leave(*EXPLAIN, "--processes", "0", "--out", "o") == 2
    assert "--processes must be >= 1, got 0" in capsys.readouterr().err
    assert leave("explain", "x.npy", *DATA[2:], "--processes", "2") == 2
    assert "--processes share a whole data set" in capsys.readouterr().err
    pytest.importorskip("lightning_fabric")
    assert leave("mitigate", *DATA, "--mask", "m.npy", "--quiet", "--precision", "half") == 2
    assert "--precision half: " in capsys.readouterr().err
