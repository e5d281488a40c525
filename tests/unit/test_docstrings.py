"""Docstrings of exported functions have Args, Returns and Raises, and the glossary has their terms."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from xaikit.core import errors

ROOT = Path(__file__).parents[2]
ROOM_NAMES = sorted(path.name for path in (ROOT / "xaikit").iterdir() if (path / "__init__.py").is_file())


def exported_functions(room_name: str):
    """The functions of a room's ``__all__`` and the methods of its classes that have parameters, by name."""
    module = importlib.import_module(f"xaikit.{room_name}".removesuffix("."))
    for name in getattr(module, "__all__", ()):
        member = getattr(module, name)
        if inspect.isfunction(member):
            yield name, member
        elif inspect.isclass(member) and member.__module__.startswith("xaikit"):
            fields = getattr(member, "__dataclass_fields__", {})
            for key, value in vars(member).items():
                function = getattr(value, "__func__", value)
                if not key.startswith("_") and key not in fields and inspect.isfunction(function):
                    yield f"{name}.{key}", function


@pytest.mark.parametrize("room_name", ["", *ROOM_NAMES])
def test_exported_functions_describe_their_arguments(room_name):
    missing = set()
    for name, function in exported_functions(room_name):
        parameters = set(inspect.signature(function).parameters) - {"self", "cls"}
        if parameters and "Args:" not in (function.__doc__ or ""):
            missing.add(name)
    assert not missing, f"no Args section: {sorted(missing)}"


# Beginnings of a sentence that says what a function does and not what it returns.
VERBS = {
    "Add", "Apply", "Ask", "Begin", "Build", "Call", "Change", "Check", "Close", "Collect", "Compute", "Copy", "Cut",
    "Declare", "Decompose", "Do", "Draw", "Exchange", "Explain", "Find", "Fit", "Follow", "Give", "Join", "Keep", "Let",
    "Look", "Make", "Measure", "Mend", "Note", "Open", "Overwrite", "Pass", "Prove", "Put", "Queue", "Raise", "Read",
    "Refuse", "Register", "Remember", "Remove", "Replace", "Return", "Run", "Save", "Say", "Scale", "Scan", "Search",
    "Set", "Show", "Skip", "Solve", "Split", "Start", "Take", "Tell", "Train", "Tune", "Wait", "Warn", "While", "Wrap",
    "Write",
}  # fmt: skip


def says_what_it_returns(function) -> bool:
    """Whether a docstring begins with what is returned, or has a section for it; one with several parts needs that."""
    text = inspect.getdoc(function) or ""
    kind = str(inspect.signature(function).return_annotation)
    if kind in ("None", str(inspect.Signature.empty)) or "Returns:" in text or "Yields:" in text:
        return True
    several_parts = kind.startswith("tuple[") and "..." not in kind
    return not several_parts and text.split()[0].rstrip(",:") not in VERBS


@pytest.mark.parametrize("room_name", ["", *ROOM_NAMES])
def test_exported_functions_say_what_they_return(room_name):
    """In the first line or under Returns; a function at the top of the package has Returns in any case."""
    silent = []
    for name, function in exported_functions(room_name):
        at_top = not room_name and "." not in name and "Returns:" not in function.__doc__
        if at_top or not says_what_it_returns(function):
            silent.append(name)
    assert not silent, f"begin the docstring with what is returned, or add Returns: {silent}"


def raised_by(function) -> set[str]:
    """Names of the public exceptions that the body of a function raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    names = {ast.unparse(error.func if isinstance(error, ast.Call) else error).rpartition(".")[2] for error in raised}
    return {name for name in names if inspect.isclass(getattr(errors, name, None))}


@pytest.mark.parametrize("room_name", ["", *ROOM_NAMES])
def test_exported_functions_name_the_errors_that_they_raise(room_name):
    missing = {}
    for name, function in exported_functions(room_name):
        section = (function.__doc__ or "").partition("Raises:")[2]
        if unnamed := {error for error in raised_by(function) if error not in section}:
            missing[name] = sorted(unnamed)
    assert not missing, f"not under Raises: {missing}"


def test_the_rules_of_docstrings_can_fail():
    def silent(x: int) -> int:
        """Double a number.

        Args:
            x: a number.
        """
        if x < 0:
            raise errors.InvalidInputError("negative")
        return 2 * x

    def two(x: int) -> tuple[int, str]:
        """The number and its text."""
        return x, str(x)

    silent.__annotations__["return"] = "int"
    assert raised_by(silent) == {"InvalidInputError"}
    assert not says_what_it_returns(two)
    silent.__doc__ = "Compute the double of a number."
    assert not says_what_it_returns(silent)
    silent.__doc__ = "The double of a number."
    assert says_what_it_returns(silent)


def test_the_glossary_has_the_words_that_docstrings_use():
    """Words of the field and of this library that somebody who knows torch need not know."""
    words = (
        "antithetic", "AbPC", "agglomerative", "attribution", "baseline", "bootstrap", "ClArC", "completeness",
        "composite", "concept", "conservation", "contextual decomposition", "counterexample", "decoy", "donor",
        "eigengap", "feature mask", "fingerprint", "gap", "head", "imputation", "interaction", "interval",
        "layer-wise", "LeRF", "manifest", "mitigator", "modality", "MoRF", "normalization", "nuisance", "Pareto",
        "penalty", "pooling", "position", "projection", "pruner", "quadrature", "registry", "relevance",
        "relevant region", "sampler", "score", "Shapley", "shard", "shortcut", "SpRAy", "spec string", "stabilizer",
        "superpixel", "target", "verdict", "warm-up", "worst group",
    )  # fmt: skip
    glossary = " ".join(re.findall(r"\*\*(.*?)\*\*", (ROOT / "docs" / "glossary.md").read_text())).lower()
    missing = [word for word in words if word.lower() not in glossary]
    assert not missing, missing
