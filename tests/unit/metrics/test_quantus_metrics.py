"""The metrics of removal, stability, localisation and randomisation that Quantus has, on the same input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import (
    IROF,
    AttributionLocalisation,
    Consistency,
    Continuity,
    EfficientMPRT,
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Focus,
    MonotonicityArya,
    MonotonicityNguyen,
    RegionPerturbation,
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
    Selectivity,
    SensitivityN,
    SmoothMPRT,
    Sufficiency,
)
from xaikit.metrics.mosaics import mosaics
from xaikit.metrics.mprt_variants import fully_randomised
from xaikit.metrics.random_subsets import uniform_draws
from xaikit.transforms.feature_masks import Grid

STABILITY = {
    "Input": RelativeInputStability,
    "Output": RelativeOutputStability,
    "Representation": RelativeRepresentationStability,
}
BY_MAX = {"normalise_func": "normalise_by_max"}


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Tanh(), nn.Linear(9, 3)).double()


trapezoid = getattr(np, "trapezoid", None) or np.trapz  # NumPy 1 has another name


class FromSingle(nn.Module):
    """Quantus gives a model float32, and only float64 shows 1e-6."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.double())


@pytest.fixture
def case():
    """A model, images (5, 1, 8, 8) with a smallest value of 0, classes, and attributions without ties."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 1, 8, 8, generator=generator).double()  # of float32, which Quantus reads
    x[:, 0, 0, 0] = 0  # "black", Quantus' baseline, is the smallest value
    a = torch.randn(5, 1, 8, 8, generator=generator).double()
    return net(), x, torch.tensor([0, 1, 2, 1, 0]), a


@pytest.mark.parametrize("step", [1, 4])
def test_faithfulness_estimate(quantus, case, step):
    model, x, y, a = case
    theirs = quantus.metric(
        "FaithfulnessEstimate", FromSingle(model), x, y, a, features_in_step=step, perturb_baseline="black"
    )
    ours = FaithfulnessEstimate(n_steps=64 // step).evaluate(Gradient(model), x, y, a)
    assert np.allclose(ours, theirs, atol=1e-6)


def test_monotonicity_by_nguyen(quantus, case):
    model, x, y, a = case
    options = {"features_in_step": 4, "perturb_baseline": "black", "nr_samples": 1}
    theirs = quantus.metric("MonotonicityCorrelation", FromSingle(model), x, y, a.abs(), **options)
    metric = MonotonicityNguyen(n_steps=16, replacement="baseline")
    assert np.allclose(metric.evaluate(Gradient(model), x, y, a), theirs, atol=1e-6)


def test_uncertainty_is_that_of_uniform_values(case):
    model, x, y, a = case
    ours = MonotonicityNguyen(n_steps=4, n_iter=6).evaluate(Gradient(model), x, y, a, seed=2)
    (draws,) = uniform_draws((x,), 6, 2)
    for i in range(5):
        order, score = a[i].abs().flatten().argsort(descending=True), model(x)[i, y[i]]
        sums, spreads = [], []
        for group in order.split(16):
            sums.append(a[i].abs().flatten()[group].sum().item())
            changed = x[i].flatten().repeat(6, 1)
            values = x[i].min() + draws.flatten(1) * (x[i].max() - x[i].min())
            changed[:, group] = values[:, group]
            spreads.append((model(changed.view(6, 1, 8, 8))[:, y[i]] - score).square().mean().item())
        assert np.isclose(ours[i], stats.spearmanr(sums, spreads)[0])


def test_monotonicity_by_arya(case):
    """By a plain loop. (Quantus puts the baseline over the baseline, so that it always finds monotony.)"""
    model, x, y, _ = case
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    for chosen, explainer in ((model, Gradient(model)), (linear, GradientXInput(linear))):
        a = explainer.attribute(x, y)
        ours = MonotonicityArya(n_steps=64).evaluate(explainer, x, y, a)
        for i in range(5):
            outputs, changed = [], torch.zeros(64).double()
            for j in a[i].flatten().argsort():
                changed[j] = x[i].flatten()[j]
                outputs.append(chosen(changed.view(1, 1, 8, 8))[0, y[i]].item())
            assert ours[i] == float((np.diff(outputs) >= 0).all())
    with torch.no_grad():
        linear[1].weight.abs_()
    assert MonotonicityArya().evaluate(GradientXInput(linear), x, y).tolist() == [1] * 5  # nothing speaks against


def test_region_perturbation_and_selectivity(quantus, case):
    model, x, y, a = case
    options = {"patch_size": 4, "perturb_baseline": "black"}
    drops = np.array(quantus.metric("RegionPerturbation", FromSingle(model), x, y, a, **options))
    grid = Grid(n_patches=2)
    aopc = RegionPerturbation(feature_mask=grid).evaluate(Gradient(model), x, y, a)
    assert np.allclose(aopc, drops.sum(1) / 5, atol=1e-6)  # the drop of 0 before the first region counts, as in eq. 12
    few = RegionPerturbation(feature_mask=grid, n_regions=2).evaluate(Gradient(model), x, y, a)
    assert np.allclose(few, drops[:, :2].sum(1) / 3, atol=1e-6)
    outputs = np.array(quantus.metric("Selectivity", FromSingle(model), x, y, a, **options))
    start = model(x).gather(1, y[:, None]).detach().numpy()
    expected = trapezoid(np.concatenate([start, outputs], 1), dx=0.25, axis=1)
    assert np.allclose(Selectivity(feature_mask=grid).evaluate(Gradient(model), x, y, a), expected, atol=1e-6)


def test_irof(quantus, case):
    """Quantus leaves out the step from the whole image to the first removal, and does not divide by their number."""
    _, x, y, a = case
    x, a = (torch.nn.functional.interpolate(t, (32, 32)) for t in (x, a))
    a = a + torch.linspace(0, 1e-3, 32).double()
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1)).double()
    theirs = np.array(quantus.metric("IROF", FromSingle(model), x, y, a, perturb_baseline="black"))
    segments = quantus.function("get_superpixel_segments", img=x[0].movedim(0, -1).numpy(), segmentation_method="slic")
    ids = torch.tensor(segments)
    metric = IROF(feature_mask=ids[None], output="score", baseline=0.0)
    one = [t[:1] for t in (x, y, a)]
    explained, changed = [model(one[0])[0, y[0]].item()], one[0].clone()
    means = torch.stack([a[0][:, ids == s].mean() for s in range(int(ids.max()) + 1)])
    for s in means.argsort(descending=True):
        changed[:, :, ids == s] = 0
        explained.append(model(changed)[0, y[0]].item())
    ratio = np.array(explained) / explained[0]
    count = len(ratio) - 1
    assert np.isclose(theirs[0], count - trapezoid(ratio[1:]), atol=1e-6)
    assert np.isclose(metric.evaluate(Gradient(model), *one)[0], 1 - trapezoid(ratio) / count, atol=1e-9)


def test_sensitivity_n_is_the_correlation_of_each_size(case):
    model, x, y, a = case
    ours = SensitivityN(n_iter=20, n_sizes=2, largest=0.5).evaluate(Gradient(model), x, y, a, seed=1)

    options = [{"share": 1 / 64}, {"share": 0.5}]
    parts = [
        FaithfulnessCorrelation(n_iter=20, **o).evaluate(Gradient(model), x, y, a, seed=1 + i)
        for i, o in enumerate(options)
    ]
    assert torch.allclose(ours, torch.stack(parts).mean(0))


def test_neighbours(quantus, case):
    model, x, y, a = case
    theirs = quantus.metric(
        "Sufficiency", FromSingle(model), x, y, a, threshold=0.9, functions={"normalise_func": "normalise_by_max"}
    )
    ours = Sufficiency(threshold=0.9).evaluate(Gradient(model), x, y, a)
    assert np.allclose(ours.nan_to_num(0), theirs, atol=1e-6)  # without neighbours: 0 there, NaN here
    signs = a.sign()
    signs[3:] = signs[:2]
    theirs = quantus.metric("Consistency", FromSingle(model), x, y, signs, discretise_by_all=True)
    ours = Consistency(k=64).evaluate(Gradient(model), x, y, signs)
    assert np.allclose(ours.nan_to_num(0), theirs, atol=1e-6)
    classes = model(x).argmax(1)
    expected = [float(classes[i] == classes[j]) for i, j in ((0, 3), (1, 4), (3, 0), (4, 1))]
    assert ours[[0, 1, 3, 4]].tolist() == expected
    assert ours[2].isnan()


def test_continuity(quantus, case):
    model, x, y, _ = case
    made = Gradient(model)

    def explain(model, inputs, targets, **_):
        return made.attribute(torch.as_tensor(inputs).double(), torch.as_tensor(targets)).numpy()

    options = {"nr_steps": 8, "call": {"explain_func": explain}}
    theirs = quantus.metric("Continuity", FromSingle(model), x, y, made.attribute(x, y), **options)
    ours = Continuity(n_steps=8).evaluate(made, x, y)
    assert np.allclose(ours, theirs, rtol=1e-6)
    assert torch.allclose(Continuity(n_steps=8, max_rows=7).evaluate(made, x, y), ours)


@pytest.mark.parametrize("name", ["Input", "Output", "Representation"])
def test_relative_stability(quantus, case, monkeypatch, name):
    model, x, y, _ = case
    x = (1024 * x).round() / 1024 + 0.125
    made = GradientXInput(model)
    (draws,) = uniform_draws((x,), 6, 0)
    moves = (10 * (2 * draws - 1)).round() / 1024  # that float32 can add exactly
    cls = STABILITY[name]
    monkeypatch.setattr(cls, "_moves", lambda self, context: [moves])
    points = iter(moves.flatten(1).numpy())

    def explain(model, inputs, targets, **_):
        return made.attribute(torch.as_tensor(inputs).double(), torch.as_tensor(targets)).numpy()

    options = {"nr_samples": 6, "perturb_func": lambda arr, **_: arr + next(points)}
    options |= {"call": {"explain_func": explain}}
    options |= {"layer_names": ["model.1", "model.3"]} if name == "Representation" else {}
    a = made.attribute(x, y)
    theirs = quantus.metric(f"Relative{name}Stability", FromSingle(model), x, y, a, **options)
    settings = {"representation": ("1", "3")} if name == "Representation" else {}
    ours = cls(n_iter=6, **settings).evaluate(made, x, y)
    assert np.isfinite(theirs).all()
    assert np.allclose(ours, theirs, rtol=1e-6)
    assert torch.allclose(cls(n_iter=6, max_rows=4, **settings).evaluate(made, x, y), ours)


def test_representation_is_what_goes_into_the_last_layer(case):
    model, x, y, _ = case
    default, named = (
        RelativeRepresentationStability(n_iter=3, representation=r).evaluate(GradientXInput(model), x, y)
        for r in (None, "2")
    )
    assert torch.allclose(default, named)


def test_points_with_another_prediction_do_not_count():
    class Step(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)

    x = torch.zeros(2, 1, 2, 2).double()
    x[:] = torch.tensor([[1e-9], [5.0]]).view(2, 1, 1, 1)
    found = RelativeInputStability(n_iter=1)
    values = [found.evaluate(GradientXInput(Step()), x, 0, seed=s) for s in range(8)]
    assert all(v[1].isfinite() for v in values)
    assert any(v[0].isnan() for v in values)


def test_localisation(quantus, case):
    model, x, y, a = case
    masks = torch.zeros(5, 1, 8, 8)
    masks[:, :, 2:7, 1:4] = 1
    for positive, values in ((True, a), (False, a + 2)):
        options = {"positive_attributions": positive, "call": {"s_batch": masks.numpy()}}
        theirs = quantus.metric("AttributionLocalisation", FromSingle(model), x, y, values, **options)
        metric = AttributionLocalisation(positive=positive)
        ours = metric.evaluate(Gradient(model), x, y, values, relevant_region=masks)
        assert np.allclose(ours, theirs, atol=1e-6)
    weighted = AttributionLocalisation(weighted=True).evaluate(
        Gradient(model), x, y, torch.ones_like(a), relevant_region=masks
    )
    assert torch.allclose(weighted, torch.ones(5).double())
    quadrants = [(1, 0, 0, 1), (0, 1, 1, 0), (1, 1, 0, 0), (0, 1, 0, 1), (0, 0, 1, 1)]
    theirs = quantus.metric("Focus", FromSingle(model), x, y, a, call={"custom_batch": quadrants})
    tiles = torch.tensor(quadrants).view(5, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert np.allclose(Focus().evaluate(Gradient(model), x, y, a, relevant_region=tiles), theirs, atol=1e-6)


def test_mosaics():
    images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 3).numpy()
    made = mosaics(images, [0, 1, 0, 1, 2, 0], 20)
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    assert made.images.shape == (20, 1, 4, 6)
    for image, target, region in zip(*made, strict=True):
        assert torch.equal(labels[image[0].long()] == target, region)
        assert len(image.unique()) == 4
        assert int(region.sum()) == 12
    assert set(made.targets.tolist()) == {0, 1}  # class 2 has one image
    assert torch.equal(mosaics(images, labels, 20).images, made.images)
    with pytest.raises(InvalidInputError, match="two images"):
        mosaics(images, range(6), 2)
    with pytest.raises(InvalidInputError, match="label for each"):
        mosaics(images, [0, 1], 2)


def test_randomisation_variants(case):
    model, x, y, _ = case

    class Same(GradientXInput):
        """An explanation that does not depend on the model."""

        NAME = ""

        def _attribute(self, call):
            return tuple(t * torch.linspace(-1, 2, 64).view(1, 8, 8) for t in call.inputs)

    assert EfficientMPRT().evaluate(Same(model), x, y).abs().max() == 0
    assert torch.allclose(SmoothMPRT().evaluate(Same(model), x, y), torch.ones(5).double())
    assert (SmoothMPRT().evaluate(GradientXInput(model), x, y) < 0.9).all()
    a = GradientXInput(model).attribute(x, y)
    once = SmoothMPRT(n_iter=1, similarity="pearson").evaluate(GradientXInput(model), x, y)
    entropy = [stats.entropy(np.histogram(one.numpy(), 100)[0]) for one in a]  # Quantus' discrete_entropy
    metric = EfficientMPRT()
    assert np.allclose(metric._complexity((a,)), entropy, atol=1e-6)
    # Both randomise the model alike.
    kept = {}

    def record(context):
        (kept["random"],) = fully_randomised(context, lambda trial: trial.attribute(context.targets))

    metric._measure(record, GradientXInput(model), x, y, None, seed=0)
    expected = [stats.pearsonr(p.flatten(), q.flatten())[0] for p, q in zip(a, kept["random"], strict=True)]
    assert np.allclose(once, expected)
    rise = (metric._complexity((kept["random"],)) - metric._complexity((a,))) / metric._complexity((a,))
    assert torch.allclose(metric.evaluate(GradientXInput(model), x, y), rise)


def test_nothing_to_perturb_or_compare(case):
    model, x, y, _ = case
    table = nn.Linear(4, 3).double()
    with pytest.raises(InvalidInputError, match="moves images, series or texts"):
        Continuity().evaluate(Gradient(table), torch.randn(2, 4).double(), 0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()
    for metric in (Sufficiency(), Consistency()):
        with pytest.raises(InvalidInputError, match=r"two classes, got \(5, 1\)"):
            metric.evaluate(Gradient(one), x)
    with pytest.raises(InvalidInputError, match="at least two attributions"):
        EfficientMPRT().evaluate(Gradient(nn.Linear(1, 2)), torch.randn(3, 1), 0)
