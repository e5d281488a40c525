"""A model with a single output is explained and measured like the same column of a model with several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaikit import AbPC, tune
from xaikit.core import EXPLAINERS, METRICS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.testing import ContractNet, contract_case

COLUMN = 1
COST = {"seconds", "peak_memory"}  # measure a batch on a machine, not a model
OF_ALL_OUTPUTS = {"relative_output_stability"}  # other outputs than the explained one count
FOR_CLASSES = {"random_logit", "finercam", "consistency", "sufficiency"}


class Column(nn.Module):
    """One column of a classifier's output, (N, 1) or (N,)."""

    def __init__(self, net: ContractNet, *, flat: bool) -> None:
        super().__init__()
        self.net, self.flat = net, flat

    def forward(self, image: Tensor) -> Tensor:
        column = self.net(image)[:, COLUMN : COLUMN + 1]
        return column[:, 0] if self.flat else column


# Captum's that draw a coalition for each pass; `make test` runs captum's others, which go the same way.
DRAWN = {"captum.kernel_shap": 100, "captum.lime": 100, "captum.shapley_value_sampling": 5}


def explainers(name: str, flat: bool):
    """The explainer on the column alone, and on the classifier."""
    classifier, x, _ = contract_case()
    explainer = EXPLAINERS.create(name, **({"n_samples": DRAWN[name]} if name in DRAWN else {}))
    return explainer.bind(Column(classifier, flat=flat)), explainer.bind(classifier), x


@pytest.mark.parametrize("flat", [False, True], ids=["(N, 1)", "(N,)"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.nightly] * (n in DRAWN)) for n in EXPLAINERS])
def test_explainers(name, flat):
    alone, several, x = explainers(name, flat)
    if name in FOR_CLASSES:
        with pytest.raises(InvalidInputError, match="class"):
            alone.attribute(x)
        return
    expected = several.attribute(x, COLUMN)
    assert torch.allclose(alone.attribute(x), expected, rtol=1e-6, atol=1e-9)
    assert torch.allclose(alone.attribute(x, 0), expected, rtol=1e-6, atol=1e-9)
    assert torch.allclose(alone.explain(x).scores, several.explain(x, COLUMN).scores)


@pytest.mark.filterwarnings("ignore:TopKIntersection.k=100 looks at all")
@pytest.mark.parametrize("flat", [False, True], ids=["(N, 1)", "(N,)"])
@pytest.mark.parametrize("name", [name for name in METRICS if name not in COST | OF_ALL_OUTPUTS])
def test_metrics(name, flat):
    alone, several, x = explainers("gradient_x_input", flat)
    metric = METRICS.create(name)
    options = (
        {"relevant_region": torch.ones(len(x), *x.shape[2:]).triu()} if getattr(metric, "NEEDS_MASK", False) else {}
    )
    if name in FOR_CLASSES:
        with pytest.raises(InvalidInputError, match="class"):
            metric.evaluate(alone, x, **options)
        return
    # What is watched of a single output is the output itself, unless a probability is asked for.
    score = metric.set_kwargs(output="score") if "output" in metric.SETTINGS else metric
    own = score if getattr(metric, "output", None) == "probability" else metric
    expected = score.evaluate(several, x, COLUMN, **options)
    found = own.evaluate(alone, x, **options)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9, equal_nan=True)  # NaN of IROF below 0
    assert found.isfinite().any()


def test_tune():
    alone, several, x = explainers("lrp_epsilon_plus", False)
    options = {"n_trials": 3, "progress": False}
    found = tune(alone, AbPC(), (x, None), **options)
    expected = tune(several, AbPC(output="score"), (x, torch.full((len(x),), COLUMN)), **options)
    assert found.value == pytest.approx(expected.value, rel=1e-6)


def test_values_are_no_targets():
    alone, _, x = explainers("gradient", False)
    with pytest.raises(InvalidTypeError, match="targets must be whole class indices .* a regression, pass None"):
        alone.attribute(x, torch.rand(len(x)))
