"""scan: against the library called directly, its files, its exit codes, wrong calls."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.report.scans import scan_sections
from xaikit.shortcuts import Scan, scan

# The weights lie in the folder of the test, the nets here.
DATA = ("--data", "d.npz", "--model", "tests.unit.cli.test_scan:corner_reader")


def corner_reader() -> nn.Module:
    """Class 1 where the corner is bright."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    weight = torch.zeros(2, 12, 12)
    weight[1, :3, :3] = 1
    with torch.no_grad():
        net[1].weight.copy_(weight.flatten(1))
        net[1].bias.copy_(torch.tensor([4.5, 0.0]))
    return net


def column_reader() -> nn.Module:
    """Class 1 where the second column is positive."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, -1, 0], [0, 1, 0]]))
        net.bias.zero_()
    return net


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Samples whose corner tells the class, in the current folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)
    x, y = np.random.default_rng(0).random((40, 1, 12, 12), np.float32), np.arange(40) % 2
    x[:, 0, :3, :3] = y[:, None, None]
    np.savez("d.npz", x=x, y=y)
    return x, y


def test_scan_tells_what_the_library_tells(
    leave: Callable[..., int], pictures: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("scan", *DATA, "--classes", "dark,bright", "--seed", "3", "--quiet", "--out", "new/s.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("suspect: 100 % of predictions follow the top left corner")
    assert lines[1].split()[0] == "factor"
    assert lines[2].startswith("top left corner")
    assert "(dark)" in lines[2] or "(bright)" in lines[2]
    assert lines[-1] == "wrote new/s.json, new/s.png"
    rows = json.loads(Path("new/s.json").read_text())["effects"]
    shown = lines[2:-2]  # the table ends where nothing happens, and the file has all
    moving = [i for i, row in enumerate(rows, 1) if row["follows"]["mean"] >= 0.02]
    assert len(shown) == max(5, *moving) < len(rows)
    assert lines[-2] == f"and {len(rows) - len(shown)} more, which less than 2 % of predictions follow"
    assert Path("new/s.png").read_bytes()[:4] == b"\x89PNG"
    expected = dataclasses.replace(scan(corner_reader(), pictures, seed=3, progress=False), model=DATA[-1])
    assert Scan.load("new/s.json") == expected
    torch.save(corner_reader().state_dict(), "before.pt")
    assert leave("scan", *DATA, "--weights", "before.pt", "--factor", "border", "--quiet", "--out", "s.json") == 0
    sections = scan_sections(Scan.load("s.json"))  # a page of two models says of which one each scan is
    assert [part.title for part in sections] == ["Scan of before.pt", "Scan of before.pt, all factors"]
    assert sections[1].conclusion.startswith("scan of before.pt: ")


def test_factors_by_name_json_and_the_exit_code(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str], pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    assert len(pictures) == 2
    flags = (*DATA, "--quiet", "--json", "--no-figure", "--fail-if-suspect")
    assert leave("scan", *flags, "--factor", "corner:size=3", "--factor", "border") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["suspects"][0] == "top left corner"
    assert [e["title"] for e in told["scan"]["effects"]] == ["top left corner", "border"]
    assert told["written"] == ["scan.json"]
    assert told["scan"]["effects"][0]["changed_samples"] == list(range(40))
    assert leave("scan", *flags, "--factor", "corner:where=bottom-right") == 0
    capsys.readouterr()
    assert leave("scan", *flags, "--factor", "corner:size=3", "--limit", "15") == 3
    effect = json.loads(capsys.readouterr().out)["scan"]["effects"][0]
    assert effect["changed_samples"] == [i * 40 // 15 for i in range(15)]


def test_a_table_by_its_columns(
    leave: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(40, 3))
    labels = (values[:, 1] > 0).astype(int)
    rows = ["age,priors,sex,outcome", *(",".join(map(str, [*v, k])) for v, k in zip(values, labels, strict=True))]
    Path("people.csv").write_text("\n".join(rows) + "\n")
    net = "tests.unit.cli.test_scan:column_reader"
    assert leave("scan", "--data", "people.csv", "--labels", "outcome", "--model", net, "--quiet") == 0
    said = capsys.readouterr().out
    assert "100 % of predictions follow the column priors" in said.splitlines()[0]
    assert said.splitlines()[2].startswith("column priors")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--factor", "heu"), "did you mean 'hue'"),
        (("--factor", "hue"), "three channels"),
        (("--factor", "words:names=text"), "is of text data, got image"),
        (("--out", "s.txt"), "--out must end in .json"),
        (("--factor", "region"), "needs masks"),
    ],
)
def test_wrong_calls(
    leave: Callable[..., int],
    pictures: tuple[np.ndarray, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    said: str,
) -> None:
    assert len(pictures) == 2
    assert leave("scan", *DATA, *flags, "--quiet") == 2
    assert said in capsys.readouterr().err


def test_a_page_of_a_scan(leave: Callable[..., int], pictures: tuple[np.ndarray, np.ndarray]) -> None:
    assert len(pictures) == 2
    assert leave("scan", *DATA, "--quiet", "--no-figure") == 0
    assert leave("report", "--scan", "scan.json", "--out", "page.html", "--quiet") == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "suspect: 100 % of predictions follow the top left corner" in page
    assert "bottom right corner" in page
