"""Models run unmodified, without an approximated op; complete; exact at full, empty and mixed masks."""

from __future__ import annotations

import pytest

from tests.unit.explainers.cd.helpers import check_promises
from tests.unit.explainers.conftest import ZOO_NAMES

CASTS = {"hf:t5enc", "hf:llama"}  # they cast to float32 inside their RMSNorm


@pytest.mark.parametrize("name", ZOO_NAMES)
@pytest.mark.filterwarnings("ignore")
def test_zoo(zoo, name):
    """In float32, then the same weights in float64: building a model takes as long as decomposing its output."""
    _, model, x = zoo.get(name, among=zoo.SMALL)
    check_promises(model, x, 1e-4)
    check_promises(model.double(), x.double() if x.is_floating_point() else x, 1e-6 if name in CASTS else 1e-9)
