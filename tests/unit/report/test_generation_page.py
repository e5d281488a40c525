"""Figures and the page of an explained generation."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from xaikit.core.errors import InvalidInputError
from xaikit.language import Generation
from xaikit.report.generation_figures import bars_figure, label_of, matrix_figure

VALUES = torch.tensor([[1.0, -2.0, 0.0, 0.0], [0.5, 0.25, -3.0, 0.0]])


def generation(**changes) -> Generation:
    fields = {
        "values": VALUES, "generated": [" $5", "</script>"], "tokens": ["a", " \n", " $5", "</script>"],
        "kinds": ["prompt", "prompt", "answer", "answer"], "n_prompt": 2, "scores": torch.tensor([1.0, 2.0]),
        "residual": torch.tensor([2.0, 4.25]), "score": "logit", "spec": {"name": "attn_lrp"},
    }  # fmt: skip
    return Generation(**{**fields, **changes})


def test_the_matrix_holds_the_values_and_leaves_the_future_out():
    axes = generation().plot().axes[0]
    drawn = axes.images[0].get_array()
    assert np.ma.getmaskarray(np.ma.masked_invalid(drawn)).tolist() == [
        [False, False, True, True],
        [False] * 3 + [True],
    ]
    assert drawn[1, :3].tolist() == VALUES[1, :3].tolist()
    assert axes.images[0].get_clim() == (-3, 3)
    assert [label.get_text() for label in axes.get_xticklabels()][1] == "\u21b5"
    with pytest.raises(InvalidInputError, match="scale must be above 0"):
        matrix_figure(generation(), scale=0.0)


def test_bars_are_sums_over_the_answer():
    axes = bars_figure(generation(), n=2).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [-1.75, -3.0, 1.5]
    assert axes.get_yticklabels()[2].get_text() == "2 others"
    assert label_of("\u6771") == "\u25a1"
    assert label_of("x" * 40).endswith("\u2026")
    with pytest.raises(InvalidInputError, match="n must be at least 1"):
        bars_figure(generation(), n=0)


def test_the_page_holds_the_values_and_no_text_ends_its_script(tmp_path):
    page = generation().to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    content = json.loads(data)
    assert content["values"] == VALUES.tolist()
    assert content["tokens"][3] == "</script>"
    assert page.count("</script>") == 2
