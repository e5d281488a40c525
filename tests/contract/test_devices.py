"""Every registered explainer, metric and mitigator runs on another device than the CPU, and seldom waits for it.

The device is pretended (tests/pretend_gpu). It stays registered in a process for good, so one process of its own runs
all of it, and the tests read its report.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xaikit.core import EXPLAINERS, METRICS, MITIGATORS

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("ninja", reason="the pretended GPU is compiled with the package ninja, which is absent")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("the pretended GPU is compiled, and there is no C++ compiler")
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # where ninja is
    run = subprocess.run(
        [sys.executable, "-m", "pretend_gpu.report"], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "name", [*(f"explainer {name}" for name in EXPLAINERS), *(f"metric {name}" for name in METRICS)]
)
def test_gives_on_a_device_what_the_cpu_gives(report, name):
    assert "error" not in report[name], report[name]["error"]
    assert report[name]["same"]


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_a_mitigator_waits_for_the_device_once_in_a_loss_and_twice_in_a_step(report, name):
    found = report[f"mitigator {name}"]
    assert "error" not in found, found["error"]
    assert found["loss"] <= 1
    assert found["backward"] == 0
    assert found["step fake"] <= 2
    assert found["step cpu"] <= 2


@pytest.mark.parametrize("name", ["gradient", "gradient_x_input"])
def test_an_explanation_waits_for_the_device_three_times_at_most(report, name):
    assert report[f"explainer {name}"]["waits"] <= 3
