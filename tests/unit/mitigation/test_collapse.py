"""A training that ends with one class for everything says so, with the figure."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit.mitigation import RRR, Counterexamples
from xaikit.mitigation.checks import CollapseWatch, DoubtWatch
from xaikit.mitigation.fabric import OneProcess

X, Y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2


def fit(mitigator, model, y, mask):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mitigator.set_kwargs(n_epochs=3, batch_size=16, random_state=0).fit(model, X, y, mask, progress=False)
    return [str(w.message) for w in caught if "collapsed" in str(w.message)]


class Sinking(nn.Module):
    """Right at first; its bias towards class 0 grows with every pass in training mode."""

    def __init__(self):
        super().__init__()
        self.scale, self.passes = nn.Parameter(torch.ones(())), 0

    def forward(self, x):
        self.passes += self.training
        return self.scale * torch.stack([0.1 * max(0, self.passes - 4) ** 3 - x[:, 0], x[:, 0]], 1)


def test_a_collapse_is_told_once_with_the_figure():
    said = fit(Counterexamples(lr=1e-6), Sinking(), Y, torch.tensor([0, 0, 0, 1.0]))
    assert len(said) == 1
    assert "100.0 % of the predictions of its last epoch are class 0, and 50.0 % of the samples" in said[0]
    assert "a smaller lambda_ce (now 1) or a smaller lr (now 1e-06)" in said[0]


def test_a_model_that_was_like_that_before_is_no_collapse():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([50.0, -50.0]))
    assert not fit(Counterexamples(lr=1e-6), model, Y, torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_samples_of_one_class_are_no_collapse(share):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([50.0, -50.0]))
    assert not fit(RRR(lr=1e-6), model, (torch.arange(64) < 64 * share).long(), torch.tensor([1.0, 0, 0, 0]))


def test_a_model_that_tells_the_classes_is_no_collapse():
    torch.manual_seed(0)
    y = (X[:, 1] > 0).long()
    assert not fit(Counterexamples(lr=0.1), nn.Linear(4, 2), y, torch.tensor([1.0, 0, 0, 0]))
    regression = RRR(lr=1e-3)
    assert not fit(regression, nn.Linear(4, 1), torch.rand(64), torch.tensor([1.0, 0, 0, 0]))


class OneOfTwo(OneProcess):
    """The first of two processes; the other one saw the same samples of other classes."""

    def __init__(self, others, classes):
        self.others, self.classes = others, classes

    def broadcast(self, value):
        return self.classes

    def sum(self, values):
        return [a + b for a, b in zip(values, self.others, strict=True)]


@pytest.mark.parametrize(
    ("others", "said"), [([40.0, 0, 0, 0, 40, 0], "1 of the model's 3"), ([0, 0, 40.0, 0, 20, 20], "")]
)
def test_samples_of_other_processes_count(others, said):
    """This process saw no class 1 and 2; the other one may have."""
    ends = {"is_first": True, "is_last": False, "is_told": True, "stacklevel": 2}
    for seen in (True, False):  # or nothing at all
        watch = CollapseWatch()
        if seen:
            watch.look(torch.eye(3)[torch.zeros(40, dtype=torch.long)], torch.zeros(40, dtype=torch.long))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watch.close_epoch(RRR(), OneOfTwo(others, 3), **ends)
        texts = [str(w.message) for w in caught]
        expected = said if seen else f"{1 + bool(said)} of the model's 3"
        assert len(texts) == bool(expected)
        assert all(text.startswith(expected) for text in texts)
    watch.close_epoch(RRR(), OneOfTwo([40.0, 0, 0, 40, 0, 0], 3), **{**ends, "is_told": False})  # the first one says it


@pytest.mark.parametrize(("scale", "is_told"), [(9.0, True), (0.1, False)])
@pytest.mark.parametrize("last", [True, False])
def test_flat_probabilities_of_a_class_for_each_position_are_told(last, scale, is_told):
    labels = torch.arange(12).view(4, 3) % 5
    logits = scale * nn.functional.one_hot(labels, 5).float()
    watch = DoubtWatch(RRR(target="label", output="log_probability"))
    doubt = watch.doubt(logits if last else logits.movedim(-1, 1), labels)
    assert float(doubt) == pytest.approx(float(1 - logits.softmax(-1).amax(-1).mean()))
    assert watch.doubt(logits, torch.zeros(4)).isnan()  # labels of another form say nothing
    watch.add(float(doubt))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.close_epoch(1.0, stacklevel=2)
    assert bool(caught) is is_told
