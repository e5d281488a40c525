"""The contract of every registered explainer; a new one is tested without a new line here."""

from __future__ import annotations

import pytest

from xaikit.core import EXPLAINERS
from xaikit.testing import EXPLAINER_CHECKS

FITTED = ("captum.kernel_shap", "captum.lime")  # to the scores of as many coalitions as a setting says; 200 take long


@pytest.mark.parametrize("check", EXPLAINER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", list(EXPLAINERS))
def test_explainer(name, check):
    explainer = EXPLAINERS.get(name)
    check(explainer(n_samples=60) if name in FITTED else explainer)
