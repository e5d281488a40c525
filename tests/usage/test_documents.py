"""Every Python block and every `xaikit` command of the README and the docs runs; every docstring example holds."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest

import xaikit
from xaikit import core
from xaikit.cli import main
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.cd import registry as cd_registry
from xaikit.explainers.lrp import registry as lrp_registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|sh|output)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [m.name for m in pkgutil.walk_packages(xaikit.__path__, "xaikit.") if not m.name.endswith("__main__")]
# CI runs `make test` itself; the demo has a test of its own (tests/unit/cli); installing is the wheel test's.
LONG_PAGES = (
    *("training.md", "tuning.md", "shortcuts.md", "my-photos.md", "my-texts.md", "my-table.md", "generation.md"),
    *("index.md", "image.md", "recipes.md", "mitigation.md", "concepts.md", "datasets.md"),
)
PERCENT = re.compile(r"-?\d+(?:\.\d+)?(?= %)")
NEAR = 15.0  # points by which a printed share may differ from the page's: trainings are not the same on every machine
ELSEWHERE = ("make ", "pip ", "xaikit demo", "python -m benchmarks")


@pytest.fixture
def forget_new_names():
    """Take out of the registries, and of the rules of LRP and CD, what a page puts in."""
    rules = [(table, dict(table)) for table in (lrp_registry.USER_RULES, cd_registry.RULES)]
    before = {name: dict(getattr(core, name)._items) for name in ("EXPLAINERS", "METRICS", "MITIGATORS", "FACTORS")}
    yield
    for name, items in before.items():
        getattr(core, name)._items = items
    for table, entries in rules:
        table.clear()
        table.update(entries)


def _marked(page):
    """A page, to be run every night where it trains or searches for long."""
    return pytest.param(page, marks=pytest.mark.nightly) if page.name in LONG_PAGES else page


@pytest.fixture
def forget_new_modules(tmp_path):
    """Take out of sys.modules what a page writes as a file and a command imports."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), f"{name}.py")):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.usefixtures("forget_new_names", "forget_new_modules")
@pytest.mark.parametrize("page", [_marked(p) for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "pytorch_lightning" in page.read_text() or "from transformers" in page.read_text():
        import_torchvision()  # they import it, also where its compiled operations are of another torch
    names: dict[str, object] = {"__name__": "__main__"}
    ran, printed = 0, ""
    for number, (language, block) in enumerate(BLOCK.findall(page.read_text()), 1):
        if language == "output":
            check_printed(block, printed)
            continue
        if language == "python":
            exec(compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True), names)  # noqa: S102
            ran += 1
            continue
        printed = ""
        for line, _, comment in (row.partition(" #") for row in block.splitlines()):
            if line.strip() and not line.startswith(ELSEWHERE):
                ran += 1
                printed += run_command(line.strip(), int((re.findall(r"exit code (\d)", comment) or [0])[0]))
    assert ran > 0 or page.name == "architecture.md"


def run_command(line: str, code: int = 0) -> str:
    """Run a command in this process, and return what it prints; that the installed command starts is tested in
    test_install.py."""
    command, *arguments = shlex.split(line)
    assert command == "xaikit", f"a document shows {line!r}, which no test runs"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("default")  # the command prints notes, as for a user
        with pytest.raises(SystemExit) as exited:
            main.run(arguments)
    assert (exited.value.code or 0) == code, line
    return printed.getvalue()


def check_printed(shown: str, printed: str) -> None:
    """Every line that a page shows as printed is printed, in this order; numbers differ, shares only a little.

    A line "..." stands for any lines. Measured figures are of one machine, so only shares (in %) are compared.
    """
    rest = iter(printed.splitlines())
    for line in filter(None, shown.splitlines()):
        if line.strip() != "...":
            assert any(alike(line, other) for other in rest), f"the page shows {line!r}; printed was:\n{printed}"


def alike(shown: str, printed: str) -> bool:
    """Whether two lines have the same words, up to "..." at the end of the first, and shares near each other.

    Which class is the worst one, "47.5 % (benign)", may hang on a single sample.
    """
    begin = shown.rstrip().removesuffix("...").rstrip()
    lines = [re.sub(r"% \(\w+\)", "%", " ".join(line.split())) for line in (begin, printed)]
    words = [re.sub(r"[-\d.]+", "#", line) for line in lines]
    shares = zip(PERCENT.findall(begin), PERCENT.findall(printed), strict=False)
    same = words[0] == words[1] if begin == shown.rstrip() else words[1].startswith(words[0])
    return same and all(abs(float(a) - float(b)) <= NEAR for a, b in shares)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_merge_is_left_half_done(page):
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", page.read_text(), re.MULTILINE)


def test_the_readme_has_blocks():
    assert len(BLOCK.findall((ROOT / "README.md").read_text())) >= 6


@pytest.mark.usefixtures("forget_new_names")
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    runner = doctest.DocTestRunner()
    for docstring in doctest.DocTestFinder().find(importlib.import_module(name)):
        if docstring.examples:
            runner.run(docstring)
    assert runner.summarize().failed == 0
