"""Similarities against scipy and scikit-image."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.metrics import structural_similarity

from xaikit.metrics.similarity import cosine, mean_ranks, pearson, spearman, ssim


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
