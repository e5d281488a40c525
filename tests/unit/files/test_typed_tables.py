"""Parquet, JSON lines, encodings of columns, series in long form."""

from __future__ import annotations

import builtins
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xaikit.core.errors import InvalidInputError, MissingDependencyError, UnknownNameError
from xaikit.files.encoding import fit_encoding, load_encoding
from xaikit.files.series import read_series
from xaikit.files.tables import read_table


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_parquet_keeps_its_numbers(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = np.random.default_rng(0).normal(size=5)
    columns = {"age": values, "old": [True, False, True, None, False], "name": ["a,b", "c", None, "1,5", ""]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.header == ["age", "old", "name"]
    assert table.numbers("age") == values.tolist()
    assert table.column("name") == ["a,b", "c", "", "1,5", ""]
    with pytest.raises(InvalidInputError, match=r"column 'old': 1 of 5 values are missing \(row 4\)"):
        table.numbers("old")
    with pytest.raises(InvalidInputError, match=r"'a,b' is no number|values are missing"):
        table.numbers("name")
    doubled = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    parquet.write_table(doubled, tmp_path / "two.parquet")
    with pytest.raises(InvalidInputError, match="2 columns called 'a'"):
        read_table(tmp_path / "two.parquet")
    parquet.write_table(pa.table({"a": [[1, 2], [3]]}), tmp_path / "lists.parquet")
    with pytest.raises(InvalidInputError, match="'a' holds list"):
        read_table(tmp_path / "lists.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    random = np.random.default_rng(0)
    for trial in range(40):
        damaged = bytearray(content[: int(random.integers(len(content)))] if trial % 3 == 0 else content)
        for at in random.integers(0, max(1, len(damaged)), 5) if damaged else ():
            damaged[at] = int(random.integers(256))
        (tmp_path / "t.parquet").write_bytes(bytes(damaged))
        try:
            read_table(tmp_path / "t.parquet")
        except InvalidInputError as err:
            assert "t.parquet" in str(err)  # noqa: PT017 (damage to a value cannot be told)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def absent(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return usual(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'xaikit\[parquet\]'"):
        read_table(write(tmp_path / "t.parquet", "x"))


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        '{"text": "a \\"fine\\" film, really", "label": "good"}',
        "",
        '{"label": "bad", "text": "no\\nway", "n": 3}',
    ]
    table = read_table(write(tmp_path / "t.jsonl", "\n".join(lines)))
    assert table.column("text") == ['a "fine" film, really', "no\nway"]
    assert (table.column("label"), table.column("n"), table.lines) == (["good", "bad"], ["", "3"], [1, 3])
    for text, said in {
        '{"text": 1}\n[1]': "line 2 must hold an object",
        '{"text": "a"': "line 1 is not JSON",
        "[" * 100_000: "line 1 is not JSON",
        '{"a": 1, "a": 2}': "two fields called 'a'",
        '{"a": {}}': "'a' holds dict",
        "": "holds no rows",
    }.items():
        with pytest.raises(InvalidInputError, match=said):
            read_table(write(tmp_path / "t.jsonl", text))


TRAIN = "age;sex;city\n20,5;f;Oslo\n30;m;Rome\n39,5;f;Oslo\n"


def test_an_encoding_is_saved_and_used_again(tmp_path: Path) -> None:
    train = read_table(write(tmp_path / "train.csv", TRAIN))
    encoding = fit_encoding(train, ["sex", "age"], one_hot=["sex"], standardise=True)
    assert encoding.features == ["sex=f", "sex=m", "age"]
    x = torch.tensor(encoding.encode(train), dtype=torch.float64).T
    age = torch.tensor([20.5, 30, 39.5], dtype=torch.float64)
    expected = torch.stack(
        [torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 0]), (age - 30) / age.std(correction=0)], 1
    )
    assert torch.allclose(x, expected.double())
    other = read_table(write(tmp_path / "test.csv", "age,city,sex\n30,Bonn,m\n"))
    again = load_encoding(encoding.save(tmp_path / "e.json"))
    assert again == encoding
    assert again.encode(other) == [[0], [1], [0]]
    with pytest.raises(UnknownNameError, match=r"row 2, column 'sex': 'x' is none of .*known are 'f', 'm'"):
        encoding.encode(read_table(write(tmp_path / "test.csv", "age,sex\n30,x\n")))
    with pytest.raises(InvalidInputError, match=r"column 'sex': 1 of 1 values are missing"):
        encoding.encode(read_table(write(tmp_path / "test.csv", "age,sex\n30,\n")))
    with pytest.raises(UnknownNameError, match="--one-hot: the model gets no column 'sx'; did you mean 'sex'"):
        fit_encoding(train, ["age", "sex"], one_hot=["sx"])
    with pytest.raises(InvalidInputError, match="'f' is no number; .* --one-hot"):
        fit_encoding(train, ["age", "sex"], standardise=True)
    same = read_table(write(tmp_path / "same.csv", "a,b\n1,2\n1,3\n"))
    with pytest.warns(UserWarning, match="'a' has one value only"):
        assert fit_encoding(same, ["a"], standardise=True).encode(same) == [[0, 0]]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 1}', '{"version": 1, "columns": [1]}', '{"version": 2, "columns": []}', "[" * 9999],
)
def test_what_is_no_encoding(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"e\.json is "):
        load_encoding(write(tmp_path / "e.json", text))
    with pytest.raises(InvalidInputError, match="no such file"):
        load_encoding(tmp_path / "none.json")
    item = {"name": "a", "categories": [], "mean": 0, "std": 0}
    with pytest.raises(InvalidInputError, match="mean and std of 'a'"):
        load_encoding(write(tmp_path / "e.json", json.dumps({"version": 1, "columns": [item]})))


def test_series_in_long_form(tmp_path: Path) -> None:
    text = "id,time,heat,flow\nb,2,4,40\na,1,1,10\nb,1,3,30\na,10,2,20\n"
    with pytest.warns(UserWarning, match="at other times"):
        series = read_series(read_table(write(tmp_path / "s.csv", text)), "id", "time", ["heat", "flow"])
    assert series.names == ["b", "a"]
    assert series.values == [[[3, 4], [30, 40]], [[1, 2], [10, 20]]]
    dates = "id,time,v\na,2026-03-01,2\na,2026-01-31T23:00,1\n"
    assert read_series(read_table(write(tmp_path / "s.csv", dates)), "id", "time", ["v"]).values == [[[1, 2]]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,time,v\na,1,2\na,2,3\nb,1,4\n", "'a' has 2 points and 'b' has 1; a model's input has one length"),
        ("id,time,v\na,1,2\na,1.0,3\n", r"row 3: the series 'a' has two points at the time '1\.0'"),
        ("id,time,v\na,1,\n", "column 'v': 1 of 1 values are missing"),
        ("id,time,v\n,1,2\n", "column 'id': 1 of 1 values are missing"),
        ("id,time,v\na,soon,2\n", "'soon' is no time"),
        ("id,time,v\na,2026-01-31,2\na,4,2\n", "several kinds of times"),
    ],
)
def test_series_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read_series(read_table(write(tmp_path / "s.csv", text)), "id", "time", ["v"])


def test_series_with_other_steps_are_told(tmp_path: Path) -> None:
    head = "id,time,v\na,0,1\na,1,2\n"
    with pytest.warns(UserWarning, match="'a' and 'b' have their points at other times since the first"):
        read_series(read_table(write(tmp_path / "s.csv", f"{head}b,0,3\nb,2,4\n")), "id", "time", ["v"])
    later = read_series(read_table(write(tmp_path / "s.csv", f"{head}b,5,3\nb,6.1,4\n")), "id", "time", ["v"])
    assert later.values == [[[1, 2]], [[3, 4]]]


def test_summer_time_moves_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """02:30 does not exist on that day in Berlin, and would be 03:30."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        text = "id,time,v\na,2024-03-31T02:30,1\na,2024-03-31T03:30,2\n"
        assert read_series(read_table(write(tmp_path / "s.csv", text)), "id", "time", ["v"]).values == [[[1, 2]]]
    finally:
        monkeypatch.undo()
        time.tzset()
