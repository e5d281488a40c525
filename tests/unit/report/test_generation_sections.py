"""An explained answer as sections of a report."""

from __future__ import annotations

import re

import pytest
import torch

from xaikit.cli import main
from xaikit.language import Generation
from xaikit.report import Picture, Report, Table, generation_sections

EVIL = "<script>alert(1)</script>"


def generation(**changes) -> Generation:
    fields = {
        "values": torch.tensor([[1.0, -2.0, 0.5, 0.0, 0.0], [-0.5, -0.25, -3.0, -1.0, 0.0]]),
        "generated": [" Oslo", "\n"], "tokens": ["a", " b", EVIL, " Oslo", "\n"],
        "kinds": ["prompt"] * 3 + ["answer"] * 2, "n_prompt": 3, "scores": torch.tensor([1.0, 2.0]),
        "residual": torch.tensor([1.5, 6.75]), "score": "logit", "spec": {"name": "attn_lrp"}, "prompt": f"a b {EVIL}",
        "answer": " Oslo\n",
    }  # fmt: skip
    return Generation(**{**fields, **changes})


def test_a_row_names_what_counts_for_a_token():
    table, picture = generation_sections(generation(), title="Capital")
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    assert [row["rests on most"] for row in table.rows] == [f'"a" 1, "{EVIL}" 0.5', "nothing counts for it"]
    assert [row["generated"] for row in table.rows] == ['"Oslo"', "'\\n'"]
    assert [row["not in the row"] for row in table.rows] == [1.5, 6.75]
    assert table.conclusion == "The answer 'Oslo' rests most on \"a\" (attn_lrp)."
    assert "2 generated tokens (rows) and the 5 tokens" in picture.description


def test_an_answer_that_nothing_counts_for_has_no_conclusion():
    table, _ = generation_sections(generation(values=-torch.ones(2, 5), prompt="", answer=""))
    assert not table.conclusion
    assert table.note == "Explained is the logit, by attn_lrp."


def test_the_report_shows_both_and_escapes_the_text(tmp_path):
    page = Report(title="Answers", sections=generation_sections(generation())).save(tmp_path / "a.html").read_text()
    assert page.count("<script>") == Report(title="Answers").html().count("<script>")
    assert "rests most on" in page
    assert "Generated answer: matrix" in page


def test_the_command_shows_saved_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generation().save("one.npz")
    generation(units="words").save("two.npz")

    def titles(*flags):
        with pytest.raises(SystemExit) as end:
            main.run(["report", *flags, "--out", "page.html"])
        assert not end.value.code
        return re.findall(r"<h2>([^<]*)</h2>", (tmp_path / "page.html").read_text())

    both = ["Generated answer", "Generated answer: matrix"]
    assert titles("--generation", "one.npz") == both
    several = [title.replace("answer", f"answer, {name}") for name in ("one", "two") for title in both]
    assert titles("--generation", "one.npz", "--generation", "two.npz") == several
    assert "2 generated words (rows) and the 5 words" in (tmp_path / "page.html").read_text()
