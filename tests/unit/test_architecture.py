"""The structure of the package: order of subpackages, single importers, file sizes, what an import loads."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "xaikit"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}

# A room is a subpackage. It may import from the rooms of its own floor and of the floors above it in this list.
FLOORS = [
    {"upward"}, {"core"}, {"torch_ops"}, {"files", "modality", "transforms", "factors"}, {"explainers"}, {"metrics"},
    {"tuning", "mitigation", "shortcuts", "influence", "recommendation", "runs", "language"}, {"report"}, {"studio"},
    {"cli"}, {"testing"}, {"__main__"},
]  # fmt: skip
# The files or rooms that may import a heavy library.
DOORS = {
    "zennit": ["explainers/lrp/"],
    "captum": ["explainers/captum_classes.py"],
    "optuna": ["tuning/"],
    "matplotlib": ["report/"],
    "typer": ["cli/"],
    "sklearn": ["cli/", "shortcuts/"],
    "skimage": ["transforms/"],
    "lightning_fabric": ["cli/processes.py"],
    "jinja2": ["report/"],
    "psycopg": ["tuning/"],
    "starlette": ["studio/"],
    "uvicorn": ["studio/"],
    "torchvision": ["core/torchvision_ops.py"],
}
# The file that may use private names of a library, with comments that say what breaks if they change.
PRIVATE_DOORS = {
    "core/torch_private.py": "torch",
    "core/lightning_private.py": "lightning",
    "core/accelerate_private.py": "accelerate",
    "explainers/captum_classes.py": "captum",
}
NAMED_TUPLE = ("_fields", "_replace", "_asdict", "_make")  # documented, and public for that
READERS = ("getattr", "hasattr", "setattr", "delattr", "attrgetter")
LONGEST = 400
MAKERS = (
    "empty", "zeros", "ones", "full", "eye", "arange", "linspace", "logspace", "rand", "randn", "randint", "randperm",
    "tensor", "as_tensor", "asarray", "scalar_tensor",
)  # fmt: skip


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The tree of a file, read once for all tests."""
    return ast.parse(path.read_text())


@functools.cache
def nodes_that_run(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file that runs, found once for all tests."""
    return tuple(running(parsed(path)))


def running(tree: ast.AST):
    """Every node of a file that runs: all except the blocks under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (inner for statement in node.orelse for inner in (statement, *running(statement)))
            continue
        yield node
        yield from running(node)


def imports(path: Path):
    """Every module that a file imports when it runs, also inside functions; a submodule by its own name."""
    for node in nodes_that_run(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def module_graph() -> dict[str, set[str]]:
    """What each module of the package imports, and the modules that it names in a string, as for `import_module`."""
    graph = {}
    for name, path in MODULES.items():
        strings = (node.value for node in nodes_that_run(path) if isinstance(node, ast.Constant))
        used = {*imports(path), *(text for text in strings if isinstance(text, str) and "." in text)}
        graph[name] = used & MODULES.keys() - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules that import each other, directly or through others."""
    reach = {name: set(used) for name, used in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    inside = {frozenset(n for n in reach[name] if name in reach[n]) for name in graph if name in reach[name]}
    return [set(circle) for circle in inside]


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


def test_the_search_for_circles_finds_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_imports_make_no_circle():
    """A lower room calls a higher one through `xaikit.upward`."""
    found = [sorted(circle) for circle in circles(module_graph())]
    assert not found, found


ALONE = """
import os, sys
import torch
for code in sys.argv[1:]:
    if os.fork() == 0:
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def test_registries_work_alone_and_rooms_are_at_hand():
    """Each in a process that has imported torch and nothing else."""
    registries = "from xaikit.core import EXPLAINERS\nprint(len(list(EXPLAINERS)) > 20)"
    rooms = "import xaikit\nprint(xaikit.metrics.PointingGame.__name__, xaikit.core.errors.XaikitError.__name__)"
    command = [sys.executable, "-c", ALONE, registries, rooms]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["True", "PointingGame XaikitError"]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in ("_", *NAMED_TUPLE)


def private_accesses(tree: ast.Module):
    """Every ``x._name``, also as ``getattr(x, "_name")``, where x is neither self nor cls nor super()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and not owner.startswith("super("):
                yield node.lineno, node.attr, ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in READERS:
            strings = (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
            yield from ((node.lineno, text, ast.unparse(node)) for text in strings if is_private(text))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            home = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            parts = [part for alias in node.names for part in ".".join((*home, alias.name)).split(".")]
            yield from ((node.lineno, part, ast.unparse(node)) for part in parts if is_private(part))


def private_names_by_room() -> dict[str, set[str]]:
    """The private methods, fields and functions that each room defines."""
    names: dict[str, set[str]] = {}
    for path in FILES:
        defined = names.setdefault(room(path), set())
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                leaves = [leaf for target in targets for leaf in ast.walk(target)]
                defined |= {
                    leaf.attr if isinstance(leaf, ast.Attribute) else getattr(leaf, "id", "") for leaf in leaves
                }
    return {home: {name for name in defined if name.startswith("_")} for home, defined in names.items()}


def test_no_room_reaches_into_another_or_into_a_library():
    """Rooms use only public names of each other; private names of libraries are used in one file only."""
    names = private_names_by_room()
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in FILES
        for line, name, text in private_accesses(parsed(path))
        if name not in names[room(path)] and str(path.relative_to(PACKAGE)) not in PRIVATE_DOORS
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
        "import torch, xaikit.cli.stream\n"
        "before = 'sympy' in sys.modules\n"
        "xaikit.VarGrad(torch.nn.Linear(2, 2)).explain(torch.rand(2, 2), 0)\n"
        "print(early, late, before is ('sympy' in sys.modules), 'scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] [] True False"


def test_public_names_exist():
    import xaikit

    assert len(xaikit.__all__) <= 60
    for name in xaikit.__all__:
        assert getattr(xaikit, name) is not None
    assert set(xaikit.__all__) == set(dir(xaikit))
    assert issubclass(xaikit.core.errors.InvalidInputError, xaikit.XaikitError)
    with pytest.raises(AttributeError, match="has no attribute 'VarGard'"):
        xaikit.VarGard  # noqa: B018


def test_type_checkers_see_the_same_names():
    import xaikit

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    names = {alias.asname: node.module for node in typed.body for alias in node.names}
    assert {name for name, home in names.items() if home == "xaikit"} == set(xaikit._ROOMS)
    names = {name: home for name, home in names.items() if home != "xaikit"}
    # mypy takes a function that is called as its module for the module, unless it is imported from there.
    assert {name: home.removesuffix(f".{name}") for name, home in names.items()} == xaikit._HOME_OF


def test_a_name_that_moved_says_where_it_is():
    import xaikit

    for name, home in xaikit._NEW_HOME_OF.items():
        assert name in importlib.import_module(home).__all__
        with pytest.raises(AttributeError, match=rf"xaikit.{name} is in {home} now: from {home} import {name}"):
            getattr(xaikit, name)
        assert not hasattr(xaikit, name)
        with pytest.raises(ImportError, match=rf"^xaikit.{name} is in {home} now"):
            exec(f"from xaikit import {name}")  # noqa: S102
    with pytest.raises(ImportError, match="cannot import name 'VarGard' from 'xaikit'; did you mean 'VarGrad'"):
        from xaikit import VarGard  # noqa: F401


def test_names_of_subpackages_say_where_they_are():
    import xaikit

    for name, home in (("mend", "mitigation"), ("scan", "shortcuts"), ("explain_generation", "language")):
        with pytest.raises(ImportError, match=rf"^{name} is in xaikit.{home}: from xaikit.{home} import {name}$"):
            exec(f"from xaikit import {name}")  # noqa: S102
    assert not hasattr(xaikit, "mend")  # a question imports nothing


@pytest.mark.parametrize(
    "library", ["PIL", "pandas", "matplotlib.pyplot", "torch.nn", "torch.nn.functional", "numpy", "builtins"]
)
def test_a_star_import_hides_nothing(library):
    import xaikit

    theirs = {name for name in dir(importlib.import_module(library)) if not name.startswith("_")}
    assert not theirs & set(xaikit.__all__)
    if library == "PIL":
        assert "Image" not in xaikit.__all__


# Names that say nothing of what they hold.
EMPTY_NAMES = {
    "about", "again", "asked", "bare", "beside", "dead", "done", "each", "found", "given", "heard", "held", "here",
    "kept", "known", "left", "lent", "live", "made", "mine", "named", "of", "own", "rest", "said", "seen", "shown",
    "spent", "taken", "theirs", "there", "told", "wanted", "whole", "wish", "words",
}  # fmt: skip
MOST_EMPTY_NAMES = 40


def empty_names(path: Path):
    """Line and name of each variable and parameter of a file whose name says nothing."""
    for node in ast.walk(parsed(path)):
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if stored else node.arg if isinstance(node, ast.arg) else None
        if name in EMPTY_NAMES:
            yield node.lineno, name


def test_names_say_what_they_hold():
    lines = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in FILES for line, name in empty_names(path)]
    assert len(lines) <= MOST_EMPTY_NAMES, "\n".join(lines)


def makers_without_device(path: Path) -> list[int]:
    """The lines where a tensor is made out of nothing, on whatever device is torch's default one."""
    calls = (node for node in nodes_that_run(path) if isinstance(node, ast.Call))
    made = (call for call in calls if ast.unparse(call.func).removeprefix("torch.") in MAKERS)
    return [call.lineno for call in made if not any(keyword.arg in (None, "device") for keyword in call.keywords)]


def test_threads_may_overlap_where_warnings_are_ignored():
    # `catch_warnings` may put back the filters of another thread: the command line and a measurement alone use it.
    users = {str(path.relative_to(PACKAGE)) for path in FILES if "catch_warnings" in path.read_text()}
    assert users == {"cli/main.py", "core/process_wide.py", "recommendation/measure.py", "testing/explainers.py"}


def test_a_tensor_made_out_of_nothing_names_its_device():
    # `torch.set_default_device` of the user is for the user's tensors.
    ours = (path for path in FILES if room(path) not in ("cli", "testing"))
    assert {str(path): lines for path in ours if (lines := makers_without_device(path))} == {}


def homes_of_types() -> dict[str, dict[str, str]]:
    """The value of each type alias, and the place of each class, by the name and then by the file."""
    homes: dict[str, dict[str, str]] = {}
    for path in FILES:
        tree, file = parsed(path), str(path.relative_to(ROOT))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, {})[file] = f"class in {file}"
        for node in tree.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name[0].isupper() and not name.isupper():
                    homes.setdefault(name, {})[file] = ast.unparse(node.value)
    return homes


def test_the_name_of_a_type_has_one_meaning():
    """A class is defined in one file; an alias may stand in several files with the same value."""
    several = {name: sorted(files) for name, files in homes_of_types().items() if len(set(files.values())) > 1}
    assert not several, several


def test_the_page_of_the_architecture_names_each_file_of_the_core_once():
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("## The files of the core")[2].partition("\n## ")[0]
    names = re.findall(r"`(\w+)\.py`", section)
    files = [path.stem for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__"]
    assert len(set(names)) == len(names)
    assert not set(files) ^ set(names), "docs/architecture.md, The files of the core, and xaikit/core/ differ in these"
