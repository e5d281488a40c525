"""The comparison page says what its command finds: of xaikit, and of each peer that is installed here."""

from __future__ import annotations

import importlib.metadata

import pytest

from benchmarks.comparison import END, FEATURES, NO, PAGE, PEERS, YES, Feature, cells, definitions, has_ours, written


def rows():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in tables if len(row) == 2 + len(PEERS)]


def test_the_table_is_what_is_installed():
    head, *body = rows()
    assert [row[0] for row in body] == [feature.title for feature in FEATURES]
    checked = {
        i
        for i, peer in enumerate(PEERS, start=1)
        if definitions(PEERS[peer]) and head[i + 1] == f"{peer} {importlib.metadata.version(peer)}"
    }
    for feature, row in zip(FEATURES, body, strict=True):
        now = cells(feature)
        for i in {0, *checked}:
            if feature.counted and i == 0:  # the page has a date, and xaikit grows
                assert int(row[1]) <= int(now[0])
            else:
                assert row[i + 1] == now[i], (feature.title, head[i + 1])
    assert "not checked" not in {cell for row in body for cell in row}


def test_what_is_not_there_is_told():
    assert has_ours("explainer gradient")
    assert not has_ours("explainer gradients")
    assert not has_ours("xaikit.tunes")
    with pytest.raises(LookupError, match="dreams: xaikit has no xaikit.dream"):
        cells(Feature("dreams", ("xaikit.dream",), "dream"))
    nothing = Feature("nothing", (), "no_such_name_anywhere")
    assert set(cells(nothing)) <= {NO, "not checked"}
    assert cells(Feature("captum's", ("xaikit.tune",), "LayerConductance"))[:2] == [YES, YES]


def test_the_text_between_two_comments_is_replaced():
    page = written("a\n<!-- x -->\nold\n<!-- y -->\nb", "<!-- x -->", "<!-- y -->", "new")
    assert page == "a\n<!-- x -->\n\nnew\n\n<!-- y -->\nb"
    assert written(page, "<!-- x -->", "<!-- y -->", "new") == page
    assert END in PAGE.read_text(encoding="utf-8")
