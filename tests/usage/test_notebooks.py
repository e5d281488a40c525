"""The notebooks run from the first cell to the last, each in a kernel of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import warm

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["image", "mitigation", "text"]


def test_no_outputs_are_kept():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (the extra dev has it)")
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells), path.name


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient is not installed (the extra dev has it)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (the extra dev has it)")
    # In a process of its own: Jupyter's warnings are not ours.
    run = "from nbclient.cli import main; main()"
    out = tmp_path / "executed.ipynb"
    command = [sys.executable, "-c", run, "--timeout=600", f"--output={out.with_suffix('')}", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(tmp_path)}
    with warm():
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    cells = [cell for cell in json.loads(out.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
