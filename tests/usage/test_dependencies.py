"""What the package imports is declared; the oldest versions that are tested are those that are declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Read where a model of theirs is named, or what came with torch; the message of the import says how to install it.
OPTIONAL = {"timm", "transformers", "torchvision", "tensorflow"}

PARTS = {"markupsafe": "jinja2", "pydantic-core": "pydantic"}  # of another's interface, and always installed with it


def requirements(*lists: list[str]) -> dict[str, Requirement]:
    """Distribution to requirement, without xaikit's own extras."""
    parsed = (Requirement(line) for lines in lists for line in lines)
    return {_normalised(r.name): r for r in parsed if r.name != "xaikit"}


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The first part of each imported name, and whether it is imported with the module itself."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0], id(node) in top


def test_every_import_is_declared() -> None:
    """At the top of a module stand core dependencies only; inside a function also those of an extra."""
    core = set(requirements(PROJECT["dependencies"]))
    users = [v for k, v in EXTRAS.items() if k not in ("dev", "docs", "test")]
    extra = core | set(requirements(*users)) | OPTIONAL
    homes = packages_distributions()
    undeclared = []
    for path in sorted((ROOT / "xaikit").rglob("*.py")):
        for name, at_top in imports(path):
            if name == "xaikit" or name in sys.stdlib_module_names:
                continue
            distributions = {_normalised(d) for d in homes.get(name, [name])}
            distributions |= {PARTS[d] for d in distributions & set(PARTS)}
            if not distributions & (core if at_top else extra):
                undeclared.append(f"{path.relative_to(ROOT)}: {name}")
    assert undeclared == []


def test_the_oldest_versions_are_the_declared_lower_bounds() -> None:
    pins = requirements((ROOT / "constraints-oldest.txt").read_text().splitlines()[2:])
    lists = [v for k, v in EXTRAS.items() if k not in ("dev", "docs")]
    declared = requirements(PROJECT["dependencies"], *lists)
    assert set(pins) == set(declared)
    for name, pin in pins.items():
        (lower,) = (s.version for s in declared[name].specifier if s.operator == ">=")
        (exact,) = (s.version for s in pin.specifier)
        assert Version(exact) == Version(lower), name


def test_the_pinned_versions_are_allowed() -> None:
    """constraints.txt is a set of versions that pyproject.toml admits."""
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#")
    pins = requirements(list(lines))
    declared = requirements(PROJECT["dependencies"], *EXTRAS.values())
    for name in set(pins) & set(declared):
        (exact,) = (s.version for s in pins[name].specifier)
        assert declared[name].specifier.contains(exact), name


def test_github_runs_each_set_of_versions() -> None:
    """The file is YAML, each make target in it exists, and each Python is a string (3.10 would be the number 3.1)."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    pythons = ["3.11", "3.12", "3.13", "3.14"]
    for name, expected in {"oldest": pythons[:2], "pinned": pythons, "newest": pythons}.items():
        job = jobs[name]
        assert job["strategy"]["matrix"]["python"] == expected
        assert job["steps"][1]["with"]["python-version"] == "${{ matrix.python }}"
        (command,) = (step["run"] for step in job["steps"] if step.get("run", "").startswith("make "))
        goals = re.findall(r"(?<![\w-])test(?:-\w+)?", command)
        assert goals
        assert set(goals) <= set(targets)
