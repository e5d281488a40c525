"""Penalties over generated answers: a score for each position, of which those with a label count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit import CDEP, RRR, ContextualDecomposition, Gradient
from xaikit.core.errors import InvalidInputError


class Tokens(nn.Module):
    """A recurrent net with a score of 7 tokens at each position, or at the last one alone."""

    def __init__(self, last: bool):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.head = nn.Embedding(7, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 7)
        self.last = last

    def forward(self, ids):
        logits = self.head(self.mix(self.embed(ids))[0])
        return logits[:, -1] if self.last else logits


IDS = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([1.0, 0, 1, 0, 0]).expand(3, 5)
LABELS = torch.tensor([2, 0, 6])
AT_POSITIONS = torch.cat([torch.full((3, 4), -100), LABELS[:, None]], 1)


def mitigators():
    for target in ("all", "label"):
        explainer = ContextualDecomposition(layer="embed")
        yield f"cdep {target}", lambda t=target, e=explainer, **s: CDEP(explainer=e, target=t, lambda_cdep=2.0, **s)
    yield "rrr label", lambda **s: RRR(explainer=Gradient(layer="embed"), output="logit", lambda_rrr=2.0, **s)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in mitigators()])
def test_a_labelled_position_counts_as_a_classifier_of_that_position(make):
    """Value and gradient of the loss are those of the model that returns the last position alone."""
    losses, gradients = [], []
    for last, labels in ((False, AT_POSITIONS), (True, LABELS)):
        model = Tokens(last).double()
        loss = make(**({} if last else {"task_loss": "cross_entropy"})).loss(model, (IDS, labels, MASK))
        losses.append(loss.total.detach())
        gradients.append(torch.autograd.grad(loss.total, list(model.parameters())))
    assert torch.allclose(losses[0], losses[1], rtol=1e-9)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-12)


def test_labels_that_fit_no_position():
    mitigator = CDEP(explainer=ContextualDecomposition(layer="embed"), task_loss=lambda logits, _: logits.sum())
    with pytest.raises(InvalidInputError, match=r"needs a class for each, .* got labels of shape \(3,\)"):
        mitigator.loss(Tokens(last=False), (IDS, LABELS, MASK))
    with pytest.raises(InvalidInputError, match="a class for each position, as of tokens, use task_loss"):
        CDEP(explainer=ContextualDecomposition(layer="embed")).loss(Tokens(last=False), (IDS, AT_POSITIONS, MASK))
