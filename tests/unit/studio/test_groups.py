"""Groups that jobs made: filters by cluster and by factor, marks of a cluster, suggestions from both."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.studio.conftest import CLUSTERS, SIDE, Pictures, flags_of, write_jobs
from xaikit import load_masks, load_run
from xaikit.cli.mark_masks import MarkMasks
from xaikit.core.errors import InvalidInputError
from xaikit.core.intervals import share_interval
from xaikit.explainers import GradientXInput
from xaikit.factors import Column, EndTokens, Hue, Length, Window, Words
from xaikit.files.marks import find_marks
from xaikit.report import Names
from xaikit.runs import explain_dataset
from xaikit.shortcuts import Scan
from xaikit.shortcuts.effects import Effect
from xaikit.studio.suggestions import place_of


@pytest.fixture
def page(called, runs):
    write_jobs(runs[0])
    return called(runs[0])


def shown(page, query):
    return [card["index"] for card in page.get(f"/api/samples?side=16&count=100&{query}")["cards"]]


def test_filters_by_cluster_and_by_what_changes_with_a_factor(page):
    assert page.get("/api/jobs/1/groups")["groups"] == [
        {"group": "1-0", "title": "cluster 0", "samples": 4},
        {"group": "1-1", "title": "cluster 1", "samples": 2},
    ]
    assert [g["samples"] for g in page.get("/api/jobs/2/groups")["groups"]] == [3, 0]
    for number, members in CLUSTERS.items():
        assert shown(page, f"cluster=1-{number}") == members
    assert shown(page, "factor=2-0") == [4, 5, 6]
    assert shown(page, "factor=2-0&cluster=1-0") == [5]
    assert shown(page, "factor=2-1") == []
    for wrong in ("1", "1-0' OR 1=1", "x-1"):
        assert "such as 3-1" in page.get(f"/api/samples?cluster={wrong.replace(' ', '%20')}", status=400)["error"]
    assert "no job 9" in page.get("/api/samples?cluster=9-1", status=400)["error"]


def test_a_mark_of_a_cluster_counts_for_its_samples(page, runs):
    assert page.get("/api/samples/5")["clusters"] == [{"group": "1-0", "title": "cluster 0 of job 1"}]
    assert page.get("/api/samples/4")["clusters"] == []
    edit = {"meaning": "must-not-matter", "scope": "cluster", "cluster": "1-0", "base": 0, "added": [7, 2]}
    answer = page.post("/api/marks", {**edit, "position": 5})
    assert (answer["edit"], answer["runs"]) == (1, [7, 2])
    assert "is in no cluster 1-0" in page.post("/api/marks", {**edit, "position": 4}, status=400)["error"]
    folder = runs[0] / "marks" / "must-not-matter"
    names = [row["name"] for row in load_run(runs[0]).rows()]
    assert json.loads((folder / "cluster" / "1-0.samples").read_text()) == [names[i] for i in CLUSTERS[0]]
    expected = np.zeros((40, SIDE**2), bool)
    expected[np.ix_(CLUSTERS[0], [7, 8])] = True
    assert np.array_equal(load_masks(folder).numpy().reshape(40, -1) > 0, expected)

    class Data:
        pass

    Data.names = names
    masks = MarkMasks(*find_marks(folder), Data)
    read = masks.of(torch.arange(40), torch.zeros(40, 1, SIDE, SIDE), 40)
    assert np.array_equal(read.numpy().reshape(40, -1) > 0, expected)
    assert page.post("/api/marks", {**edit, "position": 2, "undo": True})["runs"] == []
    (folder / "cluster" / "1-0.samples").unlink()
    with pytest.raises(InvalidInputError, match="does not say which samples it has; mark it again"):
        load_masks(folder)


def test_suggestions_from_a_cluster_and_a_factor(page, runs):
    weights = np.stack([s.values[0].abs().numpy().reshape(-1) for s in load_run(runs[0])]).astype(float)
    answer = page.post("/api/suggest", {"by": "cluster", "cluster": "1-0", "threshold": 0.6})
    members = weights[CLUSTERS[0]]
    mean = (members / members.sum(1, keepdims=True)).mean(0)
    assert np.array_equal(flags_of(answer["runs"], SIDE**2), mean >= 0.6 * mean.max())
    assert page.post("/api/suggest", {"by": "factor", "job": "2", "number": 0})["runs"] == [0, 2, 6, 2]
    refused = page.post("/api/suggest", {"by": "factor", "job": "2", "number": 1}, status=400)
    assert refused["error"] == "this factor has no place that could be marked"


def test_places_of_factors_of_tables_and_series():
    columns = ("age", "race=a", "race=b")
    assert place_of(Column(names="race").spec(), "tabular", (3,), columns).tolist() == [1, 2]
    assert place_of(Column(indices=(0,)).spec(), "tabular", (3,)).tolist() == [0]
    assert place_of(Window(windows=4, number=1).spec(), "series", (12,)).tolist() == [3, 4, 5]
    assert place_of(Hue().spec(), "series", (12,)) is None


VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "the", "film", "##s", "video", "Ġtext"]
TEXTS = [[1, 3, 6, 4, 6, 2, 0], [1, 7, 4, 5, 3, 2, 0]]


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (Words(names=["video"]), [[2, 4], []]),
        (Words(names=["text", "s"]), [[], [1, 3]]),  # as the tokenizer writes them
        (Words(ids=[4, 3]), [[1, 3], [2, 4]]),
        (EndTokens(count=2), [[1, 2], [1, 2]]),  # [CLS] is no word
        (EndTokens(where="last"), [[4], [4]]),
    ],
    ids=lambda value: value.title if hasattr(value, "title") else "",
)
def test_words_that_a_scan_names_are_suggested_where_they_stand(called, tmp_path, factor, expected):
    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(8, 4), torch.nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.embedding(ids).mean(1))

    texts = torch.utils.data.TensorDataset(torch.tensor(TEXTS), torch.tensor([0, 1]))
    run = tmp_path / "run"
    explainer = GradientXInput(Reader(), layer="embedding")
    explain_dataset(explainer, texts, out=run, keep_inputs=True, progress=False)
    write_jobs(run)
    share = share_interval(torch.tensor([True, False]), 0.95)
    effects = [
        Effect(f.title, f.spec(), "content", share, share, 0, share, 1.0, 0.0, 0, 1.0, 0.1, ())
        for f in (factor, Length())
    ]
    Scan(tuple(effects), "text", 1.0, 2).save(run / "studio" / "jobs" / "2" / "scan.json")
    page = called(run, names=Names(tokens=lambda ids: [VOCABULARY[i] for i in ids]))
    assert [f["number"] for f in page.get("/api/jobs/2/result")["factors"]] == [0]
    asked = {"by": "factor", "job": "2", "number": 0}
    for position, marked in enumerate(expected):
        flags = flags_of(page.post("/api/suggest", {**asked, "position": position})["runs"], 7)
        assert np.flatnonzero(flags).tolist() == marked
    refused = page.post("/api/suggest", {**asked, "number": 1, "position": 0}, status=400)
    assert refused["error"] == "this factor has no place that could be marked"


def test_what_a_mended_model_changes_is_filtered_by_its_own_job(called, runs):
    """Two people compare two jobs at once, and the index is made anew in between."""
    predicted = {}
    for number in (1, 2):
        torch.manual_seed(number)
        model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))
        home = runs[0] / "studio" / "jobs" / str(number)
        explain_dataset(GradientXInput(model), Pictures(), out=home / "run", progress=False)
        (home / "job.json").write_text(json.dumps({"verb": "mend", "settings": {}, "begun": 0}))
        predicted[number] = model(Pictures().x).argmax(1).tolist()
    before = [row["predicted"] for row in load_run(runs[0]).rows()]
    expected = {n: [i for i, now in enumerate(p) if now != before[i]] for n, p in predicted.items()}
    assert expected[1] != expected[2]
    page = called(runs[0])
    for number in (1, 2):
        assert page.get(f"/api/jobs/{number}/after")["changed"] == len(expected[number])
    assert shown(page, "after=1&change=changed") == expected[1]
    (runs[0] / "studio" / "index.sqlite").unlink()
    again = called(runs[0])
    assert again.get("/api/jobs/1/after")["changed"] == len(expected[1])
    assert shown(again, "after=2&change=changed") == expected[2]
