"""The types that `py.typed` promises: mypy --strict over right and wrong code of users, and over the documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.usage.test_documents import BLOCK, PAGES, ROOT

TYPED = Path(__file__).parent / "typed"
WRONG = re.compile(r"#.* wrong: (.*)$")
# torch leaves its own functions unannotated (`Tensor.backward`), and scikit-learn has no stubs.
OPTIONS = ("--strict", "--allow-subclassing-any", "--untyped-calls-exclude=torch", "--ignore-missing-imports")
# Reading these would take longer than all the rest; what is inside torch says nothing of what users get from it.
UNREAD = (
    *("transformers", "pytorch_lightning", "peft", "timm", "captum", "optuna", "matplotlib", "scipy", "sympy"),
    *(f"torch.{name}" for name in ("_dynamo", "_inductor", "_export", "_functorch", "_higher_order_ops", "_refs")),
    *(f"torch.{name}" for name in ("_prims", "_decomp", "_subclasses", "distributed", "export", "fx", "onnx")),
)
CONFIG = "[mypy]\n" + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in UNREAD)


def python_of(page: Path) -> str:
    """The Python blocks of a page, each at its own line."""
    text = page.read_text()
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        if block.group(1) == "python":
            start = text.count("\n", 0, block.start(2))
            lines[start : start + block.group(2).count("\n")] = block.group(2).splitlines()
    return "\n".join(lines)


def errors_of(folder: Path, names: list[str]) -> dict[str, dict[int, str]]:
    """What mypy says of each file, by line."""
    command = [sys.executable, "-m", "mypy", *OPTIONS, "--cache-dir", str(ROOT / ".mypy_cache" / "users"), *names]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "MYPYPATH": str(ROOT)}
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    by_file: dict[str, dict[int, str]] = {name: {} for name in names}
    for name, line, text in re.findall(r"^([\w.]+):(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        by_file[name][int(line)] = by_file[name].get(int(line), "") + text + "\n"
    return by_file


@pytest.mark.nightly
def test_right_code_is_right_wrong_lines_are_found_and_the_documents_are_right(tmp_path):
    """One run of mypy for all, since most of its time goes to reading torch."""
    pytest.importorskip("mypy")
    pages = {f"{page.stem.replace('-', '_').lower()}.py": python_of(page) for page in PAGES}
    pages = {name: code for name, code in pages.items() if code.strip()}
    own = {path.name: path.read_text() for path in TYPED.glob("*.py")}
    for name, code in {**pages, **own, "mypy.ini": CONFIG}.items():
        (tmp_path / name).write_text(code)
    errors = errors_of(tmp_path, sorted({**pages, **own}))
    assert {name: errors[name] for name in pages if errors[name]} == {}

    right = [line for line in own["right.py"].splitlines() if line.strip() and line[0] != "#"]
    assert len(right) >= 150
    assert errors["right.py"] == {}

    lines = own["wrong.py"].splitlines()
    marked = {i: found.group(1) for i, line in enumerate(lines, 1) if (found := WRONG.search(line))}
    assert len(marked) >= 40
    assert errors["wrong.py"].keys() == marked.keys()
    for line, word in marked.items():
        assert word in errors["wrong.py"][line], f"line {line}: {errors['wrong.py'][line]}"
