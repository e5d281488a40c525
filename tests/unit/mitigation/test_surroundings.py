"""A training inside of a context that a user opened: no gradients, inference mode, autocast."""

from __future__ import annotations

import copy

import pytest
import torch

from xaikit.mitigation import Counterexamples, mend


@pytest.mark.parametrize(
    "surrounding",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_what_surrounds_a_training_does_not_stop_it(surrounding):
    """Autocast keeps the casts of weights: those of a look at the model have no gradient, and old ones stay old."""
    y = torch.arange(64) % 2
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0], x[:, 1] = 4.0 * y - 2, 2.0 * y - 1
    mask, model = torch.tensor([1.0, 0, 0, 0]), torch.nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-2.0, 0, 0, 0], [2, 0, 0, 0]]))
    options = {"lambda_ce": 100.0, "lr": 0.05, "n_epochs": 10, "random_state": 0}
    trained, plain = copy.deepcopy(model), copy.deepcopy(model)
    Counterexamples(**options).fit(plain, x, y, mask, progress=False)
    with surrounding():
        Counterexamples(**options).fit(trained, x, y, mask, validation=(x, y), progress=False)
        result = mend(model, (x, y), mask, methods=Counterexamples(**options), progress=False)
    assert torch.allclose(trained.weight, plain.weight, atol=0.05)
    assert not torch.allclose(trained.weight, model.weight, atol=0.05)
    assert not result.relies
