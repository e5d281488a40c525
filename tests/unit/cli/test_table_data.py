"""Tables, series and texts by the command line: encodings that are kept, JSON lines, long form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xaikit.cli.data import open_data
from xaikit.cli.masks import NamedMasks
from xaikit.cli.mend import Mend
from xaikit.cli.table_data import TableOptions, TextReader
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.files.pictures import Preparation
from xaikit.runs import load_run

NETS = """
import torch
from torch import nn

def four():
    torch.manual_seed(0)
    return nn.Linear(4, 2)

def series():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2))
"""
ROWS = "age,sex,hours,risk\n30,f,40,low\n50,m,20,high\n40,f,30,low\n20,m,10,high\n35,f,25,low\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tabnets.py").write_text(NETS)
    Path("people.csv").write_text(ROWS)
    return tmp_path


def test_the_training_datas_encoding_is_used_for_other_data(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", "tabnets:four", "--labels", "risk", "--classes", "low,high", "--quiet")
    new = ("--one-hot", "sex", "--standardise", "--encoding", "e.json")
    call = ("explain", "--explainer", "gradient_x_input", *model)
    assert leave(*call, "--data", "people.csv", *new, "--out", "run") == 0
    run = load_run("run")
    assert run.display_names["features"] == ["age", "sex=f", "sex=m", "hours"]
    x = torch.stack([s.inputs for s in run])
    assert torch.allclose(x[:, 0].mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(x[:, 0].std(correction=0), torch.tensor(1.0))
    Path("other.csv").write_text("hours,age,sex,risk\n40,30,f,low\n40,30,f,high\n41,31,f,high\n")
    assert leave(*call, "--data", "other.csv", "--encoding", "e.json", "--out", "other") == 0
    assert torch.equal(load_run("other")[0].inputs, x[0])
    capsys.readouterr()
    assert leave(*call, "--data", "people.csv", *new, "--out", "third") == 2
    assert "e.json is there and says how columns become numbers" in capsys.readouterr().err
    assert leave("explain", "people.csv", "--row", "4", *model, "--encoding", "e.json", "--no-figure") == 0
    Path("other.csv").write_text("hours,age,sex,risk\n40,30,x,low\n")
    assert leave(*call, "--data", "other.csv", "--encoding", "e.json", "--out", "fourth") == 2
    assert "row 2, column 'sex': 'x' is none of the encoding's categories" in capsys.readouterr().err
    mend = (
        "--mask-names",
        "sex",
        "--mitigator",
        "rrr:n_epochs=1",
        "--out",
        "m.pt",
        "--one-hot",
        "sex",
        "--standardise",
    )
    Path("other.csv").write_text("hours,age,sex,risk\n40,30,f,low\n20,50,f,high\n")
    assert leave("mitigate", "--data", "people.csv", "--test", "other.csv", *model, *mend) == 0


def test_unseen_categories_are_counted_and_say_whose_categories_there_are() -> None:
    options = TableOptions(labels="risk", one_hot=["sex"], encoding=Path("e"))
    with pytest.warns(UserWarning, match=r"wrote e, by the 5 rows of people\.csv"):
        train = open_data("people.csv", Preparation(), options=options)
    said = r"row 3, column 'sex': 'x' .* those of the 5 rows of people\.csv.*\(2 such"
    Path("more.csv").write_text("age,sex,hours,risk\n50,m,20,low\n50,x,20,low\n51,y,20,low\n")
    for encoding in (train.encoding, Path("e")):
        with pytest.raises(UnknownNameError, match=said):
            open_data("more.csv", Preparation(), options=TableOptions(labels="risk", encoding=encoding))


def test_validation_rows_of_mend_get_the_numbers_and_classes_of_the_data() -> None:
    Path("some.csv").write_text("hours,age,sex,risk\n40,30,f,high\n20,50,f,high\n")
    columns = {"labels": "risk", "standardise": True, "one_hot": "sex"}
    job = Mend(data="people.csv", model="tabnets:four", factor="column:indices=[0]", **columns)
    model = job.loaded()
    with pytest.warns(UserWarning, match="those of the 5 rows"):
        data, _, classes = job.judged(model)
    other, _, same = job.model_copy(update={"data": "some.csv"}).judged(model, like=data)
    assert list(classes) == list(same)
    assert other.labels == [list(classes).index("high")] * 2
    assert other.encoding == data.encoding


def test_test_data_get_the_numbers_of_the_training_data() -> None:
    options = TableOptions(labels="risk", one_hot=["sex"], standardise=True)
    with pytest.warns(UserWarning, match=r"standard deviations are those of the 5 rows of people\.csv"):
        train = open_data("people.csv", Preparation(), options=options)
    Path("one.csv").write_text("age,sex,hours,risk\n50,m,20,low\n")
    test = open_data("one.csv", Preparation(), options=TableOptions(labels="risk", encoding=train.encoding))
    assert torch.equal(test.read(0), train.read(1))
    masks = NamedMasks(["sex"], train)
    assert masks.of(torch.arange(2), torch.zeros(2, 4), 5).tolist() == [[0, 1, 1, 0]] * 2
    assert NamedMasks(["sex=m"], train).of(torch.arange(1), torch.zeros(1, 4), 5).tolist() == [[0, 0, 1, 0]]
    with pytest.raises(UnknownNameError, match="no column 'sexes'; did you mean 'sex'"):
        NamedMasks(["sexes"], train)


def test_series_in_long_form(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["id,time,heat,flow,state"]
    for name, state in {"pump 1": "ok", "pump 2": "bad", "pump 3": "ok"}.items():
        rows += [f"{name},{t},{t + len(rows)},{t * t},{state}" for t in (2, 0, 1)]
    Path("long.csv").write_text("\n".join(rows))
    call = ("explain", "--data", "long.csv", "--model", "tabnets:series", "--labels", "state", "--quiet")
    capsys.readouterr()
    assert leave(*call, "--out", "run") == 2
    assert "for time series give --series id,time" in capsys.readouterr().err
    assert leave(*call, "--series", "id,time", "--classes", "ok,bad", "--out", "run") == 0
    run = load_run("run")
    assert [s.name for s in run] == ["pump 1", "pump 2", "pump 3"]
    assert run.display_names["features"] == ["heat", "flow"]
    assert run[0].inputs.tolist() == [[1, 2, 3], [0, 1, 4]]
    assert [row["label"] for row in run.rows()] == [0, 1, 0]
    assert leave("report", "run", "--out", "r.html") == 0
    Path("long.csv").write_text("id,time,v,state\na,0,1,ok\na,1,2,bad\n")
    with pytest.raises(InvalidInputError, match="the series 'a' has several labels in 'state'"):
        open_data("long.csv", Preparation(), options=TableOptions(series=["id", "time"], labels="state"))
    with pytest.raises(InvalidInputError, match="--series names two columns"):
        open_data("long.csv", Preparation(), options=TableOptions(series=["id"]))


class Letters:
    """A tokenizer of letters."""

    unk_token, unk_token_id = "?", 0

    def __call__(self, text: str, *, max_length: int, **_: object) -> dict[str, torch.Tensor]:
        ids = [ord(c) for c in text[:max_length]]
        return {"input_ids": torch.tensor([ids + [0] * (max_length - len(ids))])}


def test_json_lines_have_text_and_label() -> None:
    Path("t.jsonl").write_text('{"text": "ab", "label": "good"}\n{"text": "c", "label": "bad"}\n')
    data = open_data("t.jsonl", Preparation(), options=TableOptions(length=3), tokenizer=TextReader(Letters(), "hf:x"))
    assert data[0][0].tolist() == [97, 98, 0]
    assert [data[i][1] for i in range(2)] == [1, 0]
    assert data.classes == ["bad", "good"]
    with pytest.raises(InvalidInputError, match="texts need a tokenizer"):
        open_data("t.jsonl", Preparation())
    Path("n.jsonl").write_text('{"a": 1, "b": 2.5}\n{"b": 3, "a": 4}\n')
    assert open_data("n.jsonl", Preparation()).read(1).tolist() == [4, 3]


def test_a_text_is_tokenized_once_however_often_it_is_read() -> None:
    asked: list[str] = []

    class Counting(Letters):
        def __call__(self, text: str, *, max_length: int, **options: object) -> dict[str, torch.Tensor]:
            asked.append(text)
            return super().__call__(text, max_length=max_length, **options)

    Path("t.jsonl").write_text('{"text": "ab", "label": "good"}\n{"text": "cd", "label": "bad"}\n')
    reader = TextReader(Counting(), "hf:x")
    samples = open_data("t.jsonl", Preparation(), options=TableOptions(length=2), tokenizer=reader)
    for _ in range(3):
        first = samples[0][0]
        assert first.dtype == torch.int64
        assert first.tolist() == [97, 98]
        first.zero_()  # what a caller does with it is the caller's business
        assert samples[1][0].tolist() == [99, 100]
    assert sorted(asked) == ["ab", "cd"]


@pytest.mark.parametrize("flag", ["--one-hot", "--series", "--columns", "--text"])
def test_flags_of_tables_with_other_data(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    np.savez("x.npz", x=np.zeros((2, 4), np.float32))
    assert leave("explain", "--data", "x.npz", "--model", "tabnets:four", "--out", "run", flag, "sex") == 2
    shown = capsys.readouterr().err
    assert f"{flag} is about the columns of a table (.csv, .tsv, .parquet, .jsonl), and x.npz is none" in shown
    assert json.dumps(shown)


def test_a_column_without_a_name_is_no_feature() -> None:
    Path("indexed.csv").write_text(",a,b,risk\n0,1,2,0\n1,4,5,1\n")
    with pytest.raises(InvalidInputError, match=r"indexed\.csv: column 1 has no name, .* --columns, or .*index=False"):
        open_data("indexed.csv", Preparation(), options=TableOptions(labels="risk"))
    data = open_data("indexed.csv", Preparation(), options=TableOptions(labels="risk", columns=("a", "b")))
    assert data[1][0].tolist() == [4, 5]
