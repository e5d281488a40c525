"""compare: means and intervals over seeds against SciPy, and the figure."""

from __future__ import annotations

import json
import math

import pytest
from scipy import stats

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.mitigation import Assessment, compare
from xaikit.report.comparisons import plot_comparison


def of(kept, flipped):
    accuracy = {"kept": kept, "flipped": flipped}
    return Assessment(
        accuracy, {n: {0: v} for n, v in accuracy.items()}, {"flipped": 1 - flipped}, {"vargrad": 0.5}, 0.1, 9
    )


def test_intervals_against_scipy():
    values = [0.21, 0.25, 0.2]
    found = compare({"vanilla": [of(0.9, v) for v in values], "rrr": of(0.9, 0.9)}, confidence=0.9)
    low, high = stats.t.interval(0.9, 2, loc=sum(values) / 3, scale=stats.sem(values))
    mean, margin = found.mean("vanilla", "accuracy flipped"), found.margin("vanilla", "accuracy flipped")
    assert (mean - margin, mean + margin) == pytest.approx((low, high))
    assert math.isnan(found.margin("rrr", "accuracy flipped"))
    assert found.measures == (
        "accuracy kept",
        "accuracy flipped",
        "worst kept",
        "worst flipped",
        "changed flipped",
        "relies",
        "mass vargrad",
    )
    frame = found.to_pandas()
    assert len(frame) == 14
    again = json.loads(json.dumps(found.to_dict()))
    assert again["confidence"] == 0.9
    assert again["rows"]["rrr"] == found.rows["rrr"]
    of_version_0_1 = {"rrr": {"mass vargrad": {"mean": 0.5, "margin": None, "values": [0.5]}}}
    assert compare({"rrr": of(0.9, 0.9)}).from_dict(of_version_0_1).rows == {"rrr": [{"mass vargrad": 0.5}]}
    assert "0 flipped" not in found.measures
    by_group = compare({"vanilla": [of(0.9, v) for v in values]}, groups=True)
    assert by_group.mean("vanilla", "0 flipped") == found.mean("vanilla", "worst flipped")
    paired = compare({"a": [of(0.9, v) for v in values], "b": [of(0.9, v + 0.1) for v in values]})
    gain = paired.difference("accuracy flipped", "b", "a")
    assert (gain.mean, gain.margin, gain.n) == (pytest.approx(0.1), pytest.approx(0, abs=1e-12), 3)


def test_wrong_comparisons():
    found = compare({"a": [of(1, 1)] * 2, "b": of(1, 1)})
    with pytest.raises(InvalidInputError, match="'b' has 1 seeds and 'a' 2"):
        found.difference("accuracy kept", "b", "a")
    with pytest.raises(UnknownNameError, match="no measure 'accuracy kep'; did you mean 'accuracy kept'"):
        found.mean("a", "accuracy kep")
    with pytest.raises(UnknownNameError, match="no training 'c'"):
        found.mean("c", "accuracy kept")
    for wrong, error in (({}, InvalidInputError), ({"a": []}, InvalidInputError), ({"a": [0.5]}, InvalidTypeError)):
        with pytest.raises(error):
            compare(wrong)
    with pytest.raises(InvalidInputError, match="confidence"):
        compare({"a": of(1, 1)}, confidence=95)


def test_the_figure_shows_means_and_intervals(tmp_path):
    found = compare({"vanilla": [of(0.9, 0.2), of(0.9, 0.3)], "rrr": [of(0.9, 0.9), of(0.9, 0.9)]})
    figure = plot_comparison(found)
    bars = [p.get_height() for p in figure.axes[0].patches]
    assert bars == pytest.approx([0.9, 0.25, 0.9, 0.9])
    assert figure.axes[0].get_title() == "Accuracy"
    figure.savefig(tmp_path / "bars.png")
    assert plot_comparison(found, measures=["worst flipped", "mass vargrad"]).axes[0].get_title() == ""
    with pytest.raises(InvalidInputError, match="no measure begins with 'speed'"):
        plot_comparison(found, kind="speed")
