"""The documentation site builds without a warning, asks no network for anything, and names only what there is."""

from __future__ import annotations

import ast
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import xaikit
from tests.forks import warm
from xaikit import EXPLAINERS, METRICS, Explainer, recommend
from xaikit.core import MODALITIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
GENERATED = (
    "explainers/",
    "api/",
    "benchmarks.md",
    "papers.md",
    "changelog.md",
    "contributing.md",
    "report-example.html",
)


@pytest.mark.nightly
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed (the extra docs has it)"
)
def test_the_site_builds_without_a_warning(tmp_path):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    with warm():
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    for name in EXPLAINERS:
        page = (tmp_path / "site" / "explainers" / f"{name}.html").read_text()
        assert f'src="{name}.png"' in page
        assert "What it promises" in page
    for page in (tmp_path / "site").rglob("*.html"):
        asked = re.findall(r'(?:src="|<link[^>]*(?:stylesheet|preconnect)[^>]*href=")(https?:[^"]+)', page.read_text())
        assert not asked, (page.name, asked)


@pytest.mark.parametrize(
    "page", [*(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda p: p.name
)
def test_links_inside_the_repository_lead_somewhere(page):
    for link in LINK.findall(re.sub(r"(?ms)^```.*?^```", "", page.read_text())):
        target = os.path.relpath(page.parent / link, DOCS)
        generated = DOCS in page.parents and target.startswith(GENERATED)
        assert "://" in link or generated or (page.parent / link).exists(), link


def rows(page: str) -> list[list[str]]:
    """The cells of the tables' rows, headers too."""
    lines = (line.strip() for line in (DOCS / page).read_text().splitlines())
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def ours(page: str) -> list[str]:
    """The code in the column of xaikit; where it says "the same", the code of the other library."""
    cells = (first if second.startswith("the same") else second for first, second, *_ in rows(page))
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("code", ours("coming-from.md"))
def test_whoever_comes_from_elsewhere_finds_the_names(code):
    if code in ("xaikit list", "captum.", ".abs()", "targets"):
        return
    if re.fullmatch(r"\w+=?", code) and code[0].islower():
        assert code.rstrip("=") in Explainer.SETTINGS
        return
    if code.startswith("xaikit."):
        home, _, name = code.partition("(")[0].rpartition(".")
        of_class = home.rpartition(".")[2].istitle()
        owner = pkgutil.resolve_name(home) if of_class else importlib.import_module(home)
        assert callable(getattr(owner, name))
        return
    for node in ast.walk(ast.parse(code.replace("=...", "=None"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != "embedding":
            known = (EXPLAINERS, METRICS, MODALITIES, vars(pytest.importorskip("captum.attr")))
            assert any(node.value in names for names in known)
        registry = isinstance(getattr(node, "value", None), ast.Name) and node.value.id in ("EXPLAINERS", "METRICS")
        if isinstance(node, ast.Attribute) and not registry:
            assert hasattr(Explainer, node.attr)
        if isinstance(node, ast.Name) and node.id not in (
            "model",
            "x",
            "y",
            "b",
            "explainer",
            "metric",
            "data",
            "modality",
        ):
            assert hasattr(xaikit, node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.keywords:
            assert {k.arg for k in node.keywords} <= set(getattr(xaikit, node.func.id).SETTINGS)


MODELS = {
    "convolutions, ReLU": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), "image"),
    "transformer": (
        nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)),
        "time_series",
    ),
    "LSTM, GRU": (nn.LSTM(4, 8), "time_series"),
    "MLP on a table": (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "tabular"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_no_method_suits_a_model_better_than_the_first_choice(kind):
    (choice,) = (row[1] for row in rows("which-explainer.md") if row[0] == kind)
    found = recommend(*MODELS[kind]).candidates
    points = {candidate.name: candidate.points for candidate in found if candidate.suitable}
    first = re.findall(r"`([^`]+)`", choice)[0]
    assert points[first] == max(points.values())
