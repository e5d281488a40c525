"""The walls of the house: layers, single importers, file sizes, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "xaikit"
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports flow downwards only: a room may import from its own floor and from those above it in this list.
FLOORS = [
    {"core"}, {"torch_ops"}, {"modality", "transforms"}, {"explainers"}, {"metrics"},
    {"tuning", "mitigation", "shortcuts", "recommendation", "runs"}, {"report"}, {"cli"}, {"testing"}, {"__main__"},
]  # fmt: skip
# A heavy library has one door each; whoever wants it goes through that room.
DOORS = {
    "zennit": ["explainers/lrp/"],
    "captum": ["explainers/captum_bridge.py"],
    "optuna": ["tuning/"],
    "matplotlib": ["report/"],
    "typer": ["cli/"],
    "sklearn": ["cli/", "shortcuts/"],
    "skimage": ["transforms/"],
    "lightning_fabric": ["cli/processes.py"],
    "jinja2": ["report/"],
    "psycopg": ["tuning/"],
    "torchvision": ["core/torchvision_ops.py"],
}
LONGEST = 400
MODULE_FIELDS = {"_modules", "_buffers", "_parameters", "_base"}  # of nn.Module and Tensor


def running(tree: ast.AST):
    """Every node of a file that runs: all but the blocks under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (inner for statement in node.orelse for inner in (statement, *running(statement)))
            continue
        yield node
        yield from running(node)


def imports(path: Path):
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_keeps_to_its_floor_doors_and_length(path):
    inside = str(path.relative_to(PACKAGE))
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "xaikit" and rest and inside != "__init__.py":
            assert floor(rest.split(".")[0]) <= floor(room(path)), f"{inside} imports {name}, which lies above it"
        for library, doors in DOORS.items():
            if top == library:
                assert any(inside.startswith(door) for door in doors), f"{inside} imports {name}; its door is {doors}"
    assert len(path.read_text().splitlines()) <= LONGEST


def private_accesses(tree: ast.Module):
    """Every ``x._name`` where x is neither self nor cls nor super()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and not owner.startswith("super("):
                yield node.lineno, node.attr, ast.unparse(node)


def private_names_by_room() -> dict[str, set[str]]:
    """The private methods, fields and functions that each room defines."""
    names: dict[str, set[str]] = {}
    for path in FILES:
        defined = names.setdefault(room(path), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                defined |= {t.attr if isinstance(t, ast.Attribute) else getattr(t, "id", "") for t in targets}
    return {home: {name for name in defined if name.startswith("_")} for home, defined in names.items()}


def test_no_room_reaches_into_another():
    """What a room needs of another one is public, so that a plugin can do the same."""
    names = private_names_by_room()
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in FILES
        for line, name, text in private_accesses(ast.parse(path.read_text()))
        if name not in names[room(path)] | MODULE_FIELDS and any(name in names[other] for other in names)
    ]
    assert not wrong, "\n".join(wrong)


def test_an_import_loads_nothing_heavy():
    heavy = ["torch", "zennit", "captum", "optuna", "matplotlib", "torchvision", "sklearn", "typer"]
    heavy += ["skimage", "pandas", "lightning_fabric"]
    script = (
        "import sys, xaikit\n"
        f"early = [m for m in {heavy} if m in sys.modules]\n"
        "xaikit.VarGrad; xaikit.LRPEpsilonPlus; xaikit.RRR; xaikit.AbPC; list(xaikit.EXPLAINERS)\n"
        "xaikit.EXPLAINERS.create('captum.lime')\n"
        f"late = [m for m in {heavy[1:]} if m in sys.modules]\n"
        "print(early, late)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] []"


def test_public_names_exist():
    import xaikit

    for name in xaikit.__all__:
        assert getattr(xaikit, name) is not None
    assert set(xaikit.__all__) == set(dir(xaikit))
    with pytest.raises(AttributeError, match="has no attribute 'VarGard'"):
        xaikit.VarGard  # noqa: B018
