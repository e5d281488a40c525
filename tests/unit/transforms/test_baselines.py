"""Baselines against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import nn

from xaikit.core import BASELINES, EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import Gradient, IntegratedGradients
from xaikit.metrics import MoRF
from xaikit.transforms import Blur, Invert, Sample, TokenId


def test_values():
    x = torch.rand(2, 3, 4, 5)
    assert not BASELINES.create("zeros")(x).any()
    assert torch.equal(BASELINES.create(0.5)(x), torch.full_like(x, 0.5))
    assert torch.allclose(BASELINES.create("mean")(x)[1, 2], x[1, 2].mean().expand(4, 5))
    assert torch.allclose(BASELINES.create("mean")(torch.tensor([[1.0, 3.0]])), torch.tensor([[2.0, 2.0]]))
    given = torch.rand(3, 4, 5)
    assert torch.equal(BASELINES.create(given)(x)[1], given)


def test_uniform_stays_in_range_and_repeats():
    x = torch.rand(2, 3, 4) * torch.tensor([1.0, 10.0])[:, None, None]
    noise = BASELINES.create("uniform")(x)
    assert torch.equal(noise, BASELINES.create("uniform")(x))
    assert torch.equal(noise[1:], BASELINES.create("uniform")(x[1:]))
    for sample, drawn in zip(x, noise, strict=True):
        assert sample.min() <= drawn.min()
        assert drawn.max() <= sample.max()


def test_wrong_ones():
    with pytest.raises(InvalidInputError, match=r"shape of one sample \(3,\) or of the batch \(2, 3\), got \(4,\)"):
        BASELINES.create(torch.zeros(4))(torch.zeros(2, 3))
    with pytest.raises(InvalidTypeError, match="expected baseline"):
        BASELINES.create(object())


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 30.0])
@pytest.mark.parametrize("shape", [(2, 9), (2, 3, 9), (2, 3, 5, 7), (1, 2, 3, 4, 5)], ids=str)
def test_blur_is_scipys(sigma, shape):
    x = torch.randn(shape, dtype=torch.float64)
    axes = range(2, x.ndim) if x.ndim > 2 else [1]
    expected = x.numpy()
    for axis in axes:
        expected = gaussian_filter1d(expected, sigma, axis=axis, mode="nearest", radius=max(1, round(4 * sigma)))
    blurred = BASELINES.create(f"blur:sigma={sigma}")(x)
    assert np.allclose(blurred.numpy(), expected, atol=1e-12)
    if x.ndim > 2:
        last = Blur(sigma=sigma, channel_axis=-1)(x.movedim(1, -1))
        assert torch.allclose(last.movedim(-1, 1), blurred)


def test_blur_of_low_precision_and_of_constants():
    assert Blur()(torch.full((1, 3, 8, 8), 0.25)).allclose(torch.tensor(0.25))
    x = torch.rand(1, 3, 8, 8, dtype=torch.bfloat16)
    assert Blur()(x).dtype == torch.bfloat16
    assert set(Blur().get_tunables()) == {"sigma"}


def test_invert_mirrors_each_sample():
    x = torch.tensor([[0.0, 1.0, 4.0], [-2.0, -2.0, 2.0]])
    assert BASELINES.create("invert")(x).tolist() == [[4.0, 3.0, 0.0], [2.0, 2.0, -2.0]]
    image = torch.rand(2, 3, 4, 4)
    assert torch.allclose(Invert()(Invert()(image)), image)


def test_a_drawn_sample():
    data, x = torch.rand(50, 3, 4), torch.rand(6, 3, 4)
    drawn = Sample(samples=data)(x)
    assert any(torch.equal(drawn[0], sample) for sample in data)
    assert torch.equal(drawn[2:3], Sample(samples=data)(x[2:3]))
    assert len({Sample(samples=data, random_state=i)(x)[0, 0, 0].item() for i in range(20)}) > 10
    far = Sample(samples=data, pick="farthest")(x)
    distance = np.abs(x.numpy()[:, None] - data.numpy()[None]).sum((2, 3))
    assert torch.equal(far, data[distance.argmax(1)])
    assert torch.equal(far[3:4], Sample(samples=data, pick="farthest")(x[3:4]))
    assert BASELINES.create(Sample(samples=data).spec()) == Sample(samples=data)
    with pytest.raises(InvalidInputError, match=r"must be \(M, 3, 4\), M > 0, got \(3, 4\)"):
        Sample(samples=data[0])(x)
    with pytest.raises(InvalidInputError, match=r"got \(0, 3, 4\)"):
        Sample(samples=data[:0])(x)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4).double()
        self.positions = nn.Parameter(torch.randn(5, 4).double())
        self.mixed = nn.Identity()
        self.head = nn.Linear(4, 3).double()

    def forward(self, ids):
        hidden = self.mixed(self.embedding(ids) + self.positions)
        return self.head(torch.tanh(hidden).mean(1))


def test_a_token_at_the_embedding_and_deeper():
    model, ids = Reader(), torch.tensor([[1, 4, 5, 3, 2], [1, 6, 2, 0, 0]])
    absent = torch.tensor([[1, 3, 3, 3, 2], [1, 3, 2, 3, 3]])
    token = TokenId(token=3, keep=(1, 2))
    assert torch.equal(token(ids), absent)
    for layer in ("embedding", "mixed"):
        explainer = IntegratedGradients(model, layer=layer, baseline=token, n_steps=100)
        attribution = explainer.attribute(ids, 1)
        change = (model(ids) - model(absent))[:, 1]
        assert torch.allclose(attribution.sum((1, 2)), change, atol=1e-8)
        assert not attribution[0, 3].any()  # the token itself
        assert torch.allclose(attribution[1:], explainer.attribute(ids[1:], 1))
    flipped = MoRF(n_steps=5, baseline=token, output="score")
    curve = flipped.curves(IntegratedGradients(model, layer="embedding", baseline=token), ids, 1)
    assert torch.allclose(curve.morf[:, -1], model(absent)[:, 1])
    ablation = EXPLAINERS.create("captum.feature_ablation", layer="embedding", baseline=token, feature_mask="tokens")
    first = ids.clone()
    first[:, 1] = 3
    assert torch.allclose(ablation.bind(model).attribute(ids, 1)[:, 1].sum(-1), (model(ids) - model(first))[:, 1])


def test_a_token_for_some_of_the_samples():
    model, ids = Reader(), torch.tensor([[1, 4, 5, 3, 2], [1, 6, 2, 0, 0], [5, 5, 5, 5, 5]])
    token, seen = TokenId(token=3, keep=(1,)), []

    class Parts(Gradient):
        def _attribute(self, call):
            seen.append((token.of(call)[0], token.of(call.at(slice(1, 3)))[0]))
            return call.inputs

    Parts(model, layer="mixed").attribute(ids, 0)
    ((whole, part),) = seen
    assert torch.equal(part, whole[1:])


def test_a_token_beside_another_input():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader, self.table = Reader(), nn.Linear(2, 3).double()
            self.columns = nn.Identity()

        def forward(self, ids, table):
            return self.reader(ids) + self.table(self.columns(table))

    model, ids, table = Both(), torch.tensor([[1, 4, 5, 3, 2]]), torch.randn(1, 2).double()
    explainer = IntegratedGradients(
        model, layer=("reader.embedding", "columns"), baseline=("token_id:token=3", 0.5), n_steps=100
    )
    words, columns = explainer.attribute((ids, table), 0)
    change = (model.reader(ids) - model.reader(torch.full_like(ids, 3)))[:, 0]
    assert torch.allclose(words.sum((1, 2)), change)
    assert torch.allclose(columns, model.table.weight[0] * (table - 0.5))


def test_a_penalty_reaches_the_token_of_the_baseline():
    model, ids = Reader(), torch.tensor([[1, 4, 5, 4, 2]])
    explainer = IntegratedGradients(model, layer="embedding", baseline="token_id:token=3", n_steps=4)
    explainer.attribute(ids, 1, create_graph=True)[:, :, 0].square().sum().backward()
    weight = model.embedding.weight
    for row, column in ((3, 0), (3, 2), (4, 0)):
        moved = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[row, column] += step
                moved.append(explainer.attribute(ids, 1)[:, :, 0].square().sum())
                weight[row, column] -= step
        assert torch.isclose(weight.grad[row, column], (moved[0] - moved[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def test_tokens_that_cannot_be():
    model, ids = Reader(), torch.tensor([[1, 4, 5, 4, 2]])
    with pytest.raises(InvalidInputError, match=r"the tokens 0\.\.6 only"):
        IntegratedGradients(model, layer="embedding", baseline="token_id:token=7").attribute(ids, 0)
    with pytest.raises(InvalidTypeError, match="stands in for token ids, got torch.float32"):
        IntegratedGradients(nn.Linear(3, 1), baseline="token_id:token=1").attribute(torch.rand(2, 3), 0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    with pytest.raises(InvalidTypeError, match="stands in for token ids"):
        IntegratedGradients(net, layer="0", baseline="token_id:token=1").attribute(torch.rand(2, 3), 0)
    with pytest.raises(InvalidTypeError, match="needs the setting 'token'"):
        BASELINES.create("token_id")
    with pytest.raises(InvalidTypeError, match="keep must be a tuple of token ids, got 3"):
        TokenId(token=0, keep=3)


def test_one_baseline_for_each_input():
    pair = BASELINES.create(("blur", 0.5))
    assert BASELINES.create(pair.spec()) == pair
    with pytest.raises(InvalidInputError, match="takes all inputs together"):
        pair(torch.rand(2, 3))
    with pytest.raises(InvalidTypeError, match="must be a tuple of baselines"):
        BASELINES.get("per_input")(items=())
