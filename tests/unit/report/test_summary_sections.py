"""What a page says about a whole run, against the relevance that the run holds."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from xaikit import Gradient, GradientXInput, explain_dataset
from xaikit.cli import main
from xaikit.report import Names, Picture, Table, summary_sections


def a_run(folder, model, x, targets=None, **options):
    data = x if targets is None else (x, targets)
    settings = {"targets": "predicted" if targets is None else "label", "keep_inputs": True, "progress": False}
    return explain_dataset(GradientXInput(model, **options), data, out=folder, **settings)


def titles(sections):
    return [section.title for section in sections]


def test_a_table_of_several_classes(tmp_path):
    x, y = torch.randn(9, 4), torch.arange(9) % 2
    model = nn.Linear(4, 2)
    run = a_run(tmp_path / "run", model, x, y)
    classes, clusters = summary_sections(run, Names(classes=["no", "yes"], features=list("abcd")))
    assert isinstance(classes, Table)
    assert isinstance(clusters, Picture)
    relevance = x * model.weight[y]
    for k, row in enumerate(classes.rows):
        assert (row["class"], row["samples"]) == (("no", 5), ("yes", 4))[k]
        means = relevance[y == k].mean(0).tolist()
        assert [row[name] for name in "abcd"] == pytest.approx(means, abs=1e-6)
    assert titles([classes, clusters]) == ["Mean relevance in each class", "Columns that go together"]


def test_one_score_has_the_dependence_for_the_strongest_column(tmp_path):
    x = torch.randn(9, 3)
    model = nn.Linear(3, 1)
    model.weight.data = torch.tensor([[0.1, 9.0, 0.2]])
    sections = summary_sections(
        a_run(tmp_path / "run", model, pd.DataFrame(x.numpy(), columns=["a", "b", "c"])), title="g"
    )
    assert titles(sections) == ["Columns that go together, g", "Relevance of b by its value, g"]
    assert summary_sections(a_run(tmp_path / "few", model, x[:2])) == []


def test_pictures_have_a_map_for_each_class_and_texts_words(tmp_path):
    x, y = torch.rand(6, 1, 4, 4), torch.tensor([0, 2, 2, 0, 2, 2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    (maps,) = summary_sections(a_run(tmp_path / "run", model, x, y))
    drawn = [torch.from_numpy(axes.images[0].get_array().data) for axes in maps.figure.axes if axes.images]
    relevance = (x.flatten(1) * model[1].weight[y]).view(6, 4, 4).detach()
    for picture, k in zip(drawn, (0, 2), strict=False):
        assert torch.allclose(picture, relevance[y == k].mean(0).double(), atol=1e-6)
    assert maps.description.endswith("class 0 (2 samples), class 2 (4 samples).")
    text = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2))
    run = a_run(tmp_path / "texts", text, torch.randint(0, 5, (6, 4)), torch.zeros(6).long(), layer="0")
    (bars,) = summary_sections(run, Names(tokens=lambda ids: [f"w{int(i)}" for i in ids]))
    assert re.search(r"the largest: w\d -?0?\.?\d", bars.description)


def test_the_command_notes_what_has_no_mean(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    loader = DataLoader([(torch.rand(1, side, 4), 0) for side in (4, 4, 5, 5)], batch_size=2)
    explain_dataset(Gradient(model), loader, out="mixed", shard_size=2, keep_inputs=True, progress=False)
    a_run("alike", nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), torch.rand(4, 1, 4, 4), torch.arange(4) % 2)
    for folder, shown in (("alike", True), ("mixed", False)):
        with pytest.raises(SystemExit) as end:
            main.run(["report", folder, "--out", "page.html"])
        assert not end.value.code
        assert ("Mean relevance in each class" in (tmp_path / "page.html").read_text()) is shown
        assert ("no summary of mixed on the page: samples must be of one size" in capsys.readouterr().err) is not shown
