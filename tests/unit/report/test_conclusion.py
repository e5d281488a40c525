"""A page begins with its conclusion: how right, looking where, how far to trust the maps, relying on what."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import xaikit
from xaikit import Gradient, IntegratedGradients, Report, explain_dataset
from xaikit.core.results import Interval
from xaikit.mitigation import Assessment, Comparison
from xaikit.report import Names
from xaikit.report.cards import drawn
from xaikit.report.conclusion import Digest
from xaikit.report.sections import mitigation_sections

X = torch.rand(12, 1, 9, 9, generator=torch.Generator().manual_seed(0)) + 0.1
Y = torch.tensor([0, 1] * 6)


class Corner(nn.Module):
    """Class 1 where the upper left corner is bright, and nothing else matters; `turned` exchanges the classes."""

    def __init__(self, turned=False):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(-1.0 if turned else 1.0))

    def forward(self, x):
        score = self.sign * (x[:, 0, :3, :3].sum((1, 2)) - 5)
        return torch.stack([-score, score], 1)


def bright(x, y):
    x = x.clone()
    x[:, :, :3, :3] = y[:, None, None, None] * 1.0
    return x


DATA = bright(X, Y), Y


def explained(explainer, folder, data=DATA):
    return explain_dataset(explainer, data, out=folder, keep_inputs=True, progress=False)


def conclusion(report):
    part = re.search(r'class="conclusion".*?</section>', report.html(), re.DOTALL).group()
    return re.findall("<li>(.*?)</li>", part)


def test_an_image_model_that_looks_at_a_corner(tmp_path):
    run = explained(IntegratedGradients(Corner(), baseline="zeros"), tmp_path / "a")
    right, looks, trust, alone = conclusion(Report([run]))
    assert right == "The model is right on 100.0 % of 12 samples."
    assert looks == "What it looks at: 100 % of the relevance lies in the upper left, a ninth of the picture."
    assert trust == "How far to trust the maps: maps of integrated_gradients add up to the score within 1 % (median)."
    assert alone.startswith("A single explainer cannot show")


def test_two_models_are_compared(tmp_path):
    runs = [explained(Gradient(Corner(turned)), tmp_path / name) for name, turned in (("old", True), ("new", False))]
    right, *looks = conclusion(Report(runs))
    assert right == (
        "Right predictions: old: 0.0 % of 12; new: 100.0 % of 12. From old to new, 12 turned right and 0 turned wrong."
    )
    assert [("old" in sentence, "new" in sentence) for sentence in looks[:2]] == [(True, False), (False, True)]


def test_the_agreement_is_the_rank_correlation(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(196, 2))
    runs = [explained(e, tmp_path / e.NAME) for e in (Gradient(model), IntegratedGradients(model))]
    pairs = [(a.values.abs().flatten(), b.values.abs().flatten()) for a, b in zip(*runs, strict=True)]
    mean = np.mean([spearmanr(a.numpy(), b.numpy()).statistic for a, b in pairs])  # 9 x 9 pixels are not pooled
    sentence = conclusion(Report(runs))[-1]
    assert float(re.search(r"correlation (-?[\d.]+)", sentence).group(1)) == pytest.approx(mean, abs=0.006)
    word = "agree (" if mean >= 0.6 else "agree in part" if mean >= 0.3 else "disagree"
    assert word in sentence


def test_a_table_names_its_columns(tmp_path):
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 3.0, -1.0], [0.0, 3.0, -1.0]]))
    run = explained(Gradient(model), tmp_path / "t", (torch.rand(5, 3), torch.zeros(5).long()))
    looks = conclusion(Report([run], names=Names(features=("age", "race", "priors"))))[1]
    assert looks == "What it looks at, by its share of the relevance: race (75 %), priors (25 %), age (0 %)."


def test_it_says_whether_the_model_relies_on_the_shortcut():
    mask = torch.zeros(9, 9)
    mask[:3, :3] = 1
    judged = [xaikit.assess(m, DATA, shortcut_masks=mask, progress=False) for m in (Corner(), Fair())]
    sections = mitigation_sections(xaikit.compare({"before": [judged[0]], "after": [judged[1]]}))
    (sentence,) = conclusion(Report(sections=sections))
    assert sentence == (
        "The model &#39;after&#39; does not rely on the shortcut: with it exchanged, 0.0 % of the predictions change, "
        "and the accuracy goes from 0.0 % (before) to 50.0 % (after)."
    )
    (sentence,) = conclusion(Report(sections=mitigation_sections(xaikit.compare({"plain": [judged[0]]}))))
    assert sentence.startswith("The model still relies on the shortcut: with it exchanged, 100.0 % of the predictions")


class Fair(nn.Module):
    """Always class 0."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x):
        return self.bias + 0 * x.flatten(1)[:, :2]


def test_maps_of_one_explainer_share_a_scale_across_models(tmp_path):
    models = [nn.Sequential(nn.Flatten(), nn.Linear(81, 2)) for _ in range(2)]
    with torch.no_grad():
        models[1][1].weight.mul_(100)
    runs = [explained(Gradient(m), tmp_path / str(i)) for i, m in enumerate(models)]
    page = Report(runs)
    digest = Digest(runs, ["a", "b"])
    (card, *_) = list(page._cards(digest))
    assert card["maps"][0]["scale"] == card["maps"][1]["scale"]
    assert "the maps of one explainer share a scale in each sample" in page.html()
    (alone, *_) = list(Report(runs[:1])._cards(Digest(runs[:1], ["a"])))
    assert alone["maps"][0]["scale"] < card["maps"][0]["scale"] / 10


def test_bars_sum_what_they_leave_out():
    weights = np.arange(20.0)
    card = drawn("tabular", weights, None, Names())
    assert card["bars"][-1]["word"] == "9 others, summed"
    assert card["bars"][-1]["value"] == sum(range(9))
    assert [bar["share"] for bar in card["bars"]] == [*(w / 19 for w in range(19, 8, -1)), 1.0]


def test_unsigned_maps_have_no_signed_legend(tmp_path):
    run = explained(xaikit.VarGrad(Corner(), n_iter=2), tmp_path / "v")
    page = Report([run]).html()
    assert "against the class" not in page
    assert 'name="colours"' not in page


def test_nothing_explained_concludes_nothing():
    assert 'class="conclusion"' not in Report(title="Nothing yet").html()


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [
        (slice(None), slice(3), "the left"),
        (slice(6, 9), slice(None), "the lower"),
        (slice(3, 6), slice(None), "the middle"),
    ],
)
def test_a_third_is_named_where_no_ninth_holds_most(tmp_path, rows, columns, place):
    """A ruler at an edge lies in three ninths, none of which holds much by itself."""

    class Edge(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign = nn.Parameter(torch.ones(()))

        def forward(self, x):
            score = self.sign * x[:, 0, rows, columns].sum((1, 2))
            return torch.stack([-score, score], 1)

    run = explained(IntegratedGradients(Edge(), baseline="zeros"), tmp_path / "a", (torch.ones(4, 1, 9, 9), Y[:4]))
    assert (
        conclusion(Report([run]))[1]
        == f"What it looks at: 100 % of the relevance lies in {place} third of the pictures."
    )


@pytest.mark.parametrize(("equally", "said"), [(0.5, "still relies"), (0.05, "does not rely")])
def test_the_page_says_what_the_assessment_says(equally, said):
    """A rare class is a twentieth of the predictions, and half of two classes."""
    shares = {"kept": 1.0, "flipped": 0.95}
    result = Assessment(
        shares, {name: {0: share} for name, share in shares.items()}, {"flipped": 0.05}, {}, None, 400,
        reliance=Interval(0.3, 0.5, 0.7, 0.95, 20), changed_by_class={"flipped": equally},
    )  # fmt: skip
    assert said in result.verdict
    (table, *_) = mitigation_sections(Comparison({"after": [result.row()]}))
    assert f"The model {said} on" in table.conclusion
