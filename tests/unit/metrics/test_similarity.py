"""Similarities against scipy and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn

from xaikit.explainers import Gradient
from xaikit.metrics import FaithfulnessCorrelation, FaithfulnessEstimate, MonotonicityNguyen, MuFidelity, SensitivityN
from xaikit.metrics.faithfulness import ranks
from xaikit.metrics.similarity import cosine, mean_ranks, pearson, spearman, ssim, without_rounding


@given(st.integers(3, 30), st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_correlations_equal_scipy(features, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 1, features, generator=generator, dtype=torch.float64)
    a = (2 * a).round() if ties else a
    if a.unique().numel() == 1:
        assert pearson(a, b).isnan().all()
        return
    assert np.isclose(pearson(a, b)[0], stats.pearsonr(a[0], b[0])[0])
    assert np.isclose(spearman(a, b)[0], stats.spearmanr(a[0], b[0])[0])
    assert np.allclose(mean_ranks(a)[0] + 1, stats.rankdata(a[0]))
    assert np.isclose(cosine(a, b)[0], (a @ b.T / a.norm() / b.norm()).item())


def test_ssim_equals_scikit_image():
    a, b = torch.randn(2, 3, 1, 12, 15, dtype=torch.float64)
    b = a + 0.5 * b
    for x, y, found in zip(a[:, 0].numpy(), b[:, 0].numpy(), ssim(a, b), strict=True):
        extent = max(x.max(), y.max()) - min(x.min(), y.min())
        assert np.isclose(structural_similarity(x, y, data_range=extent), found)
    assert torch.allclose(ssim(a, a), torch.ones(3).double())


def test_rows_that_do_not_vary():
    flat, a = torch.full((1, 6), 0.1), torch.randn(1, 6)
    assert pearson(flat, a).isnan().all()
    assert spearman(flat, a).isnan().all()
    assert cosine(torch.zeros(1, 6), a).isnan().all()


@pytest.mark.parametrize("value", [0.1, 0.3, -1.7, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_attributions_have_no_correlation(value, dtype):
    """Sums of equal numbers differ by rounding; what correlates with that is noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).to(dtype)
    x = torch.randn(2, 2, 6, 6, dtype=dtype)
    for metric in (
        FaithfulnessCorrelation(), MuFidelity(), SensitivityN(), FaithfulnessEstimate(n_steps=9),
        MonotonicityNguyen(n_steps=9, n_iter=2),
    ):  # fmt: skip
        assert metric.evaluate(Gradient(model), x, 0, torch.full_like(x, value)).isnan().all()


def test_what_differs_by_rounding_is_a_tie():
    sums = torch.tensor([[0.1 + 0.2, 0.3, 0.3 + 1e-9, 5.0, -1.0], [1.0, math.nan, 2.0, 2.0, 0.0]], dtype=torch.float64)
    tied = without_rounding(sums, 10)
    assert tied[0, 0] == tied[0, 1] != tied[0, 2]
    assert torch.allclose(tied, sums, rtol=1e-14, equal_nan=True)


def test_small_groups_are_summed_without_the_large_ones():
    """In float32 a running sum of 1 and of 1e-9 loses the latter."""
    values = torch.logspace(0, -12, 24)[None]
    metric = MonotonicityNguyen(n_steps=12)
    assert torch.allclose(metric._sums(values, ranks(values)).float(), values.view(1, 12, 2).sum(2), rtol=1e-6)
