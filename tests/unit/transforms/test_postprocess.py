"""Poolings and normalizations against closed forms in numpy and scipy, and the properties that they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import nn

from xaikit import AbPC
from xaikit.core import NORMALIZATIONS, POOLINGS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.explainers import Gradient
from xaikit.transforms import Postprocessor

CLOSED = {
    "none": lambda a: a,
    "abs": np.abs,
    "positive": lambda a: np.maximum(a, 0),
    "sum": lambda a: a.sum(1, keepdims=True),
    "mean": lambda a: a.mean(1, keepdims=True),
    "max": lambda a: a.max(1, keepdims=True),
    "min": lambda a: a.min(1, keepdims=True),
    "sumpos": lambda a: np.maximum(a.sum(1, keepdims=True), 0),
    "sumabs": lambda a: np.abs(a.sum(1, keepdims=True)),
    "l1norm": lambda a: np.linalg.norm(a, 1, axis=1, keepdims=True) if a.ndim == 2 else np.abs(a).sum(1, keepdims=True),
    "maxnorm": lambda a: np.abs(a).max(1, keepdims=True),
    "l2norm": lambda a: np.sqrt((a**2).sum(1, keepdims=True)),
    "l2normsq": lambda a: (a**2).sum(1, keepdims=True),
    "possum": lambda a: np.where(a > 0, a, 0).sum(1, keepdims=True),
    "posmaxnorm": lambda a: np.where(a > 0, a, 0).max(1, keepdims=True),
    "posl2norm": lambda a: np.sqrt((np.where(a > 0, a, 0) ** 2).sum(1, keepdims=True)),
    "posl2normsq": lambda a: (np.where(a > 0, a, 0) ** 2).sum(1, keepdims=True),
}
OF_A_SAMPLE = {
    "none": lambda a: a,
    "minmax": lambda a: (a - a.min()) / (a.max() - a.min()),
    "maxabs": lambda a: a / np.abs(a).max(),
    "quantile": lambda a: np.clip(a / np.quantile(np.abs(a), 0.99), -1, 1),
    "rank": lambda a: ((rankdata(a) - 0.5) / a.size).reshape(a.shape),
}
SHAPES = [(3, 4), (3, 2, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)]
# Values of few digits, so that ties occur; NaN and infinity have a test of their own.
SAMPLES = st.lists(st.integers(-50, 50).map(lambda i: i / 8), min_size=1, max_size=30)


def test_the_closed_forms_are_all_there():
    assert set(POOLINGS) == set(CLOSED)
    assert set(NORMALIZATIONS) == set(OF_A_SAMPLE)


@pytest.mark.parametrize("name", sorted(CLOSED))
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_pooling(name, shape):
    a = torch.randn(shape, dtype=torch.float64)
    pooled = Postprocessor(pooling=name)(a)
    assert pooled.shape == (a.shape if not POOLINGS.get(name).JOINS else (shape[0], 1, *shape[2:]))
    assert np.allclose(pooled.numpy(), CLOSED[name](a.numpy()), atol=1e-12)
    last = Postprocessor(pooling=name, channel_axis=-1)(a.movedim(1, -1))
    assert torch.allclose(last.movedim(-1, 1), pooled, atol=1e-12)


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_pooling_without_channels_counts_each_feature_as_one(name):
    a = torch.randn(3, 4, dtype=torch.float64)
    assert np.allclose(Postprocessor(pooling=name)(a).numpy(), CLOSED[name](a.numpy()[:, None])[:, 0])


@pytest.mark.parametrize("name", sorted(OF_A_SAMPLE))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalization(name, shape):
    a = torch.randn(shape, dtype=torch.float64)
    expected = np.stack([OF_A_SAMPLE[name](sample) for sample in a.numpy()])
    assert np.allclose(NORMALIZATIONS.create(name)(a).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", sorted(OF_A_SAMPLE))
@settings(max_examples=50, deadline=None)
@given(sample=SAMPLES, other=SAMPLES)
def test_a_normalization_keeps_the_order_and_each_sample_to_itself(name, sample, other):
    normalization = NORMALIZATIONS.create(name)
    a = torch.tensor(sample, dtype=torch.float64)
    scaled = normalization(a[None])[0]
    assert torch.isfinite(scaled).all()
    larger = a[:, None] > a[None]
    at_least = scaled[:, None] >= scaled[None]
    assert at_least[larger].all()
    if name != "quantile":  # which cuts off the largest
        assert (scaled[:, None] > scaled[None])[larger].all()
    assert (scaled[:, None] == scaled[None])[a[:, None] == a[None]].all()
    size = min(len(sample), len(other))
    batch = torch.tensor([sample[:size], other[:size]], dtype=torch.float64)
    assert torch.equal(normalization(batch)[:1], normalization(batch[:1]))


@pytest.mark.parametrize("name", sorted(OF_A_SAMPLE))
def test_samples_without_a_scale(name):
    normalization = NORMALIZATIONS.create(name)
    flat = normalization(torch.zeros(2, 1, 3, 3))
    assert torch.equal(flat, torch.full_like(flat, 0.5 if name == "rank" else 0.0))
    assert torch.isfinite(normalization(torch.full((2, 3), -2.0))).all()
    assert normalization(torch.tensor([3.0, -1.0])).shape == (2,)


@pytest.mark.parametrize("name", sorted(OF_A_SAMPLE))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spoils_its_sample_alone(name, bad):
    a = torch.randn(3, 2, 4)
    a[1, 0, 2] = bad
    for pooling in ("none", "sum", "possum", "sumpos"):
        out = Postprocessor(pooling=pooling, normalization=name)(a)
        assert out[1].isnan().all()
        assert torch.equal(out[::2], Postprocessor(pooling=pooling, normalization=name)(a[::2]))


def test_quantile_is_not_ruled_by_an_outlier():
    a = torch.cat([torch.linspace(-1, 1, 199), torch.tensor([1000.0])])[None]
    scaled = NORMALIZATIONS.create("quantile:quantile=0.95")(a)
    assert scaled.abs().max() == 1
    assert scaled[0, 0] < -0.9
    sparse = torch.zeros(1, 500)
    sparse[0, 7] = 4.0
    assert NORMALIZATIONS.create("quantile")(sparse).max() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    a = torch.randn(2, 3, 4, 4).to(dtype)
    for pooling in POOLINGS:
        for normalization in NORMALIZATIONS:
            out = Postprocessor(pooling=pooling, normalization=normalization)(a)
            assert out.dtype == dtype
            assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_a_loss_may_go_through_a_pooling(name):
    a = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Postprocessor(pooling=name, normalization="maxabs"), (a,))
    zero = torch.zeros(2, 3, 4, requires_grad=True)
    Postprocessor(pooling=name)(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_structures_and_specs():
    post = Postprocessor(pooling="l2norm", normalization="quantile:quantile=0.9", channel_axis=-1)
    images, table = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    both = post({"image": images, "table": table})
    assert both["image"].shape == (2, 3, 4, 1)
    assert torch.equal(both["table"], post(table))
    assert Postprocessor.REGISTRY.create(post.spec()) == post
    assert set(post.get_tunables()) == {"pooling", "normalization"}
    assert post.normalization.get_tunables()


def test_wrong_ones():
    with pytest.raises(UnknownNameError, match="unknown pooling 'l2nrm'; did you mean 'l2norm'"):
        Postprocessor(pooling="l2nrm")
    with pytest.raises(InvalidInputError, match="channel_axis=4 is no axis of a sample"):
        Postprocessor(channel_axis=4)(torch.zeros(2, 3, 4))
    with pytest.raises(InvalidInputError, match="batch axis"):
        Postprocessor(channel_axis=0)
    with pytest.raises(InvalidTypeError, match=r"floating-point numbers, got torch\.int64"):
        Postprocessor()(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(InvalidTypeError, match="attributions must be a tensor"):
        Postprocessor()("image")
    with pytest.raises(InvalidInputError, match="must be > 0 and <= 1, got 1.5"):
        NORMALIZATIONS.create("quantile:quantile=1.5")


def test_every_pooling_ranks_for_a_metric():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)), torch.randn(2, 3, 4, 4)
    found = {p: AbPC(pooling=p, n_steps=4).evaluate(Gradient(model), x, 1).tolist() for p in POOLINGS}
    assert found["l2norm"] == found["l2normsq"]  # one ranking
    assert found["sum"] == found["mean"]
    assert len({tuple(v) for v in found.values()}) > 6
