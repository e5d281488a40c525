"""Models run unmodified, without an approximated op; complete; exact at full, empty and mixed masks."""

from __future__ import annotations

import pytest

from tests.unit.explainers.cd.helpers import check_promises
from tests.unit.explainers.cd.zoo import FAST, ZOO, build

CASTS = {"hf_t5", "hf_llama"}  # they cast to float32 inside their RMSNorm
SENSITIVE = {"efficientnet_b0"}  # a last-bit change of its float32 input moves its output by 3e-4
MODELS = [name if name in FAST else pytest.param(name, marks=pytest.mark.zoo) for name in ZOO]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_zoo(name):
    """In float32, then the same weights in float64: building a model takes as long as decomposing its output."""
    single, double = 1e-4, 1e-9
    if name in CASTS:
        double = 1e-6
    if name in SENSITIVE:
        single = 1e-2
    model, x = build(name)
    check_promises(model, x, single)
    check_promises(model.double(), x.double() if x.is_floating_point() else x, double)
