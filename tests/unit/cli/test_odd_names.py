"""Files, folders, columns and classes with quotes, line breaks, HTML and terminal codes in their names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaikit.runs import load_run

NET = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear({}, 2))\n"
NAMES = (
    "a\"b'c.png",
    "<script>alert(1)</script>.png",
    "two\nlines.png",
    "red\x1b[31m.png",
    "ünï cödé.png",
    "a&amp;b.png",
)
CLASSES = ("<b>bold</b>", 'say "no"')


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("oddnet.py").write_text(NET.format(48))
    Path("oddtable.py").write_text(NET.format(2))
    return tmp_path


def safe(name: str) -> str:
    """A name that a path may have here: no slash."""
    return name.replace("/", "_")


def pictures() -> None:
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        path = Path("set", safe(CLASSES[i % 2]), safe(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
    Path("set", safe(CLASSES[0]), safe("bad\n<i>\x1b[2J.png")).write_text("no picture")


def markup(page: str) -> set[str]:
    """Names of elements outside of scripts and styles."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return set(re.findall(r"<([a-z0-9]+)", page))


def test_pictures_and_classes(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    pictures()
    data = ("--data", "set", "--model", "oddnet:make", "--quiet")
    assert (
        leave("explain", *data, "--target", "label", "--explainer", "gradient", "--out", "run") == 1
    )  # one is skipped
    shown = capsys.readouterr()
    assert "bad\\n<i>\\x1b[2J.png is not" in shown.err
    assert shown.err.count("\n") == 1
    run = load_run("run")
    assert sorted(s.name.rpartition("/")[2] for s in run) == sorted(map(safe, NAMES))
    assert run.display_names["classes"] == sorted(map(safe, CLASSES))
    assert leave("report", "run", "--title", '<img src=x onerror="alert(1)">', "--out", "r.html") == 0
    page = Path("r.html").read_text()
    assert "<script>alert(1)" not in page
    assert not re.search(r"<img[^>]*onerror", page)
    assert "i" not in markup(page)
    assert "<b>bold" not in page
    capsys.readouterr()
    assert leave("shortcuts", "run", "--out", "found", "--method", "spray:n_clusters=2,n_neighbors=2") == 0
    assert "\x1b" not in capsys.readouterr().out
    json.loads(Path("found/shortcuts.json").read_text())


def test_one_picture_and_its_results(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    pictures()
    for name in NAMES[2:4]:
        path = next(Path("set").rglob(safe(name)))
        assert leave("explain", str(path), "--model", "oddnet:make", "--explainer", "gradient") == 0
        assert "\x1b" not in capsys.readouterr().out
    assert leave("explain", "no\x1b[31m\nfile.png", "--model", "oddnet:make") == 2
    shown = capsys.readouterr().err
    assert "no\\x1b[31m file.png" in shown
    assert shown.count("\n") == 1


def test_columns_and_labels(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text('"<i>age</i>","a ""b"", c","out\ncome"\n1,2,<u>x</u>\n3,4,"y ""z"""\n')
    data = ("--data", "t.csv", "--labels", "out\ncome", "--model", "oddtable:make", "--quiet")
    assert leave("explain", *data, "--explainer", "gradient", "--out", "run") == 0
    assert load_run("run").display_names["features"] == ["<i>age</i>", 'a "b", c']
    assert leave("report", "run", "--out", "r.html") == 0
    page = Path("r.html").read_text()
    assert not {"i", "u"} & markup(page)
    capsys.readouterr()
    assert leave("explain", *data, "--columns", "\x1b[31m", "--out", "other") == 2
    assert "\x1b" not in capsys.readouterr().err
