"""The example plugin, installed like a user's: found by name, on the command line, and held to the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "xaikit-plugin"


def run(*command: object, cwd: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.nightly
def test_the_example_plugin_installs_and_keeps_the_contract(tmp_path):
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    run(*pip, "--no-build-isolation", "--target", site, PLUGIN, cwd=tmp_path)
    paths = os.pathsep.join([str(site), str(ROOT)])
    assert "median_grad" in run(sys.executable, "-m", "xaikit", "list", "median_grad", cwd=tmp_path, PYTHONPATH=paths)
    contract = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", PLUGIN / "tests", "--rootdir", tmp_path)
    assert " passed" in run(*contract, cwd=tmp_path, PYTHONPATH=paths)
