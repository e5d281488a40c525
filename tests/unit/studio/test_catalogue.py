"""The catalogue against a plain list of the run's rows."""

from __future__ import annotations

import os
import sqlite3

import pytest

from tests.unit.studio.conftest import Pictures, small_model
from xaikit import load_run
from xaikit.core.errors import InvalidInputError
from xaikit.runs.single_rows import SingleRows
from xaikit.studio.catalogue import ORDERS, Catalogue


@pytest.fixture
def catalogue(runs):
    made = Catalogue(SingleRows(runs[0]), runs[0] / "studio" / "index.sqlite")
    made.fill()
    return made


def test_every_filter_is_a_filter_of_the_list(catalogue, runs):
    rows = list(load_run(runs[0]).rows())
    for filters, fits in [
        ([], lambda r: True),
        ([("label", "is", 1)], lambda r: r["label"] == 1),
        ([("label", "wrong", None)], lambda r: r["label"] != r["predicted"]),
        (
            [("label", "right", None), ("folder", "is", "test")],
            lambda r: r["label"] == r["predicted"] and r["name"].startswith("test/"),
        ),
        ([("name", "contains", "N/1")], lambda r: "n/1" in r["name"]),
        ([("name", "contains", "' OR 1=1 --")], lambda r: False),
    ]:
        total, shown = catalogue.query(filters, count=100)
        expected = [r["index"] for r in rows if fits(r)]
        assert total == len(expected)
        assert [r["sample"] for r in shown] == expected


def test_orders_are_sorted_and_cut_into_pages(catalogue, runs):
    rows = list(load_run(runs[0]).rows())
    _, shown = catalogue.query(order="score", start=5, count=10)
    assert [r["score"] for r in shown] == sorted((r["score"] for r in rows), reverse=True)[5:15]
    x = Pictures().x  # sure is what has a large probability, whatever its logit
    probabilities = small_model()(x).softmax(1).amax(1).tolist()
    _, shown = catalogue.query(order="-confidence", count=40)
    assert [r["sample"] for r in shown] == sorted(range(40), key=probabilities.__getitem__)
    assert [r["confidence"] for r in shown] == pytest.approx(sorted(probabilities), abs=1e-6)
    _, shown = catalogue.query(order="wrong", count=40)
    wrong = [r["label"] != r["predicted"] for r in shown]
    assert wrong == sorted(wrong, reverse=True)
    for order in ORDERS:
        assert len({r["position"] for r in catalogue.query(order=order, count=100)[1]}) == len(rows)
    with pytest.raises(InvalidInputError, match="ordered by one of position"):
        catalogue.query(order="score; DROP TABLE samples")
    with pytest.raises(InvalidInputError, match="no column 'x'"):
        catalogue.query([("x", "is", 1)])


def test_a_choice_of_samples_is_spread_over_all(catalogue):
    """Data are often sorted by class: the first ones would be of one class."""
    assert [r["position"] for r in catalogue.spread([], 4)] == [0, 10, 20, 30]
    assert [r["position"] for r in catalogue.spread([("label", "is", 1)], 5)] == [1, 9, 17, 25, 33]
    assert [r["position"] for r in catalogue.spread([("label", "is", 1)], 100)] == list(range(1, 40, 2))
    assert catalogue.spread([("label", "is", 7)], 5) == []


def test_a_sample_read_alone_is_the_run_s(catalogue, runs):
    run = load_run(runs[0])
    for position in (0, 15, 16, 39):
        row = catalogue.at(position)
        sample = catalogue.run.sample(row["shard"], row["row"])
        assert sample == run[position]
    with pytest.raises(InvalidInputError, match="no row 99"):
        catalogue.run.sample(0, 99)


def test_an_index_of_another_state_is_made_anew(catalogue, runs):
    path = catalogue.path
    assert Catalogue(catalogue.run, path).progress == 1.0
    os.utime(catalogue.run.path(1))  # written again since
    again = Catalogue(catalogue.run, path)
    assert again.progress == 0.0
    again.fill()
    assert again.query()[0] == 40
    damaged = path.with_name("damaged.sqlite")
    damaged.write_bytes(b"no database at all" * 100)
    assert Catalogue(catalogue.run, damaged).progress == 0.0


def test_a_growing_run_gets_its_new_shards(runs):
    run, last = SingleRows(runs[0]), SingleRows(runs[0]).path(2)
    hidden = last.rename(last.with_suffix(".hidden"))
    catalogue = Catalogue(run, runs[0] / "studio" / "index.sqlite")
    catalogue.fill()
    assert catalogue.query()[0] == 32
    hidden.rename(last)
    catalogue.fill()
    assert catalogue.query()[0] == 40
    with catalogue.connection() as base:
        assert tuple(base.execute("SELECT count(*) FROM shards").fetchone()) == (3,)


def test_a_full_disk_is_an_error_of_the_disk(catalogue, monkeypatch):
    """The page sends its edits again after one, and drops what any other error refuses."""

    def full(*_, **__):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    monkeypatch.setattr("xaikit.studio.catalogue.sqlite3.connect", full)
    with pytest.raises(OSError, match="disk is full") as told:
        catalogue.query()
    assert told.value.filename == str(catalogue.path)
