"""Runs on one page: only over the same samples, each model with its own figures."""

from __future__ import annotations

import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from xaikit import Gradient, VarGrad, explain_dataset
from xaikit.core.errors import InvalidInputError
from xaikit.report import Report
from xaikit.report.packing import packed
from xaikit.runs import Run

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


class Rows(Dataset):
    """Samples with names, or fingerprints, or neither."""

    def __init__(self, x: torch.Tensor, names: tuple[str, ...] = (), marks: tuple[str, ...] = ()) -> None:
        self.x, self.names = x, names
        if marks:
            self.fingerprint = marks.__getitem__

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.x[i], 1


def model(winner: int) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    with torch.no_grad():
        net.bias.zero_()
        net.bias[winner] = 50
    return net


def run(folder: Path, data: Any, winner: int = 0, explainer: type = Gradient, **settings: Any) -> Run:
    bound = explainer(model(winner), **settings)
    return explain_dataset(bound, data, out=folder, progress=False, keep_inputs=True, targets="label")


NAMES = tuple(f"{k}.png" for k in range(6))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Rows(X, (*NAMES[:3], "dog.png", *NAMES[4:])), r"number 3 is 3\.png there and dog\.png here"),
        (Rows(X.flip(0)), "began with different first samples"),
        (Rows(X, NAMES, ("a", "b", "c", "d", "e", "other")), r"same name with other content"),
    ],
)
def test_a_map_never_stands_beside_another_sample(other: Rows, said: str, tmp_path: Path) -> None:
    named = bool(other.names)
    marks = ("a", "b", "c", "d", "e", "f") if hasattr(other, "fingerprint") else ()
    runs = [run(tmp_path / "a", Rows(X, NAMES if named else (), marks)), run(tmp_path / "b", other)]
    with pytest.raises(InvalidInputError, match=said):
        Report(runs)


def test_unnamed_samples_that_differ_later_are_refused_when_they_are_shown(tmp_path: Path) -> None:
    changed = X.clone()
    changed[4] += 1
    report = Report([run(tmp_path / "a", Rows(X)), run(tmp_path / "b", Rows(changed))])
    with pytest.raises(InvalidInputError, match="sample 4 differs between the runs"):
        report.html()


def test_the_same_samples_in_another_preparation_are_shown(tmp_path: Path) -> None:
    marks = tuple("abcdef")
    runs = [run(tmp_path / "a", Rows(X, NAMES, marks)), run(tmp_path / "b", Rows(2 * X, NAMES, marks))]
    assert Report(runs).html().count("data-index") == 6


def test_each_model_has_its_own_accuracy_weights_and_verdicts(tmp_path: Path) -> None:
    runs = [run(tmp_path / "before", Rows(X, NAMES), 0), run(tmp_path / "after", Rows(X, NAMES), 1)]
    runs.append(run(tmp_path / "after-vargrad", Rows(X, NAMES), 1, VarGrad, n_iter=2))
    page = Report(runs).html()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "0.0 % of 6" in text
    assert "100.0 % of 6" in text
    for r in runs[:2]:
        assert r.job["weights"][:12] in text
    card = text[text.index("0.png") :]
    assert "before: predicted 0 , is 1 wrong after: predicted 1 , is 1 right" in card
    assert "gradient (before)" in text
    assert "vargrad, after-vargrad" in text


def test_one_model_needs_no_table_of_models(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", Rows(X, NAMES)), run(tmp_path / "b", Rows(X, NAMES), 0, VarGrad, n_iter=2)]
    page = Report(runs).html()
    assert "<h2>Models</h2>" not in page
    assert "0.0 % of 6 samples with a label" in page


def unpacked(text: str) -> str:
    """What a packed text holds, read by zlib: 13 bits in two letters, a length in four bytes, the rest."""
    letters = [chr(c) for c in range(33, 127) if chr(c) not in "&<"]
    digits = [letters.index(letter) for letter in text]
    bits = "".join(f"{high * 92 + low:013b}" for high, low in zip(digits[::2], digits[1::2], strict=True))
    stored = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8))
    content = zlib.decompressobj(-15).decompress(stored[4:])
    assert len(content) == int.from_bytes(stored[:4], "big")
    return content.decode()


def test_cards_that_are_not_drawn_are_held_as_packed_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xaikit.report.html.DRAWN_AT_ONCE", 2)
    monkeypatch.setattr("xaikit.report.html.HELD_TOGETHER", 3)
    evil = "</script><b>ä€.png"
    page = Report([run(tmp_path / "run", Rows(X, [*NAMES[:5], evil]), 0)]).html()
    texts = re.findall(r'<script type="text/plain">(.*?)</script>', page, re.DOTALL)
    held = [card for text in texts for card in unpacked(text).split('<hr class="next">')]
    assert (len(texts), len(held)) == (2, 4)
    assert [re.findall("<h3>(.*?)</h3>", card) for card in held] == [*([n] for n in NAMES[2:5]), [html.escape(evil)]]
    assert max(map(ord, "".join(texts))) < 128  # a browser keeps these in a byte each
    facts = json.loads(re.findall(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)[0])
    assert facts["name"] == [*NAMES[2:5], evil]
    assert facts["index"] == [2, 3, 4, 5]
    assert set(map(len, facts.values())) == {4}
    assert "✓" in page  # beside right ones, by the style


@pytest.mark.parametrize("text", ["", "a", "<p>ä€😀</p>\n" * 300, "".join(map(chr, range(1, 3000))), "x" * 70_000])
def test_a_packed_text_holds_all_of_it(text: str) -> None:
    assert unpacked(packed(text)) == text
