"""A default device that is not the model's changes nothing: on `meta`, a tensor that strays there has no numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from xaikit import EXPLAINERS, METRICS, MITIGATORS, GradientXInput
from xaikit.mitigation import Concept
from xaikit.testing import ContractNet
from xaikit.testing.case import make

N = 4


@pytest.fixture
def case():
    torch.manual_seed(0)
    masks = torch.zeros(N, 6, 6)
    masks[:, :2] = 1
    return ContractNet().eval(), torch.rand(N, 2, 6, 6), torch.tensor([0, 2, 1, 1]), masks


def alike(compute):
    expected = compute()
    with torch.device("meta"):
        result = compute()
    assert result.device.type == "cpu"
    torch.testing.assert_close(result, expected, equal_nan=True)


# captum's own tensors stray.
@pytest.mark.parametrize("name", [name for name in EXPLAINERS if not name.startswith("captum.")])
def test_an_explainer(case, name):
    model, x, y, _ = case
    alike(lambda: make(EXPLAINERS.get(name), model).attribute(x, y, seed=0))


@pytest.mark.filterwarnings("ignore:TopKIntersection.k=100 looks at all")
@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("seconds", "peak_memory")])
def test_a_metric(case, name):
    model, x, y, masks = case
    alike(lambda: METRICS.create(name).evaluate(GradientXInput(model), x, y, relevant_region=masks))


@pytest.mark.parametrize("name", list(MITIGATORS))
@pytest.mark.filterwarnings("ignore:a prior shapes")
def test_a_mitigator(case, name):
    _, *data = case
    settings = {"batch_size": 2, "random_state": 0, "n_epochs": 1}
    if "concept" in MITIGATORS.get(name).SETTINGS:
        direction = F.normalize(torch.tensor([1.0, -2.0, 0.5, 1.0]), dim=0)
        settings["concept"] = Concept("second", direction, torch.zeros(4), torch.ones(4))

    def trained():
        with torch.device("cpu"):
            torch.manual_seed(0)
            model = ContractNet()
        MITIGATORS.get(name)(**settings).fit(model, *data, progress=False)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    alike(trained)
