"""The contract of every registered explainer; a new one is tested without a new line here."""

from __future__ import annotations

import pytest

from xaikit.core import EXPLAINERS
from xaikit.testing import EXPLAINER_CHECKS

# captum's that draw a coalition for each pass: what they share with its others is tested with these by `make test`.
FEWER = {"captum.kernel_shap": 60, "captum.lime": 60, "captum.shapley_value_sampling": 5}


@pytest.mark.parametrize("check", EXPLAINER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.nightly] * (n in FEWER)) for n in EXPLAINERS])
def test_explainer(name, check):
    explainer = EXPLAINERS.get(name)
    check(explainer(n_samples=FEWER[name]) if name in FEWER else explainer)
