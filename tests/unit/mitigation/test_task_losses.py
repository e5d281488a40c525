"""The task's own loss: any function of logits and labels, for every mitigator, in `loss` and in `fit`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import CDEP, HINT, RRR, Counterexamples

X = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(6, 6)
MASK[:2, :2] = 1
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 1.0]), label_smoothing=0.1)
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
    with pytest.raises(InvalidTypeError, match="got 'mse'"):
        RRR(task_loss="mse")
    each = RRR(task_loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(InvalidInputError, match=r"one number, a tensor of shape \(\), got shape \(8,\); take its mean"):
        each.loss(net(), (X, torch.arange(8) % 3, MASK))
    with pytest.raises(InvalidInputError, match=r"a row for each of 8 samples, got shape \(5,\)"):
        each.loss(net(), (X, torch.arange(5), MASK))
    assert all("task_loss" in MITIGATORS.get(name).SETTINGS for name in MITIGATORS)
