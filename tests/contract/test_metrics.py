"""Every registered metric keeps every promise: a new one inherits these tests without a line."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from xaikit.core import METRICS, Explainer
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.testing import state_of
from xaikit.transforms import Postprocessor

N = 6
# The clock and the allocator measure a batch on a machine: no truth to beat, nothing to repeat to the last bit.
COST = {"seconds", "peak_memory"}
OTHERS = [name for name in METRICS if name not in COST]
# On a linear model w * x is the truth, but what must not move with the input's offset is w.
ORACLES = {"input_invariance": Gradient}
pytestmark = pytest.mark.filterwarnings("ignore:TopKIntersection.k=100 looks at all")
SETTINGS = {"top_k_intersection": {"k": 8}}  # of 64 places
FOR_CLASSES = {"random_logit", "consistency", "sufficiency"}
OF_A_BATCH = {"consistency", "sufficiency"}  # compare a sample with others: NaN alone
# Metrics for which this linear model is no test; each has its truth in tests/unit/metrics/.
TRUTH_ELSEWHERE = {"monotonicity_arya", *OF_A_BATCH}


class Chance(Explainer):
    """Random attributions that change with the input and do not depend on the model."""

    def _attribute(self, call):
        return tuple(torch.sin(1e4 * x) for x in call.inputs)


def quadrants():
    """A linear model whose class c reads quadrant c, positive images, targets, and where each target's class looks."""
    generator = torch.Generator().manual_seed(0)
    reads = torch.zeros(3, 8, 8)
    for c, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
        reads[c, row : row + 4, column : column + 4] = 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).double()
    weights = torch.rand(3, 2, 8, 8, generator=generator) * reads[:, None]
    model[1].weight.data = weights.flatten(1).double()
    y = torch.arange(N) % 3
    return model, torch.rand(N, 2, 8, 8, generator=generator).double(), y, reads[y]


@pytest.mark.parametrize("name", list(METRICS))
def test_a_number_per_sample_whatever_the_batch(name):
    model, x, y, masks = quadrants()
    explainer, metric = GradientXInput(model), METRICS.create(name)
    assert metric.DIRECTION in ("maximize", "minimize")
    found = metric.evaluate(explainer, x, y, relevant_region=masks)
    assert found.shape == (N,)
    assert not found.requires_grad
    if name not in OF_A_BATCH:
        assert bool(torch.isfinite(found).all())
    if name in COST:
        assert bool((found > 0).all())
        return
    if name in OF_A_BATCH:
        assert torch.allclose(found, metric.evaluate(explainer, x, y, relevant_region=masks), equal_nan=True)
        return
    assert torch.equal(found, metric.evaluate(explainer, x, y, relevant_region=masks))
    assert torch.equal(found, metric.evaluate(explainer, x, y, explainer.attribute(x, y), relevant_region=masks))
    alone = [metric.evaluate(explainer, x[i : i + 1], y[i], relevant_region=masks[i : i + 1]) for i in range(N)]
    assert torch.allclose(found, torch.cat(alone), atol=1e-9)


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in TRUTH_ELSEWHERE])
def test_the_truth_beats_chance(name):
    model, x, y, masks = quadrants()
    metric = METRICS.create(name, **SETTINGS.get(name, {}))
    truth = metric.evaluate(ORACLES.get(name, GradientXInput)(model), x, y, relevant_region=masks).mean()
    chance = metric.evaluate(Chance(model), x, y, relevant_region=masks).mean()
    assert (truth > chance) == (metric.DIRECTION == "maximize")
    assert abs(truth - chance) > 1e-3


@pytest.mark.parametrize("name", list(METRICS))
def test_spec_goes_round(name):
    metric = METRICS.create(name)
    assert METRICS.create(json.loads(json.dumps(metric.spec()))) == metric


@pytest.mark.parametrize("name", list(METRICS))
def test_the_model_stays_as_it_was_also_after_an_exception(name):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(108, 3))
    x, y, masks = torch.rand(N, 2, 8, 8), torch.arange(N) % 3, torch.ones(N, 8, 8)
    masks[:, 0] = 0
    explainer, metric = Gradient(model), METRICS.create(name)
    attributions, state, random = explainer.attribute(x, y), state_of(model), torch.random.get_rng_state()
    metric.evaluate(explainer, x, y, attributions, relevant_region=masks)
    assert state_of(model) == state
    assert torch.equal(random, torch.random.get_rng_state())
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) > 2:
            raise RuntimeError("the third pass fails")

    handle = model[4].register_forward_hook(fail)
    try:
        metric.evaluate(explainer, x, y, attributions, relevant_region=masks)
    except RuntimeError as err:
        assert "third pass" in str(err)  # noqa: PT017
    handle.remove()
    assert state_of(model) == state


@pytest.mark.parametrize("name", OTHERS)
def test_pooled_attributions(name):
    model, x, y, masks = quadrants()
    explainer, metric, pool = GradientXInput(model), METRICS.create(name), Postprocessor()
    found = metric.evaluate(explainer, x, y, relevant_region=masks, postprocess=pool)
    given = metric.evaluate(explainer, x, y, pool(explainer.attribute(x, y)), relevant_region=masks, postprocess=pool)
    assert found.shape == (N,)
    if name in OF_A_BATCH:
        assert torch.allclose(found, given, equal_nan=True)
        return
    assert bool(torch.isfinite(found).all())
    assert torch.equal(found, given)
    try:
        alone = metric.evaluate(explainer, x, y, pool(explainer.attribute(x, y)), relevant_region=masks)
    except InvalidInputError as err:
        assert "give postprocess=" in str(err)  # noqa: PT017
    else:
        assert torch.equal(found, alone)


@pytest.mark.parametrize("name", OTHERS)
def test_a_sample_without_a_finite_attribution_is_nan_and_the_others_are_not(name):
    model, x, y, masks = quadrants()
    explainer, metric = GradientXInput(model), METRICS.create(name)
    attributions = explainer.attribute(x, y)
    attributions[2, 0, 3, 3] = torch.nan
    found = metric.evaluate(explainer, x, y, attributions, relevant_region=masks)
    whole = metric.evaluate(explainer, x, y, relevant_region=masks)
    if name in OF_A_BATCH:
        assert found[2].isnan()
        return
    assert found.isnan().tolist() == [i == 2 for i in range(N)]
    assert torch.allclose(found[[0, 1, 3, 4, 5]], whole[[0, 1, 3, 4, 5]], atol=1e-9)


@pytest.mark.parametrize("name", list(METRICS))
def test_a_model_of_low_precision(name):
    model, x, y, masks = quadrants()
    explainer, metric = Gradient(model.bfloat16()), METRICS.create(name)
    found = metric.evaluate(explainer, x.bfloat16(), y, relevant_region=masks)
    assert found.shape == (N,)
    assert found.dtype in (torch.float32, torch.float64)
    assert bool(torch.isfinite(found).all())


class TwoImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 3), nn.Linear(16, 3)

    def forward(self, image, other):
        return (self.first(image.flatten(1)) * self.second(other.flatten(1))).tanh()


@pytest.mark.parametrize("name", list(METRICS))
def test_several_inputs(name):
    inputs = torch.rand(N, 2, 4, 4), torch.rand(N, 1, 4, 4)
    masks = (torch.rand(N, 4, 4) > 0.5), (torch.rand(N, 1, 4, 4) > 0.5)
    explainer, metric = GradientXInput(TwoImages()), METRICS.create(name)
    found = metric.evaluate(explainer, inputs, 1, relevant_region=masks)
    assert found.shape == (N,)
    named = metric.evaluate(explainer, dict(zip(("image", "other"), inputs, strict=True)), 1, relevant_region=masks)
    assert name in COST or torch.allclose(found, named, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", list(METRICS))
def test_a_single_output(name):
    model, x, masks = (
        nn.Sequential(nn.Flatten(), nn.Linear(16, 1)),
        torch.rand(N, 1, 4, 4),
        torch.eye(4).repeat(N, 1, 1),
    )
    nn.init.ones_(model[1].bias)  # `irof` is a share of the score, which must be above 0
    metric, explainer = METRICS.create(name), GradientXInput(model)
    if name in FOR_CLASSES:
        with pytest.raises(InvalidInputError, match="several outputs|at least two classes"):
            metric.evaluate(explainer, x, relevant_region=masks)
        return
    assert bool(torch.isfinite(metric.evaluate(explainer, x, relevant_region=masks)).all())


@pytest.mark.parametrize("name", list(METRICS))
def test_a_hidden_layer(name):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3))
    x, y, masks = torch.rand(N, 2, 8, 8), torch.arange(N) % 3, torch.eye(6).repeat(N, 1, 1)
    explainer, metric = GradientXInput(model, layer="1"), METRICS.create(name)
    found = metric.evaluate(explainer, x, y, relevant_region=masks)
    assert found.shape == (N,)
    alone = [metric.evaluate(explainer, x[i : i + 1], y[i], relevant_region=masks[i : i + 1]) for i in range(N)]
    assert name in COST | OF_A_BATCH or torch.allclose(found, torch.cat(alone), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", list(METRICS))
def test_tokens_at_their_embedding(name):
    model = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Tanh(), nn.Linear(28, 3))
    tokens, masks = torch.randint(0, 11, (N, 7)), torch.arange(7).expand(N, 7) < 3
    explainer, metric = GradientXInput(model, layer="0"), METRICS.create(name)
    if "channel_axis" in metric.SETTINGS:
        metric = metric.set_kwargs(channel_axis=-1)
    assert metric.evaluate(explainer, tokens, 1, relevant_region=masks).shape == (N,)


@pytest.mark.parametrize("name", [n for n in METRICS if METRICS.get(n).NEEDS_MASK])
def test_a_mask_that_is_missing_or_cannot_be_right(name):
    model, x, y, masks = quadrants()
    metric, explainer = METRICS.create(name), GradientXInput(model)
    with pytest.raises(InvalidInputError, match="give relevant_region="):
        metric.evaluate(explainer, x, y)
    for wrong in (masks[:4], torch.ones(N, 5, 7), torch.ones(3), torch.ones(N, 3, 8, 8), (masks, masks)):
        with pytest.raises(InvalidInputError, match=r"masks|relevant_region"):
            metric.evaluate(explainer, x, y, relevant_region=wrong)
    with pytest.raises(InvalidInputError, match="booleans or 0 and 1"):
        metric.evaluate(explainer, x, y, relevant_region=0.5 * masks)
    forms = [masks, masks[:, None], masks.bool(), masks[:, None].expand(N, 2, 8, 8), masks.numpy()]
    found = [metric.evaluate(explainer, x, y, relevant_region=form) for form in forms]
    assert all(torch.equal(found[0], other) for other in found[1:])
    same = metric.evaluate(explainer, x, y, relevant_region=masks[0])
    assert torch.equal(same, metric.evaluate(explainer, x, y, relevant_region=masks[:1].expand(N, 8, 8)))
    empty = masks.clone()
    empty[1] = 0
    assert metric.evaluate(explainer, x, y, relevant_region=empty).isnan().tolist() == [i == 1 for i in range(N)]
