"""The contract of every registered explainer; a new one is tested without a new line here."""

from __future__ import annotations

import pytest

from xaikit.core import EXPLAINERS
from xaikit.testing import EXPLAINER_CHECKS


@pytest.mark.parametrize("check", EXPLAINER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", list(EXPLAINERS))
def test_explainer(name, check):
    check(EXPLAINERS.get(name))
