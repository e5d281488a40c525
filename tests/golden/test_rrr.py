"""Published RRR definitions, value and every parameter gradient, against the reference outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.mitigation import RRR

FORMS = {
    "label_sum": {},
    "label_mean_over_batch": {"reduction": "mean"},
    "allclass_sum": {"target": "all"},
    "allclass_sum_over_maskcount": {"target": "all", "normalization": "mask"},
    "cdep_repo_gradient_sum": {"what": "channel_sum", "score_reduction": "mean"},
    "maxprob_sum": {"target": "predicted", "output": "probability"},
}


@pytest.fixture
def reference(golden):
    return np.load(golden / "rrr_small_cnn.npz")


def _case(reference, dtype):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)
    )
    model.load_state_dict({k[2:]: torch.from_numpy(reference[k]) for k in reference.files if k.startswith("w:")})
    x, y, mask = (torch.from_numpy(reference[k]) for k in ("x", "y", "masks"))
    return model.to(dtype), x.to(dtype), y, mask.to(dtype)


@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradients(reference, form):
    model, x, y, mask = _case(reference, torch.float64)
    loss = RRR(**FORMS[form]).loss(model, (x, y, mask))
    assert float(loss.task.detach()) == pytest.approx(float(reference["ce_mean64"]), abs=1e-12)
    assert float(loss.penalty.detach()) == pytest.approx(float(reference[f"penalty64:{form}"]), abs=1e-12)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, g in zip(names, torch.autograd.grad(loss.penalty, parameters, allow_unused=True), strict=True):
        expected = torch.from_numpy(reference[f"penalty_grad64:{form}:{name}"])
        assert torch.allclose(torch.zeros_like(expected) if g is None else g, expected, rtol=0, atol=1e-10)


def test_one_step_of_the_reference_in_float32(reference):
    model, x, y, mask = _case(reference, torch.float32)
    weight = float(reference["lambda_rrr"])
    loss = RRR(lambda_rrr=weight).loss(model, (x, y, mask))
    assert float(loss.penalty.detach()) == pytest.approx(float(reference["shortkit_penalty32"]), abs=1e-6)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, g in zip(names, torch.autograd.grad(loss.total, parameters), strict=True):
        assert torch.allclose(g, torch.from_numpy(reference[f"shortkit_grad32:{name}"]), rtol=0, atol=1e-6)
