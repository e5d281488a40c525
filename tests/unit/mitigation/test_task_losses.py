"""The task's own loss: any function of logits and labels, for every mitigator, in `loss` and in `fit`."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import CDEP, HINT, JTT, RRR, Counterexamples
from xaikit.mitigation.penalties import score_function
from xaikit.mitigation.reweighted import ReweightedMitigator

X = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(6, 6)
MASK[:2, :2] = 1
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 1.0]), label_smoothing=0.1)
CONCEPTS = ("AClArC", "PClArC", "RRClArC")  # they need a concept
TASKS = {
    "multi-label": (F.binary_cross_entropy_with_logits, (torch.rand(8, 3) > 0.5).float()),
    "weights and smoothing": (WEIGHTED, torch.arange(8) % 3),
    "soft labels": (lambda logits, y: F.cross_entropy(logits, y) + 1, torch.rand(8, 3).softmax(1)),
    "ignored labels": (nn.CrossEntropyLoss(ignore_index=-100), torch.tensor([0, -100, 1, 2, 1, -100, 0, 1])),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "mitigator", [RRR(target="random"), HINT(target="all"), CDEP(), Counterexamples()], ids=lambda m: m.NAME
)
def test_the_task_is_what_the_function_says(mitigator, task):
    function, labels = TASKS[task]
    model, mitigator = net(), mitigator.set_kwargs(task_loss=function)
    loss = mitigator.loss(model, (X, labels, MASK), seed=0)
    assert torch.allclose(loss.task, function(model(X), labels))
    assert loss.logits.requires_grad
    loss.total.backward()
    plain = mitigator.loss(model, (X.numpy(), labels.numpy(), MASK), weight=0)
    assert torch.equal(plain.total, function(model(X), labels))
    settings = {"n_epochs": 10, "lr": 0.01, "batch_size": 8, "random_state": 0}
    history = mitigator.set_kwargs(**settings).fit(model, X, labels, MASK, progress=False)
    assert history["total"][-1] < history["total"][0]


def test_what_is_no_loss_is_refused():
    with pytest.raises(InvalidTypeError, match="RRR.task_loss must be a function"):
        RRR(task_loss=nn.CrossEntropyLoss)
    with pytest.raises(InvalidInputError, match="one of cross_entropy, .* regression or a function .* got 'mes'"):
        RRR(task_loss="mes")
    with pytest.raises(InvalidInputError, match="cross_entropy has no setting 'smoothing'; it has weight, label"):
        RRR(task_loss="cross_entropy:smoothing=0.1")
    with pytest.raises(InvalidInputError, match=r"shape of the model's output \(8, 3\), got \(8,\)"):
        RRR(task_loss="mse", target="random").loss(net(), (X, torch.arange(8) % 3, MASK))
    each = RRR(task_loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(InvalidInputError, match=r"one number, a tensor of shape \(\), got shape \(8,\); take its mean"):
        each.loss(net(), (X, torch.arange(8) % 3, MASK))
    with pytest.raises(InvalidInputError, match=r"a row for each of 8 samples, got shape \(5,\)"):
        each.loss(net(), (X, torch.arange(5), MASK))
    assert all("task_loss" in MITIGATORS.get(name).SETTINGS for name in MITIGATORS)


NAMED = {
    "cross_entropy": (F.cross_entropy, torch.arange(8) % 3),
    "cross_entropy:label_smoothing=0.1,weight=[1,3,1]": (WEIGHTED, torch.arange(8) % 3),
    "cross_entropy:ignore_index=-1": (nn.CrossEntropyLoss(ignore_index=-1), torch.tensor([0, -1, 1, 2, 1, -1, 0, 1])),
    "binary_cross_entropy": (F.binary_cross_entropy_with_logits, (torch.rand(8, 3) > 0.5).float()),
    "binary_cross_entropy:pos_weight=3": (
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
        (torch.rand(8, 3) > 0.5).float(),
    ),
    "mse": (F.mse_loss, torch.rand(8, 3)),
    "mae": (F.l1_loss, torch.rand(8, 3)),
    "huber:delta=0.5": (lambda output, y: F.huber_loss(output, y, delta=0.5), torch.rand(8, 3)),
}


@pytest.mark.parametrize("spec", NAMED)
def test_a_name_stands_for_torchs_loss(spec):
    function, labels = NAMED[spec]
    model, mitigator = net(), MITIGATORS.create({"name": "rrr", "settings": {"task_loss": spec, "target": "random"}})
    assert MITIGATORS.create(mitigator.spec()) == mitigator
    for y in (labels, labels.numpy(), labels.tolist()):
        assert torch.allclose(mitigator.loss(model, (X, y, MASK), seed=0).task, function(model(X), labels))


class Segmenter(nn.Module):
    """Logits for each position: (N, C, H, W), or (N, H * W, C) as a language model has them."""

    def __init__(self, tokens):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.tokens = nn.Conv2d(1, 3, 3, padding=1), tokens

    def forward(self, x):
        maps = torch.tanh(self.layer(x))
        return maps.flatten(2).mT if self.tokens else maps


@pytest.mark.parametrize("target", ["label", "predicted", "all", "random"])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_class_for_each_position(tokens, target):
    """Segmentation and tokens: the penalty's derivative equals finite differences of its definition."""
    model, x = Segmenter(tokens).double(), X.double()[:2]
    labels = torch.randint(3, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    labels[0, 0, 0] = -100
    labels = labels.flatten(1) if tokens else labels
    mitigator = RRR(task_loss="cross_entropy", target=target)
    loss = mitigator.loss(model, (x, labels, MASK), seed=3)
    logits = model(x).mT if tokens else model(x)
    assert torch.allclose(loss.task, F.cross_entropy(logits, labels))
    loss.penalty.backward()
    weight = model.layer.weight
    step, exact = 1e-6, weight.grad[1, 0, 1, 1].item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 0, 1, 1] += sign * step
        values.append(mitigator.loss(model, (x, labels, MASK), seed=3).penalty.item())
        with torch.no_grad():
            weight[1, 0, 1, 1] -= sign * step
    assert exact == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-9)
    if target == "label":
        x.requires_grad_()
        chances = (model(x) if tokens else model(x).movedim(1, -1)).log_softmax(-1)
        known = labels != -100
        score = (chances.gather(-1, labels.clamp_min(0)[..., None])[..., 0] * known).sum()
        (gradient,) = torch.autograd.grad(score, x)
        assert torch.allclose(loss.penalty, (gradient.square() * MASK).sum())
    history = mitigator.set_kwargs(n_epochs=2, lr=0.01).fit(model, x.detach(), labels, MASK, progress=False)
    assert len(history.epochs) == 2


def test_maps_with_labels_of_another_kind_are_refused_with_the_remedy():
    with pytest.raises(InvalidInputError, match=r"labels must have shape \(8,\).* task_loss='cross_entropy'"):
        RRR().loss(Segmenter(False), (X, torch.zeros(8, 6, 6).long(), MASK))
    for labels, task in (
        (torch.arange(8) % 3, None),
        (torch.rand(8, 6, 6), lambda logits, y: (logits[:, 0] - y).mean()),
    ):
        with pytest.raises(InvalidInputError, match=r"class for each, integers of shape \(8, 6, 6\), got .*='random'"):
            RRR(task_loss=task).loss(Segmenter(False), (X, labels, MASK))
    with pytest.raises(InvalidInputError, match="or say task_loss='cross_entropy' where it classifies each position"):
        RRR(target="all").loss(Segmenter(False), (X, torch.arange(8) % 3, MASK))


def test_a_class_that_the_model_does_not_have_is_named():
    labels = torch.zeros(8, 6, 6).long()
    labels[0, 0, 0] = 255
    with pytest.raises(InvalidInputError, match=r"0 to 2, got 255; .* task_loss='cross_entropy:ignore_index=255'"):
        RRR(task_loss="cross_entropy").loss(Segmenter(False), (X, labels, MASK))
    RRR(task_loss="cross_entropy:ignore_index=255").loss(Segmenter(False), (X, labels, MASK))


SEVERAL = {
    "multi-label": ("binary_cross_entropy", TASKS["multi-label"][1]),
    "multi-label of bools": (nn.BCEWithLogitsLoss(), TASKS["multi-label"][1].bool()),
    "soft labels": ("cross_entropy", TASKS["soft labels"][1]),
    "several numbers": (nn.MSELoss(), torch.rand(8, 3)),
}


@pytest.mark.parametrize("task", SEVERAL)
@pytest.mark.parametrize("name", [n for n in MITIGATORS if MITIGATORS.get(n).__name__ not in CONCEPTS])
def test_labels_in_the_logits_form_train_by_default(name, task):
    function, labels = SEVERAL[task]
    cls = MITIGATORS.get(name)
    mitigator = cls(task_loss=function, n_epochs=2, batch_size=8, random_state=0)
    options = {"groups": torch.arange(8) % 2} if issubclass(cls, ReweightedMitigator) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # penalties that cannot act on so small a net say so
        history = mitigator.fit(
            net(), X, labels.numpy(), MASK if cls is not HINT else 1 - MASK, progress=False, **options
        )
    assert math.isfinite(history["total"][-1])


@pytest.mark.parametrize("output", ["log_probability", "logit", "probability"])
def test_the_score_of_several_labels_is_the_sum_of_those_that_a_sample_has(output):
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])
    own = {"log_probability": torch.sigmoid(logits).log(), "logit": logits, "probability": torch.sigmoid(logits)}[
        output
    ]
    score = score_function("label", output, labels, independent=True)(logits)
    torch.testing.assert_close(score, (own * labels).sum(1))
    single = F.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3)
    torch.testing.assert_close(
        score_function("label", output, single.double())(logits),
        score_function("label", output, single.argmax(1))(logits),
    )
    maps = torch.randn(2, 3, 4, 4)
    of_maps = score_function("label", output, (maps > 0).float(), independent=True)(maps)
    expected = {"log_probability": F.logsigmoid(maps), "logit": maps, "probability": maps.sigmoid()}[output]
    torch.testing.assert_close(of_maps, (expected * (maps > 0)).flatten(1).sum(1))
    with pytest.raises(InvalidInputError, match=r"must lie in \[0, 1\].*explain target='random' or 'all'"):
        score_function("label", output, logits.detach() * 9)(logits)


@pytest.mark.parametrize("function", [nn.MSELoss(), nn.HuberLoss(), F.l1_loss, nn.BCEWithLogitsLoss()])
@pytest.mark.parametrize("mitigator", [RRR(), Counterexamples()], ids=lambda m: m.NAME)
def test_one_output_against_numbers_without_an_axis(function, mitigator):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    labels = torch.tensor([0.0, 1.0] * 4)
    loss = mitigator.set_kwargs(task_loss=function).loss(model, (X, labels, MASK))
    torch.testing.assert_close(loss.task, function(model(X)[:, 0], labels))  # not that of 8 x 8 pairs


def test_of_several_labels_one_that_is_missed_makes_a_sample_wrong():
    logits, labels = torch.tensor([[2.0, -1.0], [2.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1.0, 0], [1, 0], [0, 0]])
    assert JTT(task_loss="binary_cross_entropy")._errors(logits, labels).tolist() == [False, True, False]
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert JTT(task_loss="cross_entropy")._errors(logits, soft).tolist() == [False, True, False]
