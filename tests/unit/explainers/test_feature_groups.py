"""Feature groups and windows that captum's perturbation methods start from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS, FEATURE_MASKS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers.feature_groups import default_groups, make_groups


def test_groups():
    x = torch.rand(2, 3, 20, 20)
    mask = default_groups(x, 64)
    assert mask.shape == (1, 3, 20, 20)
    assert mask.unique().tolist() == list(range(64))
    assert (mask == mask[:, :1]).all()
    assert default_groups(torch.rand(2, 100), 10).unique().tolist() == list(range(10))
    assert default_groups(torch.rand(2, 5), 10).tolist() == [[0, 1, 2, 3, 4]]
    halves = torch.tensor([5, 5, 9])
    both = make_groups(FEATURE_MASKS.create((halves, halves)), (torch.rand(2, 3), torch.rand(2, 3)), 64)
    assert [m.tolist() for m in both] == [[[0, 0, 1]], [[2, 2, 3]]]
    model, row = nn.Linear(3, 1).double(), torch.rand(1, 3).double()
    for given in (halves, lambda _: halves, [halves]):
        found = EXPLAINERS.create("captum.feature_ablation", feature_mask=given).bind(model).attribute(row)
        assert torch.allclose(found[0, 0], (model.weight[0, :2] * row[0, :2]).sum())
        assert found[0, 0] == found[0, 1]
    with pytest.raises(InvalidInputError, match=r"shape of a sample \(3,\), got torch.int64 \(4,\)"):
        EXPLAINERS.create("captum.lime", feature_mask=torch.arange(4)).bind(model).attribute(row)
    with pytest.raises(InvalidTypeError, match="feature_mask: expected feature mask as a name"):
        EXPLAINERS.create("captum.lime", feature_mask=3)


def test_groups_per_sample():
    model, x = nn.Linear(3, 1).double(), torch.rand(5, 3).double()
    masks = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 2], [1, 0, 1], [0, 0, 0]])
    whole = EXPLAINERS.create("captum.feature_ablation", feature_mask=masks, max_rows=2).bind(model).attribute(x)
    for i in range(5):
        one = EXPLAINERS.create("captum.feature_ablation", feature_mask=masks[i]).bind(model).attribute(x[i : i + 1])
        assert torch.allclose(whole[i], one[0])
