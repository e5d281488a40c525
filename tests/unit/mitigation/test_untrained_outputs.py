"""Outputs of the model that are the class of no training sample are told: a training unlearns them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.cli.flags import in_flags
from xaikit.mitigation import Counterexamples, MendResult, mend
from xaikit.mitigation.mend_result import MendTry

N = 200
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([1.0, 0, 0, 0])
SAID = r"5 of the model's 7 outputs are the class of no training sample \(0, 1, 2, 4, 5\)"


def table(classes):
    y = torch.tensor(classes)[torch.arange(N) % len(classes)]
    x = X.clone()
    x[:, 0] = 3.0 * (torch.arange(N) % 2)
    return x, y


def messages(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught]


def test_fit_tells_them_once_from_tensors_and_from_a_loader():
    x, y = table([3, 6])
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    mitigator = Counterexamples(n_epochs=2, batch_size=16, random_state=0)
    for data in ((x, y, MASK), (loader, None, MASK)):
        with pytest.warns(UserWarning, match=SAID) as caught:
            mitigator.fit(nn.Linear(4, 7), *data, progress=False)
        assert len(caught) == 1
    assert not messages(lambda: mitigator.fit(nn.Linear(4, 2), x, y // 4, MASK, progress=False))
    assert not messages(lambda: mitigator.fit(nn.Linear(4, 1), x, y // 4, MASK, progress=False))


@pytest.mark.parametrize("method", ["counterexamples:lr=0.01", "counterexamples"])
def test_mend_tells_them_once(method):
    said = messages(lambda: mend(nn.Linear(4, 7), table([3, 6]), MASK, methods=method, n_epochs=2, progress=False))
    assert sum("5 of the model's 7 outputs" in text for text in said) == 1


@pytest.mark.parametrize("scratch", [True, False])
def test_advice_is_something_that_was_not_done(scratch):
    tries = [MendTry("unchanged", 1.0, 0.4, 0.6), MendTry("rrr", 0.99, 0.5, 0.4)]
    verdict = MendResult("the hue", "rrr", tries, None, None, 0.02, from_scratch=scratch).verdict
    assert ("from_scratch" in verdict) is not scratch
    assert ("--epochs higher, or --method with other" in in_flags(verdict)) is scratch
