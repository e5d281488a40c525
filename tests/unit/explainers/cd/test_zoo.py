"""Models run unmodified, without an approximated op; complete; exact at full, empty and mixed masks."""

from __future__ import annotations

import pytest
import torch

from tests.unit.explainers.cd.helpers import check_promises
from tests.unit.explainers.cd.zoo import FAST, ZOO, build

CASTS = {"hf_t5", "hf_llama"}  # they cast to float32 inside their RMSNorm
UNSTABLE = {"efficientnet_v2_s"}  # a last-bit change of its float32 input moves its output by 40 %
SENSITIVE = {"efficientnet_b0"}  # the same by 3e-4
MODELS = [name if name in FAST else pytest.param(name, marks=pytest.mark.zoo) for name in ZOO]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.filterwarnings("ignore")
def test_zoo(name, dtype):
    double = dtype == torch.float64
    tolerance = 1e-9 if double else 1e-4
    if name in CASTS:
        tolerance = max(tolerance, 1e-6)
    if name in SENSITIVE and not double:
        tolerance = 1e-2
    if name in UNSTABLE:
        tolerance = 1e-1 if double else 10.0
    model, x = build(name, dtype)
    check_promises(model, x, tolerance)
