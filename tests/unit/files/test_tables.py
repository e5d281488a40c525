"""Tables as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.files.tables import read_table


def table(tmp_path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a,b\n1.5,2\n4,5.25\n", "utf-8"),
        ("a;b\n1,5;2\n4;5,25\n", "utf-8-sig"),
        ("a;b\r\n1,5;2\r\n4;5,25\r\n", "utf-8"),
        ("a;b\n1.5;2\n4;5.25\n", "utf-8"),
        ("a\tb\n1,5\t2\n4\t5,25\n", "utf-16"),
        ("sep=;\na;b\n1,5;2\n4;5,25\n", "utf-8-sig"),
        (" a , b \n 1.5 , 2 \n\n 4 , 5.25 \n", "utf-8"),
        ('"a","b"\n"1.5","2"\n"4","5.25"\n', "utf-8"),
    ],
)
def test_separators_decimal_commas_and_marks(tmp_path: Path, text: str, encoding: str) -> None:
    content = read_table(table(tmp_path, text, encoding))
    assert content.header == ["a", "b"]
    assert [content.numbers(name) for name in "ab"] == [[1.5, 4], [2, 5.25]]


def test_texts_keep_their_separators_and_line_breaks(tmp_path: Path) -> None:
    content = read_table(table(tmp_path, 'text,y\n"good; very, good",1\n"two\nlines",0\n'))
    assert content.column("text") == ["good; very, good", "two\nlines"]
    assert content.lines == [2, 3]
    assert read_table(table(tmp_path, "text\ngood; film\nbad\n")).column("text") == ["good; film", "bad"]


def test_thousands_points_beside_decimal_commas(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "a;b\n1.234,5;1\n-0,5;2\n")).numbers("a") == [1234.5, -0.5]
    with pytest.raises(InvalidInputError, match=r"row 3, column 'a': '2\.5' has a decimal point where other rows"):
        read_table(table(tmp_path, "a;b\n1,5;1\n2.5;2\n")).numbers("a")


def test_windows_letters_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Windows-1252"):
        assert read_table(table(tmp_path, "größe,b\n1,2\n", "cp1252")).header == ["größe", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,5,2\n", "row 2: 3 values for 2 columns .* a number with a decimal comma needs another separator"),
        ("a,b\n1\n", "row 2: 1 values for 2 columns"),
        ("a;b\n1;2;3\n", "row 2: 3 values for 2 columns .separated by semicolons"),
        ("a,b,a\n1,2,3\n", "2 columns called 'a'"),
        ("", "needs a line of column names"),
        ("a,b\n", "needs a line of column names"),
        (b"\x00\x01\x02", "zero bytes"),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read_table(table(tmp_path, text))


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NULL", "?", " "])
def test_missing_values_are_told_with_their_column(tmp_path: Path, missing: str) -> None:
    content = read_table(table(tmp_path, f"a,age\n1,3\n2,{missing}\n4,5\n"))
    with pytest.raises(InvalidInputError, match=r"column 'age': 1 of 3 values are missing \(row 3\); .* --columns"):
        content.numbers("age")
    assert content.numbers("a") == [1, 2, 4]


@pytest.mark.parametrize("word", ["inf", "1_000", "-Infinity", "x", "1,5"])
def test_what_is_no_number(tmp_path: Path, word: str) -> None:
    with pytest.raises(InvalidInputError, match=r"row 2, column 'a'"):
        read_table(table(tmp_path, f'a,b\n"{word}",3\n')).numbers("a")
    with pytest.raises(UnknownNameError, match="no column 'c'"):
        read_table(table(tmp_path, "a,b\n1,3\n")).numbers("c")


def test_a_sample_is_not_taken_for_the_names_of_the_columns(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"the first row holds numbers only \(50, 22\.5, 0\); put a row with"):
        read_table(table(tmp_path, "50,22.5,0\n51,23.5,1\n"))
    with pytest.warns(UserWarning, match=r"the first row \(5, 1, 7\) is read as the names"):
        assert read_table(table(tmp_path, "5,1,7\n6,2,8\n")).header == ["5", "1", "7"]
    for header in ("0,1,2", "1,2,3"):  # as pandas writes an array
        assert read_table(table(tmp_path, f"{header}\n6,2.5,8\n")).numbers(header[2]) == [2.5]


def test_points_beside_decimal_commas_may_part_thousands(tmp_path: Path) -> None:
    content = read_table(table(tmp_path, "a;b\n1.234;1,5\n2.345;2,5\n"))
    with pytest.raises(InvalidInputError, match=r"column 'a': '1\.234' may be 1234, since other columns have decimal"):
        content.numbers("a")
    assert read_table(table(tmp_path, "a;b\n1.234;1.5\n2.345;2.5\n")).numbers("a") == [1.234, 2.345]
