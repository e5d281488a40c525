"""The wheel in an environment that holds what it declares and nothing else: the command works from another folder."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# `xaikit list`, and `xaikit demo` with as little training as can be; tests/unit/cli/test_demo.py looks at its story.
DEMO = """
import contextlib
from xaikit.cli import demo_story, main

with contextlib.suppress(SystemExit):
    main.run(["list"])
Plan = demo_story.Plan
demo_story.Plan = lambda seed: Plan(seed, epochs=1, weights=(1.0,), trials=1, tune_samples=10)
main.run(["demo", "--out", "figures"])
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def requirements_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]


def needed_by(requires: list[str], extras: frozenset[str] = frozenset()) -> set[tuple[str, frozenset[str]]]:
    """Distributions and their extras that requirements name for this interpreter."""
    parsed = [Requirement(line) for line in requires]
    needed = [r for r in parsed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras or {""})]
    return {(r.name, frozenset(r.extras)) for r in needed}


def link_distributions(requires: list[str], site: Path) -> None:
    """Put links to the installed distributions that the requirements need, directly or not, into a site-packages."""
    waiting = needed_by(requires)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting - seen:
        name, extras = entry = min(waiting - seen, key=str)
        seen.add(entry)
        distribution = importlib.metadata.distribution(name)
        waiting |= needed_by(distribution.requires or [], extras)
        for part in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = Path(str(distribution.locate_file(part)))
            if target.exists() and not (site / part).exists():
                (site / part).symlink_to(target)


@pytest.mark.nightly
def test_the_wheel_works_beside_what_it_declares(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", symlinks=os.name == "posix")
    binaries = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    site = Path(run(binaries / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=elsewhere).strip())
    # What a plain `pip install` would download, as it is installed here (constraints.txt): that takes two minutes less.
    link_distributions(requirements_of(wheel), site)
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-compile", "--no-index", wheel, cwd=elsewhere)  # fails where a requirement is not met
    run(*pip, "check", cwd=elsewhere)
    assert "tune" in run(binaries / "xaikit", "--help", cwd=elsewhere)
    shown = run(binaries / "python", "-c", DEMO, cwd=elsewhere)
    assert "lrp_epsilon_plus" in shown
    assert "RRR" in shown
    assert len(list((elsewhere / "figures").glob("*.png"))) >= 2
