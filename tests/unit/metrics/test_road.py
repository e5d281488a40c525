"""ROAD and its imputation against a dense solver and against Quantus on the same input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import ROAD
from xaikit.metrics.imputation import impute

WEIGHTS = {(i, j): 1 / 6 if i == 0 or j == 0 else 1 / 12 for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)}


def dense(image, missing):
    """One channel: the system written out entry by entry, solved by LAPACK."""
    height, width = image.shape
    unknown = [tuple(p) for p in np.argwhere(missing)]
    matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
    for row, (i, j) in enumerate(unknown):
        for (di, dj), weight in WEIGHTS.items():
            k, m = i + di, j + dj
            if not (0 <= k < height and 0 <= m < width):
                continue
            matrix[row, row] += weight
            if missing[k, m]:
                matrix[row, unknown.index((k, m))] -= weight
            else:
                right[row] += weight * image[k, m]
    filled = image.copy()
    filled[missing] = np.linalg.solve(matrix, right)
    return filled


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 0.95), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_imputation_equals_a_dense_solver(height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 2, height, width, generator=generator, dtype=torch.float64)
    missing = torch.rand(3, 1, height, width, generator=generator) < share
    missing[:, 0, 0, 0] = False  # one place is known
    filled = impute(images, missing)
    for i in range(3):
        for c in range(2):
            expected = dense(images[i, c].numpy(), missing[i, 0].numpy())
            assert np.allclose(filled[i, c], expected, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_large_holes(dtype, tolerance):
    """Nothing known but one corner of 40 x 40, or one row: the worst conditioned cases."""
    image = torch.randn(2, 1, 40, 40, dtype=torch.float64)
    missing = torch.ones(2, 1, 40, 40, dtype=torch.bool)
    missing[0, 0, :3, :3] = False
    missing[1, 0, 20] = False
    filled = impute(image.to(dtype), missing)
    for i in range(2):
        assert np.allclose(filled[i, 0], dense(image[i, 0].numpy(), missing[i, 0].numpy()), atol=tolerance)


def test_a_constant_image_is_filled_with_its_constant_and_an_empty_one_with_zero():
    images = torch.full((2, 3, 12, 7), 2.5)
    missing = torch.rand(2, 1, 12, 7) < 0.8
    missing[0, 0, 5, 5] = False
    missing[1] = True
    filled = impute(images, missing)
    assert torch.allclose(filled[0], images[0], atol=1e-4)
    assert torch.equal(filled[1], torch.zeros(3, 12, 7))


def test_imputation_equals_quantus(quantus):
    image, share = torch.randn(3, 10, 8, dtype=torch.float64), 0.6
    chosen = torch.randperm(80)[: int(80 * share)]
    theirs = quantus.function("noisy_linear_imputation", arr=image.numpy(), indices=chosen.numpy(), noise=0.0)
    missing = torch.zeros(80, dtype=torch.bool).scatter(0, chosen, True).view(1, 1, 10, 8)
    assert np.allclose(impute(image[None], missing)[0], theirs, atol=1e-9)


def test_road_equals_quantus(quantus):
    """Quantus ranks elements, not places, so one channel; without noise; accuracy at each percentage."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3))
    x, a = torch.randn(12, 1, 8, 8), torch.randn(12, 1, 8, 8)
    y = model(x).argmax(1)
    percentages = [10, 30, 50, 70, 90]
    theirs = quantus.metric("ROAD", model, x, y, a, noise=0.0, percentages=percentages)
    metric = ROAD(percentages=percentages, noise=0.0, output="accuracy")
    ours = metric.evaluate(Gradient(model), x, y, a)
    assert np.isclose(ours.mean().item(), np.mean(list(theirs.values())))
    for percentage in percentages:
        accuracy = metric.set_kwargs(percentages=(percentage,)).evaluate(Gradient(model), x, y, a)
        assert np.isclose(accuracy.mean().item(), theirs[str(percentage)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pooling", ["sum", "none"])
def test_road_equals_a_plain_loop(channels, pooling):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36 * channels, 3)).double()
    x, a = torch.randn(4, channels, 6, 6).double(), torch.randn(4, channels, 6, 6).double()
    found = ROAD(percentages=(25, 60), noise=0.0, pooling=pooling, output="score").evaluate(Gradient(model), x, 1, a)
    for i in range(4):
        outputs = []
        for percentage in (25, 60):
            values = (a[i].sum(0, keepdim=True) if pooling == "sum" else a[i]).numpy()
            top = np.argsort(-values.ravel(), kind="stable")[: int(values.size * percentage / 100)]
            missing = np.zeros(values.size, dtype=bool)
            missing[top] = True
            missing = np.broadcast_to(missing.reshape(values.shape), x[i].shape)
            filled = np.stack([dense(x[i, c].numpy(), missing[c]) for c in range(channels)])
            outputs.append(model(torch.from_numpy(filled)[None])[0, 1].item())
        assert np.isclose(found[i].item(), np.mean(outputs))


def test_noise_lies_on_what_was_removed_and_is_seeded():
    seen = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.flatten(1)[:, :2]

    x, a = torch.randn(2, 1, 6, 6), torch.randn(2, 1, 6, 6)
    metric, explainer = ROAD(percentages=(50,), noise=0.1), Gradient(Recording())
    metric.evaluate(explainer, x, 0, a)
    seen.clear()  # the first call gets to know a model
    metric.evaluate(explainer, x, 0, a)
    metric.evaluate(explainer, x, 0, a, seed=1)
    metric.set_kwargs(noise=0.0).evaluate(explainer, x, 0, a)
    noise, other = seen[0] - seen[2], seen[1] - seen[2]
    removed = a.flatten(1).argsort(1, descending=True).argsort(1).view(2, 1, 6, 6) < 18
    assert bool((noise[~removed] == 0).all())
    assert 0.05 < noise[removed].std() < 0.2
    assert not torch.equal(noise, other)
    both = removed[0] & removed[1]
    assert torch.allclose(noise[0][both], noise[1][both], atol=1e-6)


def test_bad_input():
    with pytest.raises(
        InvalidInputError, match=r"series \(N, C, T\) and embedded texts from their neighbours, got \(2, 4\)"
    ):
        ROAD().evaluate(Gradient(nn.Linear(4, 2)), torch.rand(2, 4), 0)
    for wrong, error in (((0,), InvalidInputError), ((100.0,), InvalidInputError), (("x",), InvalidTypeError)):
        with pytest.raises(error, match="percentages"):
            ROAD(percentages=wrong)
    single = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(InvalidInputError, match="needs class targets"):
        ROAD(output="accuracy").evaluate(Gradient(single), torch.rand(2, 1, 4, 4))


def bridged(series, missing):
    """Series (C, T) with lines over the missing steps (T,); beyond the ends the nearest known value."""
    steps = np.arange(len(missing))
    return np.stack([np.interp(steps, steps[~missing], channel[~missing]) for channel in series])


@pytest.mark.parametrize("windows", [None, 4])
def test_a_series_is_bridged_by_lines_step_by_step_or_window_by_window(windows):
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    x, a = torch.randn(3, 2, 12).double(), torch.randn(3, 2, 12).double()
    mask = None if windows is None else f"time_windows:n_windows={windows}"
    metric = ROAD(percentages=(25, 50), noise=0.0, feature_mask=mask, output="score")
    values = metric.evaluate(Gradient(model), x.numpy(), 1, a)
    for i in range(3):
        outputs = []
        for percentage in (25, 50):
            sums = a[i].sum(0).numpy().reshape(windows or 12, -1).sum(1)
            top = np.argsort(-sums, kind="stable")[: len(sums) * percentage // 100]
            missing = np.isin(np.arange(12) // (12 // len(sums)), top)
            filled = torch.from_numpy(bridged(x[i].numpy(), missing))
            outputs.append(model(filled[None])[0, 1].item())
        assert np.isclose(values[i].item(), np.mean(outputs))


def test_a_text_is_bridged_at_its_embedding():
    embedding, head = nn.Embedding(9, 4), nn.Linear(20, 3)
    model = nn.Sequential(embedding, nn.Flatten(), head).double()
    ids = np.array([[1, 5, 2, 7, 8]])
    a = torch.tensor([[0.0, 3, 0, 0, 1]]).double()[..., None].expand(1, 5, 4)
    metric = ROAD(percentages=(40,), noise=0.0, output="score")
    value = metric.evaluate(GradientXInput(model, layer="0"), ids, 2, a)
    vectors = embedding(torch.tensor(ids)).detach()[0].T.numpy()
    filled = bridged(vectors, np.array([False, True, False, False, True]))
    assert np.isclose(value.item(), head(torch.from_numpy(filled.T).flatten())[2].item())
