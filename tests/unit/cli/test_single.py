"""INPUT that is no picture: a sentence, or one row of a data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xaikit.cli import single
from xaikit.cli.models import load_model
from xaikit.core import Attribution
from xaikit.explainers import Gradient, GradientXInput

NETS = """
import torch
from torch import nn

def table():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embedding(ids).sum(1))
"""
WORDS = ["[PAD]", "a", "fine", "film", "?"]
PEOPLE = ("people.csv", "--labels", "risk", "--classes", "low,high", "--model", "singlenets:table")
READ = ("--model", "singlenets:Reader", "--length", "6", "--explainer", "gradient_x_input")


class Tokenizer:
    """Looks words up; padded with 0."""

    def __call__(self, text: str, *, max_length: int, **_: Any) -> dict[str, torch.Tensor]:
        ids = [WORDS.index(w) if w in WORDS else 4 for w in text.split()]
        return {"input_ids": torch.tensor([(ids + [0] * max_length)[:max_length]])}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [WORDS[i] for i in ids]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("singlenets.py").write_text(NETS)
    monkeypatch.delitem(sys.modules, "singlenets", raising=False)  # that of another test's folder
    Path("people.csv").write_text("age,hours,risk\n30,40,low\n50,20,high\n41,35,low\n")
    Path("films.csv").write_text("film,mood\na fine film,1\na film,0\n")
    np.savez("people.npz", x=np.array([[30, 40], [50, 20.0]]), y=np.array([0, 1]))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer for --tokenizer hf:words."""
    known = {"hf:words": Tokenizer()}
    monkeypatch.setattr(single, "tokenizer_of", known.get)
    monkeypatch.setattr("xaikit.cli.hugging_face.tokenizer_of", known.get)


@pytest.mark.usefixtures("reads")
def test_a_sentence_longer_than_a_path_may_be(leave: Callable[..., int]) -> None:
    text = "a fine film " * 500
    assert leave("explain", text, *READ, "--tokenizer", "hf:words", "--no-figure") == 0
    (path,) = Path.cwd().glob("text-a-fine-film-a-*.gradient_x_input.npz")
    assert Attribution.load(path).tokens.tolist() == [[1, 2, 3, 1, 2, 3]]


@pytest.mark.usefixtures("reads")
def test_a_sentence(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("explain", "a fine film", *READ, "--tokenizer", "hf:words", "--target", "1") == 0
    shown = capsys.readouterr().out
    saved = Attribution.load("text-a-fine-film.gradient_x_input.npz")
    ids = torch.tensor([[1, 2, 3, 0, 0, 0]])
    expected = GradientXInput(load_model("singlenets:Reader"), layer="embedding").attribute(ids, 1)
    assert torch.equal(saved.values, expected)
    assert torch.equal(saved.tokens, ids)
    weights = expected.sum(2)[0].tolist()
    best = max(range(3), key=lambda i: abs(weights[i]))
    assert f"{WORDS[ids[0, best]]} ({weights[best]:+.2g})" in shown
    assert Path("text-a-fine-film.gradient_x_input.png").is_file()
    # The same sentence in a table, one row of it, is padded alike.
    row = ("films.csv", "--row", "2", "--text", "film", "--labels", "mood", "--target", "label", "--no-figure")
    assert leave("explain", *row, *READ, "--tokenizer", "hf:words") == 0
    assert torch.equal(Attribution.load("films-row-2.gradient_x_input.npz").values, saved.values)


def test_a_row_of_a_table(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    call = ("--explainer", "gradient", "--row", "3", "--target", "label")
    assert leave("explain", *PEOPLE, *call) == 0
    assert "strongest: " in (shown := capsys.readouterr().out)
    assert "age = 50" in shown
    expected = Gradient(load_model("singlenets:table")).attribute(torch.tensor([[50.0, 20]]), 1)
    assert torch.equal(Attribution.load("people-csv-row-3.gradient.npz").values, expected)
    # Counted as a report counts: the first of a .csv is the second line, the first of an array 0.
    asked = ("people.npz", "--row", "1", "--model", "singlenets:table", *call[:2], "--target", "label", "--json")
    assert leave("explain", *asked, "--out", "b.npz") == 0
    assert json.loads(capsys.readouterr().out)["targets"] == 1
    assert torch.equal(Attribution.load("b.npz").values, expected)
    assert leave("explain", *PEOPLE, *call, "--out", "a.npz", "--save-job", "job.toml") == 0
    assert leave("run", "job.toml") == 0
    assert torch.equal(Attribution.load("a.npz").values, expected)
    assert leave("explain", *PEOPLE, *call, "--layer", "0", "--out", "hidden.npz") == 0  # 8 numbers, not 2 columns
    assert Path("hidden.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("a fine film", *READ),
            "no such file: a fine film; a sentence needs a tokenizer: name the model as hf:FOLDER",
        ),
        (("nowhere", *READ), "no such file: nowhere\n"),
        ((".", *READ), ". is a folder: explain its images with --data ."),
        (("film.npy", *READ, "--tokenizer", "hf:words"), "no such file: film.npy"),
        (
            ("a film", *READ, "--tokenizer", "hf:words", "--row", "1"),
            "--row names a row of a .csv, .tsv, .parquet, .jsonl, .npy or .npz file",
        ),
        (PEOPLE, "people.csv is a data set: name one of its rows, --row N, or explain all, --data people.csv"),
        ((*PEOPLE, "--row", "1"), "people.csv has the rows 2 to 4, got --row 1"),
        (("people.npz", "--row", "2", *PEOPLE[5:]), "people.npz has the rows 0 to 1, got --row 2"),
        (
            ("people.npz", "--row", "0", "--text", "film", *PEOPLE[5:]),
            "--text is about the columns of a table",
        ),
        (("a film", *READ, "--tokenizer", "hf:words", "--target", "label"), "--target label needs data with labels"),
    ],
)
@pytest.mark.usefixtures("reads")
def test_what_cannot_be_is_told(
    leave: Callable[..., int], arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("explain", *arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("option", ["--text", "--labels", "--columns"])
def test_columns_of_what_has_none_are_told(
    leave: Callable[..., int], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", "people.npz", "--model", "singlenets:table")
    assert leave("explain", *data, "--out", "run", option, "age") == 2
    assert (
        f"{option} is about the columns of a table (.csv, .tsv, .parquet, .jsonl), and people.npz is none"
        in capsys.readouterr().err
    )
