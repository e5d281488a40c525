"""`xaikit summary`: the tables of a run as files, equal to those of the library."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import IntegratedGradients, explain_dataset
from xaikit.runs import Summary, load_run
from xaikit.runs.summary_tables import ClassMaps


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x = torch.randn(12, 3)
    explain_dataset(IntegratedGradients(nn.Linear(3, 2)), x, out="run", keep_inputs=True, targets=1, progress=False)


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_columns_clusters_classes_and_what_is_asked_for(
    table: None, leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("summary", "run", "--features", "age,sex,bmi", "--column", "sex", "--sample", "3", "--json")
    assert leave(*call) == 0
    result = json.loads(capsys.readouterr().out)
    names = ["classes", "clusters", "columns", "dependence-sex", "sample-3"]
    assert sorted(result["written"]) == sorted(f"summary/{n}.{end}" for n in names for end in ("csv", "png"))
    assert all(Path(path).stat().st_size for path in result["written"])
    columns = Summary(load_run("run")).columns()
    rows = rows_of("summary/columns.csv")
    assert [row["column"] for row in rows] == ["age", "sex", "bmi"]
    assert [float(row["mean"]) for row in rows] == columns.mean.tolist()
    best = ("age", "sex", "bmi")[int(columns.mean_size.argmax())]
    assert result["strongest"].startswith(f"{best} (")
    assert [float(row["sex"]) for row in rows_of("summary/dependence-sex.csv")] == columns.values[:, 1].tolist()


def test_maps_of_pictures_are_an_archive(
    samples: tuple[torch.Tensor, torch.Tensor], leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    explain_dataset(IntegratedGradients(net, n_steps=2), samples, out="run", targets=1, progress=False)
    assert leave("summary", "run", "--out", "maps") == 0
    assert capsys.readouterr().out == "summary of 20 samples in maps\n"
    maps = ClassMaps.load("maps/classes.npz")
    values = np.stack([sample.values.numpy() for sample in load_run("run")])
    assert np.allclose(maps.means[0], values.mean(0), atol=1e-6)


def test_wrong_calls(
    samples: tuple[torch.Tensor, torch.Tensor],
    table: None,
    leave: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    explain_dataset(IntegratedGradients(net, n_steps=2), samples, out="pictures", progress=False)
    for call, sentence in [
        (("run", "--column", "agee"), "there is no column 'agee'"),
        (("run", "--of-class", "0"), "holds no sample of which class 0 was explained"),
        (("pictures", "--column", "age"), "--column and --sample are for tables, and pictures holds image"),
        (("none",), "there is no folder none"),
    ]:
        assert leave("summary", *call) == 2
        assert sentence in capsys.readouterr().err
