"""The whole contract that xaikit's own explainers keep, for ours: shapes, structures, batches, exact derivatives."""

import pytest
from xaikit_median import MedianGrad

from xaikit.testing import EXPLAINER_CHECKS


@pytest.mark.parametrize("check", EXPLAINER_CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(MedianGrad)
