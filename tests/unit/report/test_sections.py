"""Sections of a report from evaluations, searches, trainings and profiles, in Python and from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from xaikit import Gradient, Report, SmoothGrad, VarGrad, evaluate, recommend, tune
from xaikit.cli import main
from xaikit.mitigation import Comparison, assess
from xaikit.report import Picture, Table, evaluation_sections, mitigation_sections, profile_sections, tuning_sections
from xaikit.tuning import TuneResult

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def data():
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2


@pytest.fixture(scope="module")
def table(model, data):
    explainers = {EVIL: Gradient(model), "vargrad": VarGrad(model, n_iter=3)}
    return evaluate(explainers, ["abpc", "sparseness"], data, progress=False)


@pytest.fixture(scope="module")
def tuned(model, data):
    return tune(SmoothGrad(model, n_iter=5), ["sparseness", "abpc"], data, n_trials=5, seed=0, progress=False)


@pytest.fixture(scope="module")
def comparison(model, data):
    mask = torch.tensor([1.0, 0, 0, 0])
    rows = [assess(m, data, shortcut_masks=mask, progress=False).row() for m in (model, nn.Linear(4, 2))]
    return Comparison({"before": rows[:1], "after": rows[1:]})


def test_an_evaluation_is_a_row_for_each_explainer(table):
    (section,) = evaluation_sections(table)
    assert section.columns == [
        "explainer",
        "abpc ↑",
        "abpc, 95 % interval",
        "sparseness ↑",
        "sparseness, 95 % interval",
        "samples",
    ]
    assert [row["abpc ↑"] for row in section.rows] == [table[name, "abpc"].mean for name in (EVIL, "vargrad")]
    assert section.rows[1]["abpc, 95 % interval"].split(" to ")[0] == f"{table['vargrad', 'abpc'].low:.3g}"


def test_failures_and_nan_of_an_evaluation_are_told(model, data, monkeypatch):
    def fail(*_):
        raise RuntimeError("it broke")

    monkeypatch.setattr(VarGrad, "_attribute", fail)
    (section,) = evaluation_sections(evaluate(["gradient", "vargrad"], "abpc", data, model=model, progress=False))
    assert section.rows[1]["abpc ↑"] == "failed"
    assert "vargrad, abpc failed: RuntimeError: it broke." in section.note


def test_a_search_shows_what_was_found_and_every_trial(tuned):
    sections = tuning_sections(tuned)
    tables = {s.title: s for s in sections if isinstance(s, Table)}
    pictures = {s.title: s for s in sections if isinstance(s, Picture)}
    assert list(tables) == ["Tuning", "Tuning: Pareto front", "Tuning: trials"]
    assert list(pictures) == ["Tuning: history", "Tuning: what mattered", "Tuning: front"]
    assert tables["Tuning"].rows[0]["sparseness"] == tuned.value
    assert "Sequential" not in tables["Tuning"].rows[0]["settings"]
    shown = tables["Tuning: trials"].rows
    assert [{name: row[name] for name in ("sparseness", "abpc")} for row in shown] == [
        r["values"] for r in tuned.trials
    ]
    assert len(tables["Tuning: Pareto front"].rows) == len(tuned.front)
    assert f"{tuned.value:.4g} at the best" in pictures["Tuning: history"].description


def test_a_search_without_a_choice_has_no_empty_figures(model, data):
    found = tune(SmoothGrad(model, n_iter=5), "abpc", data, n_trials=1, progress=False)
    assert [s.title for s in tuning_sections(found) if isinstance(s, Picture)] == ["Tuning: history"]


def test_a_mitigation_is_before_and_after(comparison):
    first, *pictures = mitigation_sections(comparison)
    assert first.columns == ["measure", "before", "after"]
    arrows = {"accuracy": "↑", "worst": "↑", "changed": "↓", "mass": "↓", "reliance": "↓", "relies": "↓"}
    assert {row["measure"]: row["after"] for row in first.rows} == {
        f"{m} {arrows[m.split()[0]]}": comparison.mean("after", m) for m in comparison.measures
    }
    assert [p.title for p in pictures] == ["Mitigation: accuracy", "Mitigation: relevance in the mask"]
    assert f"kept: before {100 * comparison.mean('before', 'accuracy kept'):.1f} %" in pictures[0].description
    with_groups = mitigation_sections(comparison, {"before": {"kept": {"cat": 0.25}}, "after": {"kept": {"cat": 1.0}}})
    assert with_groups[-1].rows == [{"group": "cat", "kept, before": 0.25, "kept, after": 1.0}]
    assert ">25.0 %</td>" in Report(sections=with_groups).html()
    several = mitigation_sections(Comparison({"rrr": [{"accuracy kept": 0.5}, {"accuracy kept": 0.7}]}))
    assert several[0].columns == ["measure", "rrr", "rrr ±"]


def test_a_profile_names_layers_and_explainers(model):
    found = recommend(model, "tabular")
    facts, ranked = profile_sections(found)
    assert {"what": "linear layers", "value": 2} in facts.rows
    assert {"what": "parameters", "value": sum(p.numel() for p in model.parameters())} in facts.rows
    assert [row["explainer"] for row in ranked.rows] == [c.name for c in found.candidates if c.suitable][:10]
    assert [s.rows for s in profile_sections(json.loads(found.to_json()))] == [facts.rows, ranked.rows]


def test_a_measured_profile_has_intervals(model):
    found = recommend(model, "tabular", torch.randn(6, 4), explainers=["gradient"])
    _, ranked = profile_sections(found)
    first = found.candidates[0]
    assert ranked.rows[0]["abpc"] == first.value
    assert ranked.rows[0]["95 % interval"] == f"{first.low:.3g} to {first.high:.3g}"
    state = json.loads(found.to_json())
    del state["candidates"][0]["interval"]  # as xaikit 0.1 wrote it
    assert profile_sections(state)[1].rows[0]["95 % interval"] == ""


def test_all_of_them_make_one_page_and_are_escaped(table, tuned, comparison, model):
    parts = [profile_sections(recommend(model, "tabular")), evaluation_sections(table)]
    parts += [tuning_sections(tuned), mitigation_sections(comparison)]
    page = Report(sections=[section for part in parts for section in part]).html()
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('<img class="figure"') == 5
    assert all(re.findall(r'<img class="figure"[^>]*alt="([^"]+)"', page))


# ---------------------------------------------------------------------- from the command


def leave(*arguments):
    with pytest.raises(SystemExit) as left:
        main.run(["report", *map(str, arguments)])
    return int(left.value.code or 0)


@pytest.fixture
def files(tmp_path, monkeypatch, table, tuned, comparison, model):
    monkeypatch.chdir(tmp_path)
    table.save("table.json")
    tuned.save("tuned.json")
    Path("mended.json").write_text(json.dumps({"comparison": comparison.to_dict()}))
    Path("rec.json").write_text(recommend(model, "tabular").to_json())
    return {"evaluation": "table.json", "tuning": "tuned.json", "assessment": "mended.json", "profile": "rec.json"}


def test_the_command_puts_the_same_sections_on_the_page(files, table, comparison, capsys):
    flags = [part for name, path in files.items() for part in (f"--{name}", path)]
    assert leave(*flags, "--out", "r.html", "--save-job", "job.yaml") == 0
    with pytest.raises(SystemExit):
        main.run(["run", "job.yaml"])
    assert "wrote r.html" in capsys.readouterr().out
    page = Path("r.html").read_text()
    loaded = tuning_sections(TuneResult.load("tuned.json"))
    parts = [profile_sections(json.loads(Path("rec.json").read_text())), evaluation_sections(table)]
    titles = [s.title for part in [*parts, loaded, mitigation_sections(comparison)] for s in part]
    assert re.findall(r"<h2>([^<]*)</h2>", page) == titles


def test_a_table_of_evaluate_is_known_as_one_and_any_rows_are_shown(files):
    Path("rows.json").write_text(json.dumps([{"a": 1, "b": [2]}]))
    assert leave("--table", "table.json", "--table", "rows.json", "--out", "r.html") == 0
    page = Path("r.html").read_text()
    assert "abpc, 95 % interval" in page
    assert "<td>[2]</td>" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one run, or a result"),
        (["--evaluation", "none.json"], "no such file: none.json"),
        (["--evaluation", "rec.json"], "rec.json is not what xaikit evaluate wrote"),
        (["--tuning", "table.json"], "table.json is not what xaikit tune wrote"),
        (["--assessment", "table.json"], "table.json is not what xaikit mitigate, mend, assess or compare wrote"),
        (["--profile", "tuned.json"], "tuned.json is not what xaikit recommend --out wrote"),
        (["--table", "text.txt"], "text.txt is not JSON"),
        (["--generation", "none.npz"], "no such file: none.npz"),
        (["--generation", "table.json"], "table.json holds no Generation that can be read"),
        (["--table", "rec.json"], "rec.json holds no rows to show"),
        (["--table", "table.json", "--out", "r.pdf"], "a report is saved as .html, got 'r.pdf'"),
    ],
)
def test_a_wrong_call_is_one_sentence(files, arguments, words, capsys):
    Path("text.txt").write_text("text")
    assert leave(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
